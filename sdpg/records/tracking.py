"""Logs to MLflow: a parent run per pipeline, a child per stage run; a resumed stage goes on in its own run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
import json
import math
import os
from pathlib import Path
import threading
import time
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_GIT_REPO_URL
from sqlalchemy.exc import SQLAlchemyError

from sdpg.errors import Interrupted, UserError
from sdpg.params import Params
from sdpg.params.section import mask_addresses
from sdpg.records.delivery import FINGERPRINT_TAG, STAGE_TAG, Courier
from sdpg.records.event_queue import EventQueue
from sdpg.records.mlflow_store import connect
from sdpg.records.provenance import fingerprint, git_state, hardware, versions
from sdpg.records.run_inputs import pipeline_parameters

NOT_THE_PIPELINES = {"tracking", "tune", "study"}
"""Sections that no stage's result depends on."""
INTERRUPTED_PATIENCE = 5.0
"""Seconds without a delivery after which a stage that was told to end waits no longer."""
SYSTEM_METRICS_INTERVAL = 10
"""Seconds between two samples of the system metrics."""
MOST_ROWS, LONGEST_TEXT = 200, 4000
"""The rows of a table, and the characters of a text in it, that MLflow's pages show without delay."""


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
    """The record of one stage for one method and seed; MLflow is told of it as soon as it listens."""

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue

    def log_step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Logs a step's metrics at once; a step that was logged before a kill is not logged again."""
        present = {name: float(value) for name, value in metrics.items() if value is not None}
        self._queue.append({"kind": "step", "time": _now(), "step": step, "metrics": present})

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Logs metrics of many steps at once, such as their times; each row has its ``step``."""
        self._queue.append({"kind": "steps", "time": _now(), "rows": [_finite(row) for row in rows]})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Stores a file, as it is now, with the run."""
        self._queue.append({"kind": "artifact", "time": _now(), "file": self._queue.keep(path), "folder": folder})

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Stores rows as a table that MLflow's own pages show; of more than :data:`MOST_ROWS`, evenly spaced ones.

        Args:
            name: the table's name, without an ending.
            rows: the rows, each with every column.
            columns: the columns that are shown.
        """
        chosen = rows[:: max(1, -(-len(rows) // MOST_ROWS))]
        data = [[_short(row[column]) for column in columns] for row in chosen]
        # The form of pandas' ``split``, in which MLflow stores tables.
        text = json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False)
        file = self._queue.write(f"{name}.json", text.encode("utf-8", "replace"))
        self._queue.append({"kind": "table", "time": _now(), "file": file, "name": f"{name}.json"})

    def log_policy(self, name: str, folder: Path) -> None:
        """Registers a policy as a logged model that refers to its folder; DVC keeps the weights, and nothing is copied.

        Args:
            name: the model's name.
            folder: the folder of weights and tokenizer, relative to the project's.
        """
        told = {"name": name, "folder": folder.as_posix(), "card": policy_card(folder)}
        self._queue.append({"kind": "policy", "time": _now(), **told})


def policy_card(folder: Path) -> str:
    """Returns a model's description: where its weights are, and how transformers loads them."""
    return (
        f"The weights are an output of DVC and no artifact of MLflow: `dvc pull {folder.as_posix()}` brings those of "
        "the commit that is checked out.\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder.as_posix()}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder.as_posix()}")\n```\n'
    )


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _short(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        # JSON, as browsers read it, has no such numbers.
        return None
    return value[:LONGEST_TEXT] + "…" if isinstance(value, str) and len(value) > LONGEST_TEXT else value


def _now() -> int:
    return int(time.time() * 1000)


class _SystemMetrics(SystemMetricsMonitor):
    """MLflow's own measurements of the machine, which go into the queue instead of to a server."""

    def __init__(self, queue: EventQueue) -> None:
        self.monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        if of_gpus := self._initialize_gpu_monitor():
            self.monitors.append(of_gpus)
        self._queue, self._end = queue, threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        self.collect_metrics()
        while not self._end.wait(SYSTEM_METRICS_INTERVAL):
            measured = {f"system/{name}": value for name, value in self.aggregate_metrics().items()}
            self._queue.append({"kind": "system", "time": _now(), "metrics": measured})
            for monitor in self.monitors:
                monitor.clear_metrics()
            self.collect_metrics()


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
    of: tuple[str, int] | None = None,
) -> Iterator[StageRun]:
    """Opens this stage's run under the pipeline's parent run, and closes it with the stage's outcome.

    Nothing here waits for MLflow or fails with it: events are queued on disk and delivered beside the stage. At the end
    the last of them are waited for as long as they are delivered; those that are left go out with the next command.

    Args:
        params: the pipeline's parameters; their fingerprint identifies the parent run.
        stage: prepare, base, train, evaluate or tabulate.
        name: the name in MLflow's list.
        identity: the fingerprint of this stage's work; an unfinished run of the same identity is continued.
        inputs: data set name → path and digest.
        settings: the parameters, which are logged once.
        resume: whether a finished run is continued as well: its stage was killed before its outputs were taken over.
        under: a parent other than the pipeline.
        of: the method and the seed of the run, where the stage has them.
    """
    queue = EventQueue(f"{stage}-{identity}")
    parent, tags = under or _pipeline(params), _tags(params)
    own = {"stage": stage, "kind": parent.kind} | ({} if of is None else {"method": of[0], "seed": str(of[1])})
    queue.append(
        {
            "kind": "open",
            "time": _now(),
            "parent": _parent_of(parent, tags),
            "name": name,
            "tags": {FINGERPRINT_TAG: identity, STAGE_TAG: stage, **own, **tags},
            "statuses": ("RUNNING", "FAILED", "KILLED", *(["FINISHED"] if resume else [])),
            "settings": flatten(settings),
            "inputs": [(data, str(path.resolve()), digest) for data, (path, digest) in inputs.items()],
        }
    )
    courier = Courier(params.tracking, queue, name)
    courier.start()
    status = "FAILED"
    try:
        with _SystemMetrics(queue) if params.tracking.system_metrics else nullcontext():
            yield StageRun(queue)
        status = "FINISHED"
    except Interrupted:
        status = "KILLED"
        raise
    finally:
        with_parent = stage == "tabulate" and status == "FINISHED"
        queue.append({"kind": "end", "time": _now(), "status": status, "with_parent": with_parent})
        # Whoever sent SIGTERM kills soon after; what is left then goes out with the next command.
        courier.finish(INTERRUPTED_PATIENCE if status == "KILLED" else None)


def _tags(params: Params) -> dict[str, str]:
    git = git_state()
    # User, source and branch, as MLflow's own API fills them in; a remote's address may hold a token.
    of_mlflow = resolve_tags()
    if MLFLOW_GIT_REPO_URL in of_mlflow:
        of_mlflow[MLFLOW_GIT_REPO_URL] = mask_addresses(of_mlflow[MLFLOW_GIT_REPO_URL])
    experiment = os.environ.get("DVC_EXP_NAME")
    return {
        **of_mlflow,
        "mlflow.source.git.commit": str(git["commit"]),
        "sdpg.git.dirty": str(git["dirty"]),
        **({"dvc.exp": experiment} if experiment else {}),
        "profile": params.profile,
        "preset": params.preset,
        "base": params.base.name,
        **{f"sdpg.version.{package}": version for package, version in versions().items()},
        **{f"sdpg.hardware.{key}": str(value) for key, value in hardware().items()},
    }


def _parent_of(parent: Parent, tags: Mapping[str, str]) -> dict[str, Any]:
    """Returns a parent run as an event holds it, so that it can be made wherever it is missing."""
    own = {FINGERPRINT_TAG: parent.identity, STAGE_TAG: parent.kind, "kind": parent.kind}
    return {"name": parent.name, "tags": {**own, **tags}, "settings": flatten(parent.settings)}


def _log_with_parent(
    params: Params, parent: Parent, metrics: Mapping[str, float], files: Iterable[Path], status: str | None
) -> None:
    queue = EventQueue(f"{parent.kind}-{parent.identity}")
    kept = [queue.keep(path) for path in files]
    told = {"parent": _parent_of(parent, _tags(params)), "metrics": dict(metrics), "files": kept, "status": status}
    queue.append({"kind": "parent", "time": _now(), **told})
    courier = Courier(params.tracking, queue, parent.name)
    courier.start()
    courier.finish()


def log_pipeline_results(params: Params, metrics: Mapping[str, float], paths: Iterable[Path]) -> None:
    """Logs the tables' metrics with the pipeline's parent run, and stores params.yaml, tables and figures there."""
    _log_with_parent(params, _pipeline(params), metrics, paths, None)


def finish_parent(params: Params, parent: Parent, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> None:
    """Closes a parent run with metrics and files of its own."""
    _log_with_parent(params, parent, metrics, artifacts, "FINISHED")


def _pipeline_identity(params: Params) -> str:
    """Returns the fingerprint of everything that can change a result of the pipeline; it finds the parent run."""
    return fingerprint(params.model_dump(mode="json", exclude=NOT_THE_PIPELINES))


def _pipeline(params: Params) -> Parent:
    name = f"pipeline {params.profile} {params.preset}"
    return Parent("pipeline", name, _pipeline_identity(params), pipeline_parameters(params))


def stage_seconds(params: Params) -> dict[str, float]:
    """Returns the wall time of each finished stage run of this pipeline, by name, in the order of their starts.

    There are none while MLflow cannot be asked.
    """
    try:
        return _stage_seconds(params)
    except (UserError, MlflowException, SQLAlchemyError, OSError):
        return {}


def _stage_seconds(params: Params) -> dict[str, float]:
    client, experiment = connect(params.tracking)
    condition = f"tags.`{FINGERPRINT_TAG}` = '{_pipeline_identity(params)}' and tags.`{STAGE_TAG}` = 'pipeline'"
    seconds: dict[str, float] = {}
    for parent in client.search_runs([experiment], condition):
        children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        for run in sorted(children, key=lambda child: child.info.start_time):
            if run.info.status == "FINISHED" and run.info.end_time is not None:
                seconds[run.info.run_name or run.info.run_id] = (run.info.end_time - run.info.start_time) / 1000
    return seconds
