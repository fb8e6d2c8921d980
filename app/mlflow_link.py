"""Looks up what MLflow recorded of a run, by the run's fingerprint, in a store that exists already.

MLflow is imported only when a lookup is wanted, and no store is ever made or migrated here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
import sqlite3
from typing import Any

import pandas as pd

from app.revisions import RevisionFiles
from app.sources import LocalFiles, RunEntry
from sdpg.errors import UserError
from sdpg.params import PARAMS_FILE, read_yaml
from sdpg.params.section import hide_secrets

FINGERPRINT_TAG = "sdpg.fingerprint"
SQLITE = "sqlite:///"
NEEDED = {"experiments", "runs", "tags", "metrics"}
SERVER = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class Tracked:
    """A run of MLflow.

    Attributes:
        id, experiment: MLflow's ids of the run and its experiment.
        name, status: the name and status on MLflow's pages.
        started, ended: Unix times in milliseconds.
        metrics: name → last value.
        system: a row per sample: ``step`` (seconds since the first), ``metric``, ``value``.
    """

    id: str
    experiment: str
    name: str
    status: str
    started: int | None
    ended: int | None
    metrics: Mapping[str, float]
    system: pd.DataFrame

    @property
    def address(self) -> str:
        """Returns the address of the run's page, which is there while ``sdpg mlflow`` runs."""
        return f"{SERVER}/#/experiments/{self.experiment}/runs/{self.id}"


def store_of(run: RunEntry) -> Path:
    """Returns the file of the run's MLflow store.

    Raises:
        UserError: if there is no such file on this disk.
    """
    tracking = run.params.get("tracking") or {}
    uri = str(tracking.get("uri") or "")
    if not uri.startswith(SQLITE):
        raise UserError(
            f"tracking.uri of this run is {hide_secrets(uri)!r}, which is no file: open that server's own pages"
        )
    files = run.place.files
    if not isinstance(files, LocalFiles | RevisionFiles) or run.kind == "sample":
        raise UserError("this run came without an MLflow store")
    # A run may come from anywhere, and so may the path: other files of this disk are not opened for it.
    path = _file_of(files.root, uri)
    if not path.is_relative_to(files.root.resolve()) and path != _own_store():
        raise UserError(f"tracking.uri of this run is {uri!r}, a file outside its project: if it is yours, set "
                        "tracking.uri in params.yaml here to it")  # fmt: skip
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run was made elsewhere, or its store was removed")
    return path


def _file_of(root: Path, uri: str) -> Path:
    """Returns the file of a sqlite URI. That of an absolute file has four slashes; others lie in the project."""
    if not uri.isprintable():
        raise UserError(f"tracking.uri of this run is {uri!r}, which is no file")
    from sdpg.sqlite_uri import file_of

    return (file_of(uri, root) or root).resolve()


def _own_store() -> Path | None:
    """Returns the store that params.yaml of the folder in which the app was started names."""
    try:
        uri = str(read_yaml(PARAMS_FILE)["tracking"]["uri"])
    except (UserError, KeyError, TypeError):
        return None
    return _file_of(Path(), uri) if uri.startswith(SQLITE) else None


def lookup(run: RunEntry) -> list[Tracked]:
    """Returns the MLflow runs with the run's fingerprint, the newest first; there are several if it was made anew.

    Raises:
        UserError: if there is no store, or it cannot be read.
    """
    path = store_of(run)
    _refuse_other_files(path)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    from sdpg.sqlite_uri import remove_stray_folders, uri_of

    fingerprint = str(run.config.get("fingerprint") or "")
    if not fingerprint.isalnum():
        raise UserError(f"{run.label_of('config.yaml')} has no fingerprint by which MLflow could know the run")
    try:
        client = MlflowClient(tracking_uri=uri_of(path))
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        matches = client.search_runs(experiments, f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'")
        return [_tracked(client, match) for match in matches]
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be read by MLflow ({reason}): sdpg mlflow may tell more") from None
    finally:
        remove_stray_folders(path)


def _refuse_other_files(path: Path) -> None:
    """Raises if the file is not MLflow's, as MLflow would fill an empty or foreign database with its tables."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UserError(f"{path} is no database that can be read ({error})") from None
    if missing := NEEDED - tables:
        raise UserError(f"{path} is no store of MLflow: it has no table {sorted(missing)[0]}")


def _tracked(client: Any, run: Any) -> Tracked:
    system = []
    for name in sorted(run.data.metrics):
        if name.startswith("system/"):
            system += [(sample.timestamp, name.removeprefix("system/"), sample.value)
                       for sample in client.get_metric_history(run.info.run_id, name)]  # fmt: skip
    table = pd.DataFrame(system, columns=["step", "metric", "value"])
    if len(table):
        table["step"] = (table["step"] - table["step"].min()) / 1000
    return Tracked(
        run.info.run_id, run.info.experiment_id, run.info.run_name or run.info.run_id, run.info.status,
        run.info.start_time, run.info.end_time, dict(run.data.metrics), table,
    )  # fmt: skip
