"""Opens the store in which MLflow keeps runs, and creates its database whole or not at all."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from glob import escape
from http.client import HTTPException
import logging
import os
from pathlib import Path
import socket
import sqlite3
import threading
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from filelock import FileLock
import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from sdpg.errors import UserError
from sdpg.files import is_remains, make_folder
from sdpg.params import TrackingParams
from sdpg.paths import project_root
from sdpg.sqlite_uri import file_of, remove_stray_folders, uri_of

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
REMEDY = "`sdpg doctor` sets it aside, and a new one is made; no result is read from it"
WITHOUT = "set tracking.uri to sqlite:///mlflow.db, which needs no server"
KIND_TAG, MACHINE_LEARNING = "mlflow.experimentKind", "custom_model_development"
"""What makes MLflow's pages open an experiment with runs, metrics and models instead of with traces."""
CHECK_SECONDS = 5.0
"""The time in which a server must answer before a pipeline starts."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# MLflow by default repeats a request for minutes in silence; whoever calls repeats it here, and says so.
for _name, _value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")):
    os.environ.setdefault(_name, _value)
# Errors of the database are reported once, by whoever calls, and not with a traceback beside.
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def absolute_uri(params: TrackingParams) -> str:
    """Returns the tracking URI, with a relative sqlite file resolved against the project's folder."""
    file = database_file(params)
    return uri_of(file) if file is not None else params.uri


def database_file(params: TrackingParams) -> Path | None:
    """Returns the sqlite file of the store, and None where the store is a server's."""
    return file_of(params.uri, project_root())


@contextmanager
def store_lock() -> Iterator[None]:
    """Lets one process of the project at a time create a database, an experiment or a run."""
    state = project_root() / ".state"
    make_folder(state)
    with FileLock(state / "mlflow.lock"):
        yield


def connect(params: TrackingParams) -> tuple[MlflowClient, str]:
    """Returns a client and the experiment's id; creates database and experiment where they are missing.

    Raises:
        UserError: if the store cannot be reached or is damaged, or the experiment was deleted.
    """
    uri, file = absolute_uri(params), database_file(params)
    mlflow.set_tracking_uri(uri)
    try:
        # Two processes that create the same tables or experiment at once would make each other fail.
        with store_lock():
            if file is not None:
                if (reason := damage(file)) is not None:
                    raise UserError(f"tracking.uri {params.uri!r}: {file} {reason}. {REMEDY}")
                if not file.exists():
                    create_database(file)
            client = MlflowClient(tracking_uri=uri)
            experiment = client.get_experiment_by_name(params.experiment)
            if experiment is not None and experiment.lifecycle_stage == LifecycleStage.DELETED:
                raise UserError(
                    f"tracking.experiment is {params.experiment!r}, which was deleted in {params.uri}: restore it "
                    f"(MLFLOW_TRACKING_URI={params.uri} mlflow experiments restore -x {experiment.experiment_id}), or "
                    "name another"
                )
            if experiment is not None:
                if not experiment.tags.get(KIND_TAG):
                    client.set_experiment_tag(experiment.experiment_id, KIND_TAG, MACHINE_LEARNING)
                return client, experiment.experiment_id
            artifacts = (project_root() / "mlartifacts").as_uri() if file is not None else None
            return client, client.create_experiment(params.experiment, artifacts, {KIND_TAG: MACHINE_LEARNING})
    except (MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        hint = f" If it is damaged, {REMEDY}" if file is not None and file.is_file() else ""
        if file is None:
            hint = f" See that MLflow's own server answers there, or {WITHOUT}"
        raise UserError(f"tracking.uri {params.uri!r} cannot be used: {error}.{hint}") from None
    finally:
        if file is not None:
            remove_stray_folders(file)


def check_store(params: TrackingParams) -> None:
    """Refuses a store that does not answer within seconds, before the pipeline starts.

    A sqlite file that another process has locked is taken: training does not wait for it.

    Raises:
        UserError: if the store cannot be used.
    """
    file = database_file(params)
    if file is not None and file.exists() and _is_locked(file):
        return
    if file is None:
        _probe(absolute_uri(params))
    connect(params)


def _probe(uri: str) -> None:
    """Asks a server for any answer, with a time limit that neither a name server nor a silent peer can exceed."""
    answers: list[str] = []

    def ask() -> None:
        parts = urlsplit(uri)
        try:
            if parts.scheme in ("http", "https"):
                urlopen(f"{uri.rstrip('/')}/health", timeout=CHECK_SECONDS).close()
            elif parts.hostname:
                port = parts.port or PORTS.get(parts.scheme.split("+")[0], 0)
                socket.create_connection((parts.hostname, port), CHECK_SECONDS).close()
        except HTTPError:
            pass  # that is an answer
        except (OSError, ValueError, HTTPException) as error:
            answers.append(f"is not reachable ({error})")
            return
        answers.append("")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(CHECK_SECONDS)
    if problem := answers[0] if answers else f"has not answered within {CHECK_SECONDS:.0f} seconds":
        raise UserError(f"tracking.uri {uri!r} {problem}: see that the server runs, or {WITHOUT}")


def _opened(file: Path, timeout: float = 5) -> sqlite3.Connection:
    """Opens a database that exists, for writing too: a journal that a killed process left must be played back."""
    return sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None)


def _is_locked(file: Path) -> bool:
    try:
        with closing(_opened(file, timeout=1)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return False


def create_database(file: Path) -> None:
    """Creates MLflow's tables in a temporary file that then gets the database's name; the lock must be held.

    A process that is killed here, or meets a full disk, leaves no database at all. One that another project has made in
    the meantime stays.
    """
    for stale in file.parent.glob(f".{escape(file.name)}.*"):
        if is_remains(stale.name):
            stale.unlink(missing_ok=True)
    temporary = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _open_as_mlflow(temporary)
        with temporary.open("rb") as made:
            os.fsync(made.fileno())
        # Unlike a rename, a link does not replace anything.
        with suppress(FileExistsError):
            os.link(temporary, file)
        _close(file)
    finally:
        for left in file.parent.glob(f"{escape(temporary.name)}*") if file.parent.is_dir() else ():
            left.unlink(missing_ok=True)


def _open_as_mlflow(file: Path) -> None:
    """Makes or migrates the tables of a database that no other process knows."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        SqlAlchemyStore(uri_of(file), str(project_root() / "mlruns"))
    finally:
        _close(file)


def _close(file: Path) -> None:
    """Closes this process's connections to a file; one of that name may have been set aside or removed since."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if (engine := SqlAlchemyStore._engine_map.get(uri_of(file))) is not None:
        engine.dispose()


def damage(file: Path, thorough: bool = False) -> str | None:
    """Returns what is wrong with a database of MLflow, or None; a missing file is as good as any, as one is made.

    Args:
        file: the sqlite file.
        thorough: whether every page is read, and the tables are opened as MLflow does, on a copy.
    """
    if not file.exists():
        return None
    if file.is_file() and not file.stat().st_size:
        return "is empty"
    try:
        with closing(_opened(file)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if thorough and (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                return f"is damaged ({found})"
            if "alembic_version" not in tables or not database.execute("SELECT * FROM alembic_version").fetchall():
                return "is not MLflow's, or was left half made" if tables else "is empty"
    except sqlite3.DatabaseError as error:
        # Others mean that the file is in use, or may not be read.
        return f"is damaged ({error})" if error.sqlite_errorcode & 0xFF in DAMAGED else None
    return _refused_by_mlflow(file) if thorough else None


def _refused_by_mlflow(file: Path) -> str | None:
    """Opens a copy of a database as MLflow does, which may migrate it, and returns why that fails."""
    temporary = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        with (
            closing(_opened(file)) as source,
            closing(sqlite3.connect(temporary)) as copy,
        ):
            source.backup(copy)
        _open_as_mlflow(temporary)
    except (MlflowException, SQLAlchemyError) as error:
        reason = " ".join(str(error).split())
        return None if "out-of-date" in reason else f"was left half made ({reason[:200]})"
    finally:
        for left in file.parent.glob(f"{escape(temporary.name)}*"):
            left.unlink(missing_ok=True)
    return None
