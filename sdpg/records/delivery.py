"""Delivers queued events to MLflow, in their order, without duplicates or gaps, also after a kill at any moment.

Each event can be sent twice with the effect of once: runs are found again by their tags, and a metric's row is the same
row, with the time at which it was queued.
"""

from collections.abc import Callable
import json
from pathlib import Path
import shutil
import sys
import threading
import time
from typing import Any

from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # pyright: ignore[reportAttributeAccessIssue]
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, LoggedModelStatus, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_MODEL_IS_EXTERNAL,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
)

from sdpg.errors import UserError
from sdpg.files import write_json
from sdpg.locks import InUse
from sdpg.params import TrackingParams
from sdpg.records.event_queue import Event, EventQueue, events, has_ended, locked, queues, starts
from sdpg.records.mlflow_store import connect, store_lock

FINGERPRINT_TAG = "sdpg.fingerprint"
STAGE_TAG = "sdpg.stage"
STATUSES = ("RUNNING", "FAILED", "KILLED", "FINISHED")
LONGEST_PARAM, LONGEST_DIGEST, MOST_METRICS = 6000, 36, 1000
"""MLflow's limits: characters of a parameter and of a data set's digest, metrics of one request."""
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between two tries while MLflow does not take events; the last is kept."""
PATIENCE = 30.0
"""Seconds without a single delivery after which the end of a stage waits no longer."""
PATIENCE_REFUSED = 10.0
"""The same while MLflow cannot be reached or refuses."""
SHOWN_EVERY = 5.0
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What reading the files of a damaged queue raises."""
UNSUPPORTED = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED")
"""What a server says that does not know a kind of request."""
UNKNOWN: dict[str, Any] = {"run": None, "parent": None, "last_step": -1, "system_step": 0}
"""What a delivery knows before the first event."""


class Delivery:
    """Delivers one queue; its lock must be held."""

    def __init__(self, params: TrackingParams, folder: Path, on_delivered: Callable[[], None] = lambda: None) -> None:
        self.params, self.folder, self._on_delivered = params, folder, on_delivered
        self._connected: tuple[MlflowClient, str] | None = None
        self._state: dict[str, Any] = UNKNOWN | {"offsets": {}}
        if (noted := folder / "delivered.json").exists():
            self._state |= json.loads(noted.read_text(encoding="utf-8"))

    def deliver(self) -> None:
        """Delivers every event that is there; what fails is raised, and is the first of the next call."""
        try:
            self._deliver()
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST" or self._state["run"] is None:
                raise
            # The store is another one now, or the run was deleted there: what is still here is told from the start.
            self._state |= UNKNOWN | {"offsets": {}}
            self._deliver()

    def _deliver(self) -> None:
        for start in starts(self.folder):
            # Asked first, as events may come until then.
            ended = has_ended(start)
            for event, offset in events(start, self._state["offsets"].get(start.name, 0)):
                getattr(self, f"_{event['kind']}")(event, start)
                self._state["offsets"][start.name] = offset
                write_json(self.folder / "delivered.json", self._state)
                self._on_delivered()
            if ended:
                shutil.rmtree(start)
        if not starts(self.folder):
            (self.folder / "delivered.json").unlink(missing_ok=True)
            # A new start may have appeared by now: then the folder stays.
            remove_if_empty(self.folder)

    def _client(self) -> tuple[MlflowClient, str]:
        if self._connected is None:
            self._connected = connect(self.params)
        return self._connected

    def _open(self, event: Event, start: Path) -> None:
        client, experiment = self._client()
        parent = self._parent_run(event)
        run = _find_or_create(client, experiment, event["name"], event["tags"] | {
            MLFLOW_PARENT_RUN_ID: parent.info.run_id}, event["statuses"], event["time"])  # fmt: skip
        _log_params(client, run, event["settings"])
        if not run.inputs or not run.inputs.dataset_inputs:
            context = [InputTag(MLFLOW_DATASET_CONTEXT, event["tags"][STAGE_TAG])]
            datasets = [MetaDataset(LocalArtifactDatasetSource(path), name, digest[:LONGEST_DIGEST])
                        for name, path, digest in event["inputs"]]  # fmt: skip
            given = [DatasetInput(Dataset(**each.to_dict()), context) for each in datasets]
            client.log_inputs(run.info.run_id, given)
        client.update_run(run.info.run_id, status="RUNNING")
        if run.info.run_id != self._state["run"]:
            names = list(client.get_run(run.info.run_id).data.metrics)
            last = {
                of_system: max((point.step for name in names if name.startswith("system/") == of_system
                                for point in client.get_metric_history(run.info.run_id, name)), default=-1)
                for of_system in (False, True)
            }  # fmt: skip
            self._state |= {"run": run.info.run_id, "last_step": last[False], "system_step": last[True] + 1}
        self._state["parent"] = parent.info.run_id

    def _step(self, event: Event, start: Path) -> None:
        # A resumed run makes the steps past its checkpoint again: the same numbers, which are there already.
        if event["step"] > self._state["last_step"]:
            self._log_metrics(event["metrics"], event["time"], event["step"])
            self._state["last_step"] = event["step"]

    def _steps(self, event: Event, start: Path) -> None:
        client, run = self._client()[0], self._state["run"]
        names = {name for row in event["rows"] for name in row} - {"step"}
        # A run that ends twice, as it was killed before its end was noted, tells the same steps again.
        last = {name: max((point.step for point in client.get_metric_history(run, name)), default=-1) for name in names}
        points = [Metric(name, value, event["time"], int(row["step"])) for row in event["rows"]
                  for name, value in row.items() if name != "step" and row["step"] > last[name]]  # fmt: skip
        for first in range(0, len(points), MOST_METRICS):
            client.log_batch(run, points[first : first + MOST_METRICS])

    def _system(self, event: Event, start: Path) -> None:
        self._log_metrics(event["metrics"], event["time"], self._state["system_step"])
        self._state["system_step"] += 1

    def _log_metrics(self, metrics: dict[str, float], at: int, step: int) -> None:
        rows = [Metric(name, value, at, step) for name, value in metrics.items()]
        self._client()[0].log_batch(self._state["run"], rows)

    def _artifact(self, event: Event, start: Path) -> None:
        self._client()[0].log_artifact(self._state["run"], str(start / "files" / event["file"]), event["folder"])

    def _table(self, event: Event, start: Path) -> None:
        client, run = self._client()[0], self._state["run"]
        client.log_artifact(run, str(start / "files" / event["file"]))
        # By this tag MLflow's pages know which artifacts are tables.
        shown = json.loads(client.get_run(run).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": event["name"], "type": "table"}
        if entry not in shown:
            client.set_tag(run, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*shown, entry]))

    def _policy(self, event: Event, start: Path) -> None:
        try:
            self._register(event)
        except MlflowException as error:
            if error.error_code not in UNSUPPORTED:
                raise
            sys.stderr.write(f"{event['name']} is no logged model, which this MLflow server is too old for: "
                             f"{_reason(error)}\n")  # fmt: skip

    def _register(self, event: Event) -> None:
        client, experiment = self._client()
        run = client.get_run(self._state["run"])
        known = client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'")
        tags = {
            MLFLOW_MODEL_IS_EXTERNAL: "true", MLFLOW_RUN_NOTE: event["card"], "folder": event["folder"],
            **{name: run.data.tags[name] for name in ("method", "seed", "base") if name in run.data.tags},
        }  # fmt: skip
        model = known[0] if known else client.create_logged_model(
            experiment, event["name"], run.info.run_id, tags, run.data.params, "policy"
        )  # fmt: skip
        client.set_logged_model_tags(model.model_id, tags)
        if model.status != LoggedModelStatus.READY:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        if not (run.outputs and run.outputs.model_outputs):
            client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, self._state["last_step"])])

    def _end(self, event: Event, start: Path) -> None:
        client, _ = self._client()
        client.set_terminated(self._state["run"], event["status"], event["time"])
        if event["with_parent"]:
            client.set_terminated(self._state["parent"], event["status"], event["time"])

    def _parent(self, event: Event, start: Path) -> None:
        """Logs metrics and files with a parent run itself, and may close it."""
        client, _ = self._client()
        run = self._parent_run(event).info.run_id
        if event["metrics"]:
            client.log_batch(run, [Metric(name, value, event["time"], 0) for name, value in event["metrics"].items()])
        for file in event["files"]:
            client.log_artifact(run, str(start / "files" / file))
        if event["status"]:
            client.set_terminated(run, event["status"], event["time"])

    def _parent_run(self, event: Event) -> Run:
        client, experiment = self._client()
        parent = event["parent"]
        run = _find_or_create(client, experiment, parent["name"], parent["tags"], STATUSES, event["time"])
        _log_params(client, run, parent["settings"])
        return run


def _find_or_create(
    client: MlflowClient, experiment: str, name: str, tags: dict[str, str], statuses: tuple[str, ...], at: int
) -> Run:
    condition = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in (FINGERPRINT_TAG, STAGE_TAG))
    # Two processes that look at once would both find none.
    with store_lock():
        for run in client.search_runs([experiment], condition):
            if run.info.status in statuses:
                return run
        return client.create_run(experiment, start_time=at, tags=tags, run_name=name)


def _log_params(client: MlflowClient, run: Run, leaves: dict[str, str]) -> None:
    known = run.data.params
    new = [Param(key, value[:LONGEST_PARAM]) for key, value in leaves.items() if key not in known]
    for first in range(0, len(new), 100):
        client.log_batch(run.info.run_id, params=new[first : first + 100])


def remove_if_empty(folder: Path) -> None:
    """Removes a folder unless something is in it."""
    try:
        folder.rmdir()
    except OSError:
        return


def waiting(folder: Path) -> int:
    """Returns the number of a queue's events that are not delivered; a queue that goes meanwhile has none."""
    try:
        return count_events(folder)
    except FileNotFoundError:
        return 0
    except UNREADABLE:
        return 1  # whoever delivers it says what is wrong


def count_events(folder: Path) -> int:
    """Returns the number of a queue's events that are not delivered; raises one of ``UNREADABLE`` if it is damaged."""
    noted = folder / "delivered.json"
    offsets = json.loads(noted.read_text(encoding="utf-8"))["offsets"] if noted.exists() else {}
    return sum(1 for start in starts(folder) for _ in events(start, offsets.get(start.name, 0)))


class Courier:
    """A thread that delivers a queue while the stage runs, and then what others have left."""

    def __init__(self, params: TrackingParams, queue: EventQueue, name: str) -> None:
        self._params, self._queue, self._name = params, queue, name
        self._ending, self._stopped = threading.Event(), threading.Event()
        self._delivered = 0
        self._problem: Exception | None = None
        self._cares_for_others = True
        self._thread = threading.Thread(target=self._run, name="MLflow's courier", daemon=True)

    def start(self) -> None:
        """Starts to deliver."""
        self._thread.start()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                with locked(self._queue.folder):
                    delivery = Delivery(self._params, self._queue.folder, self._count)
                    while not self._stopped.is_set():
                        self._queue.added.clear()
                        # What comes after this is asked for has set the flag once more.
                        ending = self._ending.is_set()
                        delivery.deliver()
                        self._problem, failures = None, 0
                        self._deliver_others()
                        if ending:
                            return
                        self._queue.added.wait()
            except Exception as error:  # whatever it is, training does not stop for it, and the event stays queued
                self._problem = error
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                failures += 1
                self._ending.wait(pause) if not self._ending.is_set() else self._stopped.wait(pause)

    def _count(self) -> None:
        self._delivered += 1

    def _deliver_others(self) -> None:
        """Delivers, once, what earlier commands have left; a queue in use, or refused, is left to later ones."""
        for folder in queues() if self._cares_for_others else ():
            if self._stopped.is_set() or folder == self._queue.folder or not waiting(folder):
                continue
            try:
                with locked(folder):
                    Delivery(self._params, folder, self._count).deliver()
            except InUse:
                continue
            except Exception as error:  # whatever is wrong with them, this stage has nothing to do with it
                sys.stderr.write(f"{folder} stays undelivered for now: {_reason(error)}\n")
        self._cares_for_others = False

    def finish(self, patience: float | None = None) -> None:
        """Waits for the last deliveries as long as there are any; what is left stays in the queue, and is said.

        Args:
            patience: the seconds without a delivery after which it ends; None takes the usual ones.
        """
        self._queue.close()
        self._ending.set()
        self._queue.added.set()
        last, count, shown = time.monotonic(), -1, time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.1)
            now, done = time.monotonic(), self._delivered
            allowed = patience or (PATIENCE_REFUSED if self._problem else PATIENCE)
            if done != count:
                last, count = now, done
            if now - shown > SHOWN_EVERY:
                shown = now
                why = f" ({_reason(self._problem)})" if self._problem else ""
                sys.stderr.write(f"{self._name}: {sum(map(waiting, queues()))} events are to be delivered to MLflow; "
                                 f"waiting {max(0, allowed - now + last):.0f} s more{why}\n")  # fmt: skip
            if now - last > allowed:
                self._stopped.set()
                self._thread.join(1)
                break
        if (left := waiting(self._queue.folder) if self._queue.folder.exists() else 0) > 0:
            why = _reason(self._problem) if self._problem else "it takes too long"
            sys.stderr.write(
                f"{self._name}: {left} events for MLflow wait in {self._queue.folder} ({why}). The next command "
                "delivers them, or: sdpg deliver\n"
            )


def deliver_now(params: TrackingParams, folder: Path) -> None:
    """Delivers one queue.

    Raises:
        UserError: if MLflow does not take an event; those before it are delivered.
    """
    with locked(folder):
        try:
            Delivery(params, folder).deliver()
        except UserError:
            raise
        except Exception as error:  # of MLflow, its database or the network
            raise UserError(f"{folder}: MLflow does not take the next event ({_reason(error)}): see that tracking.uri "
                            "is reached, then run the same command again") from error  # fmt: skip


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
