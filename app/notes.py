"""Keeps notes and tags on runs and rollouts in one file beside the runs, ``notes.json``.

The file is replaced whole, under a lock, so that two windows or a stopped app lose nothing. A note names the run by its
folder and its fingerprint: one on a run that was made anew since is told to be of an earlier run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
import fcntl
from functools import lru_cache
import json
from pathlib import Path
import re

from pydantic import TypeAdapter, ValidationError

from app import store
from app.sources import LocalFiles, RunEntry
from sdpg.errors import UserError
from sdpg.files import write_json

NAME = "notes.json"
LONGEST = 4_000
"""The characters of a note."""
MOST_TAGS, LONGEST_TAG = 20, 40
Place = tuple[int, int, int]
"""Step, group and sibling of a rollout."""


@dataclass(frozen=True)
class Note:
    """What a reader wrote on a run or a rollout.

    Attributes:
        text: the note.
        tags: its tags, in the order in which they were given.
        changed: when it was written, in UTC.
        fingerprint: of the run at that time.
    """

    text: str = ""
    tags: tuple[str, ...] = ()
    changed: str = ""
    fingerprint: str = ""

    def is_of(self, run: RunEntry) -> bool:
        """Says whether the note was written on this run, and not on an earlier one in the same folder."""
        return self.fingerprint == fingerprint(run)


Notes = dict[str, Note]
_NOTES = TypeAdapter(Notes)


def fingerprint(run: RunEntry) -> str:
    """Returns what tells a run from another in the same folder."""
    return str(run.config.get("fingerprint") or "")


def file_of(run: RunEntry) -> Path | None:
    """Returns the file with the notes on a run; None where nothing can be kept: in other commits, and on the sample."""
    if not isinstance(run.place.files, LocalFiles) or run.kind in ("sample", "in progress"):
        return None
    root = run.place.files.root
    return (root / "runs" if (root / "runs").is_dir() else root) / NAME


def key_of(run: RunEntry, place: Place | None = None) -> str:
    """Returns the name of a run, or of one of its rollouts, in the file."""
    return run.folder if place is None else f"{run.folder}#{'/'.join(map(str, place))}"


def read(run: RunEntry) -> Mapping[str, Note]:
    """Returns the notes beside a run, on it and on others.

    Raises:
        UserError: if the file is damaged.
    """
    path = file_of(run)
    if path is None or not path.exists():
        return {}
    return _read(path, store.stamp(path))


@lru_cache(maxsize=64)
def _read(path: Path, stamp: tuple[int, int]) -> Notes:
    del stamp  # it is part of the cache's key
    try:
        return _NOTES.validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(
            f"{path} is damaged, so that no note can be shown or written: mend it, or move it away"
        ) from None


def of_run(run: RunEntry) -> Note:
    """Returns the note on a run, which may be empty; a damaged file has none."""
    try:
        return read(run).get(key_of(run), Note())
    except UserError:
        return Note()


def of_rollouts(run: RunEntry) -> dict[Place, Note]:
    """Returns the notes on a run's rollouts; a damaged file has none."""
    try:
        everything = read(run)
    except UserError:
        return {}
    found = {}
    for key, note in everything.items():
        folder, mark, place = key.partition("#")
        if mark and folder == run.folder and re.fullmatch(r"\d+/\d+/\d+", place):
            step, group, sibling = map(int, place.split("/"))
            found[step, group, sibling] = note
    return found


def parse_tags(text: str) -> tuple[str, ...]:
    """Returns the tags of a text in which commas separate them, each once.

    Raises:
        UserError: if there are too many, or one is too long.
    """
    tags = tuple(dict.fromkeys(tag for part in text.split(",") if (tag := " ".join(part.split()))))
    if len(tags) > MOST_TAGS:
        raise UserError(f"There are {len(tags)} tags, and at most {MOST_TAGS} are kept: leave some out")
    if long := [tag for tag in tags if len(tag) > LONGEST_TAG]:
        raise UserError(f"The tag {long[0][:60]!r} has more than {LONGEST_TAG} characters: shorten it")
    return tags


def write(run: RunEntry, place: Place | None, text: str, tags: tuple[str, ...]) -> None:
    """Writes the note on a run or a rollout; an empty note without tags is removed.

    Raises:
        UserError: if nothing can be kept here, the note is too long, or the file is damaged or cannot be written.
    """
    path = file_of(run)
    if path is None:
        raise UserError(f"{run.label} is not in a folder of this disk, or is still training: no notes are kept there")
    if len(text) > LONGEST:
        raise UserError(f"The note has {len(text):,} characters, and at most {LONGEST:,} are kept: shorten it")
    try:
        with _locked(path):
            notes = dict(_read(path, store.stamp(path))) if path.exists() else {}
            changed = datetime.now(UTC).isoformat(timespec="seconds")
            notes[key_of(run, place)] = Note(text.strip(), tags, changed, fingerprint(run))
            kept = {key: note for key, note in sorted(notes.items()) if note.text or note.tags}
            write_json(path, json.loads(_NOTES.dump_json(kept)))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): the note is not kept") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process, and no other thread of this one, writes the file."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
