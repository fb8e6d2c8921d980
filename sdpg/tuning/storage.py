"""Opens the storage of studies, with the lock under which workers decide what comes next.

The lock is released when its holder dies: it is an advisory lock of the database server, bound to its connection, or
a lock on a file beside the sqlite database. Workers of one study may run on several machines; a sqlite file serves one
machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import hashlib
import os
from pathlib import Path
import time

from filelock import FileLock
import optuna
from optuna.storages import RDBStorage
from sqlalchemy import TextClause, event, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from sdpg.errors import UserError
from sdpg.params import Params
from sdpg.paths import project_root

ENVIRONMENT = "SDPG_TUNE_STORAGE"
BUSY_SECONDS = 60
ATTEMPTS = 5
"""Tries to create the tables, which several workers may do at once."""


class Storage:
    """An Optuna storage with its address and lock."""

    def __init__(self, url: URL, rdb: RDBStorage) -> None:
        self.url, self.rdb = url, rdb
        self.shown = url.render_as_string(hide_password=True)
        """The address without its password, as it may be written down."""
        if url.get_backend_name() == "sqlite" and (path := Path(url.database or "")).is_relative_to(project_root()):
            self.shown = f"sqlite:///{path.relative_to(project_root())}"

    @contextmanager
    def lock(self, study: str) -> Iterator[None]:
        """Lets one worker at a time, of all machines, through; the lock of a dead worker is free."""
        if self.url.get_backend_name() == "sqlite":
            # The lock file is beside the database, as processes of another working directory must meet there.
            with FileLock(f"{self.url.database}.{_key(study)}.lock"):
                yield
            return
        with self.rdb.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            take, give = _statements(self.url, study)
            connection.execute(take)
            try:
                yield
            finally:
                connection.execute(give)


def _key(study: str) -> int:
    """Returns a name as a signed 64-bit number, as PostgreSQL's advisory locks need it."""
    return int.from_bytes(hashlib.blake2b(f"sdpg/{study}".encode(), digest_size=8).digest(), "big", signed=True)


def _statements(url: URL, study: str) -> tuple[TextClause, TextClause]:
    """Returns the statements that take the lock and give it back."""
    if url.get_backend_name() == "postgresql":
        take, give, key = "pg_advisory_lock(:key)", "pg_advisory_unlock(:key)", _key(study)
    else:
        take, give, key = "GET_LOCK(:key, -1)", "RELEASE_LOCK(:key)", f"sdpg{_key(study)}"
    return text(f"SELECT {take}").bindparams(key=key), text(f"SELECT {give}").bindparams(key=key)


def address(params: Params) -> URL:
    """Returns the storage's address from the environment or params.yaml; a relative sqlite file is in the project.

    Raises:
        UserError: if it is no address, or the address of a database without an advisory lock.
    """
    given = os.environ.get(ENVIRONMENT)
    field = ENVIRONMENT if given else "tune.storage"
    try:
        url = make_url(given or params.tune.storage)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UserError(f"{field} is no database address: use sqlite:///tune.db, or "
                        "postgresql+psycopg://user@host:5432/database") from None  # fmt: skip
    if backend not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise UserError(f"{field}: studies are kept in sqlite, PostgreSQL or MySQL, not in {backend}")
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise UserError(f"{field}: a database in memory is lost with its process; name a file: sqlite:///tune.db")
        url = url.set(database=str((project_root() / url.database).resolve()))
    return url


def open_storage(params: Params) -> Storage:
    """Connects, and creates the tables where they are missing.

    Raises:
        UserError: if the storage cannot be reached; the password is never shown.
    """
    url = address(params)
    shown = url.render_as_string(hide_password=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if url.get_backend_name() == "sqlite":
            return Storage(url, _sqlite(url))
        return Storage(url, _server(url))
    except ImportError as error:
        raise UserError(
            f"storage {shown}: the driver is missing ({error.__cause__ or error}); for PostgreSQL: "
            "pip install 'psycopg[binary]', and postgresql+psycopg://… as the address"
        ) from None
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        reason = getattr(error, "orig", None) or error
        raise UserError(f"storage {shown} cannot be used: {str(reason).strip()}\n  See that the server runs and takes "
                        "this user, or go back to tune.storage: sqlite:///tune.db") from None  # fmt: skip


def _sqlite(url: URL) -> RDBStorage:
    assert url.database is not None
    if not Path(url.database).parent.is_dir():
        raise OSError(f"there is no folder {Path(url.database).parent}")
    with FileLock(f"{url.database}.lock"):
        rdb = RDBStorage(
            url.render_as_string(hide_password=False), engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}}
        )
    _immediate(rdb.engine)
    return rdb


def _immediate(engine: Engine) -> None:
    """Makes each transaction take the write lock when it begins.

    By default sqlite lets two processes read that a trial is waiting, and both start it.
    """
    engine.dispose()

    @event.listens_for(engine, "connect")
    def _connected(connection: object, _: object) -> None:
        connection.isolation_level = None  # pyright: ignore[reportAttributeAccessIssue]

    @event.listens_for(engine, "begin")
    def _begun(connection: object) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # pyright: ignore[reportAttributeAccessIssue]


def _server(url: URL) -> RDBStorage:
    for attempt in range(ATTEMPTS):
        try:
            return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True})
        except DBAPIError as error:
            # Two workers that create the tables at once stop each other; the next try finds them.
            if attempt == ATTEMPTS - 1 or not any(word in str(error) for word in ("exists", "uplicate")):
                raise
            time.sleep(0.2 * (attempt + 1))
    raise AssertionError
