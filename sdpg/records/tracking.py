"""Logs to MLflow: a parent run per pipeline, a child per stage run; a resumed stage goes on in its own run."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import time
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

from sdpg.errors import Interrupted
from sdpg.params import Params
from sdpg.records.mlflow_store import connect, store_lock
from sdpg.records.provenance import fingerprint, git_state, hardware, versions

FINGERPRINT_TAG = "sdpg.fingerprint"
STAGE_TAG = "sdpg.stage"
NOT_THE_PIPELINES = {"tracking", "tune"}
"""Sections that no stage's result depends on."""
SYSTEM_METRICS_INTERVAL = 10
"""Seconds between two samples of the system metrics."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns leaf path → text, the form of MLflow's parameters."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = str(value)
    return leaves


@dataclass(frozen=True)
class Parent:
    """The run under which a stage's run stands."""

    kind: str
    """``pipeline`` or ``study``."""
    name: str
    identity: str
    """The text that tells parents apart: runs of equal kind and identity are one."""
    settings: Mapping[str, Any]
    """The parameters, which are logged once."""


class StageRun:
    """One MLflow run: the record of one stage for one method and seed."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.id = run.info.run_id
        self.last_step = self._last_step()

    def _last_step(self) -> int:
        names = self.client.get_run(self.id).data.metrics
        steps = [
            metric.step
            for name in names
            if not name.startswith("system/")
            for metric in self.client.get_metric_history(self.id, name)
        ]
        return max(steps, default=-1)

    def log_step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Logs a step's metrics at once; a step that was logged before a kill is not logged again."""
        if step <= self.last_step:
            return
        now = int(time.time() * 1000)
        present = [Metric(name, value, now, step) for name, value in metrics.items() if value is not None]
        self.client.log_batch(self.id, metrics=present)
        self.last_step = step

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Stores a file with the run."""
        self.client.log_artifact(self.id, str(path), folder)


def _find_or_create(
    client: MlflowClient, experiment: str, name: str, tags: dict[str, str], statuses: tuple[str, ...]
) -> Run:
    condition = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in (FINGERPRINT_TAG, STAGE_TAG))
    for run in client.search_runs([experiment], condition):
        if run.info.status in statuses:
            return run
    return client.create_run(experiment, tags=tags, run_name=name)


def _log_params(client: MlflowClient, run: Run, leaves: dict[str, str]) -> None:
    known = run.data.params
    new = [Param(key, value[:6000]) for key, value in leaves.items() if key not in known]
    for start in range(0, len(new), 100):
        client.log_batch(run.info.run_id, params=new[start : start + 100])


@contextmanager
def stage_run(
    params: Params,
    stage: str,
    name: str,
    identity: str,
    inputs: Mapping[str, tuple[Path, str]],
    settings: Mapping[str, Any],
    resume: bool = False,
    under: Parent | None = None,
) -> Iterator[StageRun]:
    """Opens this stage's run under the pipeline's parent run, and closes it with the stage's outcome.

    Args:
        params: the pipeline's parameters; their fingerprint identifies the parent run.
        stage: prepare, base, train, evaluate or tabulate.
        name: the name in MLflow's list.
        identity: the fingerprint of this stage's work; an unfinished run of the same identity is continued.
        inputs: data set name → path and digest.
        settings: the parameters, which are logged once.
        resume: whether a finished run is continued as well: its stage was killed before its outputs were taken over.
        under: a parent other than the pipeline.
    """
    client, experiment = connect(params.tracking)
    under = under or _pipeline(params)
    git = git_state()
    tags = {
        "mlflow.source.git.commit": str(git["commit"]),
        "sdpg.git.dirty": str(git["dirty"]),
        "sdpg.dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "sdpg.profile": params.profile,
        "sdpg.preset": params.preset,
        **{f"sdpg.version.{package}": version for package, version in versions().items()},
        **{f"sdpg.hardware.{key}": str(value) for key, value in hardware().items()},
    }
    with store_lock():
        parent = _find_or_create(
            client,
            experiment,
            under.name,
            {FINGERPRINT_TAG: under.identity, STAGE_TAG: under.kind, **tags},
            ("RUNNING", "FINISHED", "FAILED", "KILLED"),
        )
        _log_params(client, parent, flatten(under.settings))
        run = _find_or_create(
            client,
            experiment,
            name,
            {
                FINGERPRINT_TAG: identity,
                STAGE_TAG: stage,
                "mlflow.parentRunId": parent.info.run_id,
                "sdpg.dvc.stage": stage,
                **tags,
            },
            ("RUNNING", "FAILED", "KILLED", *(["FINISHED"] if resume else [])),
        )
    _log_params(client, run, flatten(settings))
    if not run.inputs or not run.inputs.dataset_inputs:
        client.log_inputs(
            run.info.run_id,
            [
                DatasetInput(
                    Dataset(name=data, digest=digest[:36], source_type="local", source=path.as_posix()),
                    [InputTag("mlflow.data.context", stage)],
                )
                for data, (path, digest) in inputs.items()
            ],
        )
    client.update_run(run.info.run_id, status="RUNNING")
    monitor = None
    if params.tracking.system_metrics:
        monitor = SystemMetricsMonitor(
            run.info.run_id, sampling_interval=SYSTEM_METRICS_INTERVAL, resume_logging=True, tracking_uri=None
        )
        monitor.start()
    status = "FAILED"
    try:
        yield StageRun(client, run)
        status = "FINISHED"
    except Interrupted:
        status = "KILLED"
        raise
    finally:
        if monitor is not None:
            monitor.finish()
        client.set_terminated(run.info.run_id, status)
        if stage == "tabulate" and status == "FINISHED":
            client.set_terminated(parent.info.run_id, status)


def log_pipeline_artifacts(params: Params, paths: Iterable[Path]) -> None:
    """Stores files (params.yaml, tables, figures) with the pipeline's parent run."""
    client, experiment = connect(params.tracking)
    condition = f"tags.`{FINGERPRINT_TAG}` = '{_pipeline_identity(params)}' and tags.`{STAGE_TAG}` = 'pipeline'"
    for run in client.search_runs([experiment], condition):
        for path in paths:
            client.log_artifact(run.info.run_id, str(path))


def _pipeline_identity(params: Params) -> str:
    """Returns the fingerprint of everything that can change a result of the pipeline; it finds the parent run."""
    return fingerprint(params.model_dump(mode="json", exclude=NOT_THE_PIPELINES))


def _pipeline(params: Params) -> Parent:
    settings = params.model_dump(mode="json", exclude=NOT_THE_PIPELINES)
    return Parent("pipeline", f"pipeline {params.profile} {params.preset}", fingerprint(settings), settings)


def finish_parent(params: Params, parent: Parent, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> None:
    """Closes a parent run with metrics and files of its own."""
    client, experiment = connect(params.tracking)
    condition = f"tags.`{FINGERPRINT_TAG}` = '{parent.identity}' and tags.`{STAGE_TAG}` = '{parent.kind}'"
    for run in client.search_runs([experiment], condition):
        for name, value in metrics.items():
            client.log_metric(run.info.run_id, name, value)
        for path in artifacts:
            client.log_artifact(run.info.run_id, str(path))
        client.set_terminated(run.info.run_id, "FINISHED")


def stage_seconds(params: Params) -> dict[str, float]:
    """Returns the wall time of each finished stage run of this pipeline, by name, in the order of their starts."""
    client, experiment = connect(params.tracking)
    condition = f"tags.`{FINGERPRINT_TAG}` = '{_pipeline_identity(params)}' and tags.`{STAGE_TAG}` = 'pipeline'"
    seconds: dict[str, float] = {}
    for parent in client.search_runs([experiment], condition):
        children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        for run in sorted(children, key=lambda child: child.info.start_time):
            if run.info.status == "FINISHED" and run.info.end_time is not None:
                seconds[run.info.run_name or run.info.run_id] = (run.info.end_time - run.info.start_time) / 1000
    return seconds
