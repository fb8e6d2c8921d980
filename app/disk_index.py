"""Keeps on disk what is worked out of files, by their content, so that it is worked out once and not at every start.

The index is one SQLite file in the project's ``.state``. A value is found by the digest of the files it comes from and
of this code: a copied run is known already, and another version of the code finds nothing. Values are JSON, so that an
index of somebody else's project can run nothing. Without a project, or without the right to write, nothing is kept.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
import hashlib
from pathlib import Path
import sqlite3
import threading
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from sdpg import paths

T = TypeVar("T")
FILE = paths.STATE / "app-index.sqlite"
BUNDLED = Path(__file__).parent / "sample"  # it belongs to the code, and stays as it is
LARGEST = 500_000_000
"""The bytes beyond which the index is begun anew."""
_TABLES = (
    "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, modified INTEGER, size INTEGER, digest TEXT)",
    "CREATE TABLE IF NOT EXISTS entries (kind TEXT, key TEXT, value BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID",
)
_lock = threading.Lock()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Returns a digest of the code that works values out."""
    folders = Path(__file__).parent, Path(paths.__file__).parent
    files = sorted([*folders[0].glob("*.py"), *folders[1].rglob("*.py")])
    return _combined(file.read_bytes() for file in files)


def _combined(parts: Iterable[bytes]) -> str:
    whole = hashlib.blake2b(digest_size=20)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest()


@lru_cache(maxsize=8)
def _opened(file: Path) -> sqlite3.Connection | None:
    """Returns the index of a project; None where there is no project, or nothing can be written."""
    root = file.parents[1]
    if root == BUNDLED or (not file.parent.is_dir() and not (root / "runs").is_dir()):
        return None
    try:
        file.parent.mkdir(exist_ok=True)
        if file.exists() and file.stat().st_size > LARGEST:
            file.unlink()
        return _connected(file)
    except sqlite3.DatabaseError:
        try:
            file.unlink()  # what is damaged can be worked out again
            return _connected(file)
        except (OSError, sqlite3.Error):
            return None
    except OSError:
        return None


def _connected(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=5)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF", *_TABLES):
        connection.execute(statement)
    return connection


def _ask(statement: str, values: tuple[object, ...]) -> tuple[object, ...] | None:
    """Returns the first row that a statement gives; None where there is none, or no index."""
    with _lock:
        connection = _opened(FILE.absolute())
        try:
            return connection.execute(statement, values).fetchone() if connection else None
        except sqlite3.Error:  # another process may hold the index, or the disk be full: it is worked out instead
            return None


@lru_cache(maxsize=16_384)
def _digest(path: Path, modified: int, size: int) -> str:
    known = _ask("SELECT digest FROM digests WHERE path = ? AND modified = ? AND size = ?", (str(path), modified, size))
    if known:
        return str(known[0])
    digest = _combined([path.read_bytes()])
    _ask("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (str(path), modified, size, digest))
    return digest


def digest(*files: Path) -> str:
    """Returns a digest of the files' contents, in their order; a file that does not exist counts as such."""
    parts = []
    for file in files:
        try:
            status = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            parts.append(b"")
            continue
        parts.append(_digest(file.absolute(), status.st_mtime_ns, status.st_size).encode())
    return _combined(parts)


def kept(kind: str, key: str, shape: TypeAdapter[T], make: Callable[[], T]) -> T:
    """Returns the value of a key if it is kept, and otherwise what ``make`` returns, which is kept from then on.

    Args:
        kind: the name of what is worked out.
        key: the digest of all that it depends on, beside the code.
        shape: the type of the value, of which JSON can be made.
        make: works the value out; what it raises is not kept.
    """
    kind = f"{kind}/{code_digest()}"
    if found := _ask("SELECT value FROM entries WHERE kind = ? AND key = ?", (kind, key)):
        try:
            return shape.validate_json(found[0])  # pyright: ignore[reportArgumentType]
        except ValidationError:
            pass  # something else wrote it
    value = to_json(make(), inf_nan_mode="constants")
    _ask("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (kind, key, value))
    return shape.validate_json(value)
