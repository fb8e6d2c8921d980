"""Keeps answers that cost something by the digest of their request, so that none is bought twice.

The store is one SQLite file: an answer is on the disk before anything else is done with it, and a process that is
killed while it writes leaves the file as it was. Before a request is sent, that is written down too: a request without
an answer was under way when a command ended, and only for those is it unknown whether they were charged.
"""

from collections import Counter
import hashlib
import json
from pathlib import Path
import sqlite3
from typing import Any

from filelock import FileLock, Timeout

from sdpg.errors import UserError

FILE = "answers.sqlite"
SENT, LOST, IDLE, ANSWERED = "sent", "lost", "idle", "answered"
"""States of a request: under way; given up with its fate unknown; not processed by the endpoint; answered."""


def request_digest(*parts: Any) -> str:
    """Returns 32 hex digits that name a request by everything in it."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class AnswerStore:
    """A store of answers, which one command at a time uses; a context manager.

    Args:
        folder: the folder of the file; it is created if missing.

    Raises:
        UserError: if another command uses it, it is damaged, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f".{FILE}.lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.path} is in use by another command: wait for it, as both might pay for the same answers, or "
                "name another folder with --answers"
            ) from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}: choose --answers elsewhere") from None
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None)
            # A killed machine, not only a killed process, must not lose an answer.
            self._run("PRAGMA synchronous = EXTRA")
            self._run(
                "CREATE TABLE IF NOT EXISTS requests (digest TEXT PRIMARY KEY, state TEXT NOT NULL, "
                "attempts INTEGER NOT NULL DEFAULT 0, answer TEXT) WITHOUT ROWID"
            )
        except BaseException:
            # Passed on: a store that could not be opened must not keep the lock, whatever stopped it.
            self._lock.release()
            raise

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._lock.release()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path} cannot be read or written ({error}): free some space or mend its permissions, then run "
                "the same command again. Nothing else is asked meanwhile"
            ) from None
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} is damaged ({error}): restore it from a copy, or move it away, which means to pay again"
            ) from None

    def get(self, digest: str) -> Any | None:
        """Returns the answer to a request, or None."""
        rows = self._run("SELECT answer FROM requests WHERE digest = ? AND state = ?", digest, ANSWERED)
        return json.loads(rows[0][0]) if rows else None

    def mark_sent(self, digest: str) -> None:
        """Marks a request as under way; this is called before it leaves."""
        self._run(
            "INSERT INTO requests (digest, state, attempts) VALUES (?, ?, 1) "
            "ON CONFLICT (digest) DO UPDATE SET state = excluded.state, attempts = attempts + 1",
            digest,
            SENT,
        )

    def mark_ended(self, digest: str, state: str) -> None:
        """Marks a request that has ended without an answer as ``LOST`` or ``IDLE``."""
        self._run("UPDATE requests SET state = ? WHERE digest = ?", state, digest)

    def put(self, digest: str, answer: Any) -> None:
        """Keeps an answer, which is on the disk when this returns."""
        text = json.dumps(answer, ensure_ascii=True)
        self._run(
            "INSERT INTO requests (digest, state, attempts, answer) VALUES (?, ?, 1, ?) "
            "ON CONFLICT (digest) DO UPDATE SET state = excluded.state, answer = excluded.answer",
            digest,
            ANSWERED,
            text,
        )

    def states(self) -> Counter[str]:
        """Returns the number of requests in each state."""
        return Counter(dict(self._run("SELECT state, count(*) FROM requests GROUP BY state")))
