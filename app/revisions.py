"""Reads runs of other commits and of DVC experiments through DVC: nothing is checked out; files come one by one.

A file is copied to ``.state/app/<commit>/`` when a page first reads it. A commit does not change, so neither does the
copy. Weights are never fetched. The module imports no torch, and imports DVC only when a commit is opened.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
import re
import shutil
import subprocess
from threading import RLock
from typing import Any, Literal

from app.sources import Notice, Place
from sdpg.errors import UserError
from sdpg.files import replaced_file

MOST_COMMITS = 200
CACHE = Path(".state") / "app"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
_EXPERIMENT = re.compile(r"^refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)$")


@dataclass(frozen=True)
class Revision:
    """A commit whose runs can be shown.

    Attributes:
        key: the revision's name in the URL and in the runs' ids: an experiment's name, or twelve digits of the commit.
        sha: the commit's full hash.
        kind: whether it is a commit or an experiment.
        title: the first line of its message, or what an experiment started from.
        date: the commit's date, ISO 8601; empty for an experiment.
    """

    key: str
    sha: str
    kind: Literal["commit", "experiment"]
    title: str = ""
    date: str = ""

    @property
    def label(self) -> str:
        """Returns the revision's name in a list of choices."""
        if self.kind == "experiment":
            return f"{self.key} · experiment {self.title}".rstrip()
        return " · ".join(part for part in (self.sha[:7], self.date[:10], self.title) if part)


def _git(root: Path, *arguments: str) -> str | None:
    """Returns git's output; None if git fails or is missing, or an argument cannot be passed on."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, errors="replace", check=False
        )
    except (ValueError, FileNotFoundError):  # the text has a null byte or a lone surrogate, or git is missing
        return None
    return result.stdout if result.returncode == 0 else None


def list_revisions(root: Path = Path()) -> list[Revision]:
    """Returns DVC experiments, then the commits on any branch or tag that touched dvc.lock, newest first.

    The list is empty outside a git checkout. Commits are looked up anew only when a reference has moved.
    """
    references = _git(root, "show-ref", "--head")
    return _revisions(root.resolve(), references) if references else []


@lru_cache(maxsize=8)
def _revisions(root: Path, references: str) -> list[Revision]:
    revisions: list[Revision] = []
    for line in references.splitlines():
        sha, name = line.split(" ", 1)
        if match := _EXPERIMENT.match(name):
            same = sum(revision.key.split("~")[0] == match.group(3) for revision in revisions)
            key = f"{match.group(3)}~{same + 1}" if same else match.group(3)
            revisions.append(Revision(key, sha, "experiment", f"on {(match.group(1) + match.group(2))[:7]}"))
    log = _git(root, "log", "HEAD", "--branches", "--tags", "--remotes", f"--max-count={MOST_COMMITS}",
               "--format=%H%x09%cI%x09%s", "--", "dvc.lock")  # fmt: skip
    for line in (log or "").splitlines():
        sha, date, title = line.split("\t", 2)
        revisions.append(Revision(sha[:12], sha, "commit", title, date))
    return revisions


def find_revision(root: Path, rev: str) -> Revision:
    """Returns the revision that a text names: one that is listed, or anything that git resolves to a commit.

    Raises:
        UserError: if there is none; the text is never taken for an option, whatever it holds.
    """
    for revision in list_revisions(root):
        if rev in (revision.key, revision.sha):
            return revision
    sha = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    if not sha:
        raise UserError(f"{rev!r} is neither a commit nor a DVC experiment here: choose one from the list, or fetch it "
                        "first (git fetch, dvc exp pull)")  # fmt: skip
    sha = sha.strip()
    shown = (_git(root, "log", "-1", "--format=%cI%x09%s", sha) or "\t").rstrip("\n")
    date, title = shown.split("\t", 1)
    return Revision(sha[:12], sha, "commit", title, date)


class RevisionFiles:
    """The files of a commit, its DVC outputs among them. Listing them fetches nothing."""

    def __init__(self, root: Path, revision: Revision) -> None:
        self.root, self.revision = root, revision
        self.folder = root / CACHE / revision.sha
        self._lock = RLock()  # sessions are threads, and DVC's repository is not thread-safe
        self._names: dict[str, list[str]] = {}

    @property
    def label(self) -> str:
        return f"{self.revision.key}:"

    @property
    def _tree(self) -> Any:
        return _opened(self.root, self.revision.sha)

    def path(self, name: str) -> Path:
        """Returns where the file lies on this disk; fetches it if the commit has it and it is not here yet.

        Raises:
            UserError: if the file is in no cache or remote, or is a weight.
        """
        target = self._within(name)
        if target.exists():
            return target
        if target.suffix in WEIGHTS:
            raise UserError(f"{self.label}{name} holds weights, which are not fetched: dvc exp apply, or git checkout "
                            f"{self.revision.sha[:12]} and dvc pull")  # fmt: skip
        with self._lock:
            if not target.exists() and self._is_file(name):
                self._fetch(name, target)
        return target

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names in a folder of the commit; empty where there is none.

        Raises:
            UserError: if the folder's list is in no cache or remote.
        """
        self._within(folder)
        with self._lock:
            if folder not in self._names:
                self._names[folder] = self._listed(folder)
            return list(self._names[folder])

    def exists(self, name: str) -> bool:
        """Says whether the commit has such a file or folder, wherever its content lies."""
        parent = str(PurePosixPath(name).parent)
        return PurePosixPath(name).name in self.names("" if parent == "." else parent)

    def _within(self, name: str) -> Path:
        """Returns the path of a name's copy; a list of outputs is data, and must not lead out of the folder."""
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise UserError(f"{self.label}{name} leads out of the project: the list of outputs is damaged")
        return self.folder / parts

    def _listed(self, folder: str) -> list[str]:
        try:
            entries = self._tree.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except _errors() as error:
            raise self._missing(folder, error) from None
        inside = [entry for entry in entries if entry["name"].strip("/") != folder.strip("/") and _was_made(entry)]
        return sorted(PurePosixPath(entry["name"]).name for entry in inside)

    def _is_file(self, name: str) -> bool:
        try:
            entry = self._tree.info(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except _errors() as error:
            raise self._missing(name, error) from None
        return entry["type"] == "file" and _was_made(entry)

    def _fetch(self, name: str, target: Path) -> None:
        try:
            source = self._tree.open(name)
        except _errors() as error:
            raise self._missing(name, error) from None
        with source, replaced_file(target) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy)

    def _missing(self, name: str, error: Exception) -> UserError:
        experiment = self.revision.kind == "experiment"
        there = f"dvc exp apply {self.revision.key}" if experiment else f"git checkout {self.revision.sha[:12]}"
        reason = " ".join(str(error).split())
        return UserError(f"{self.label}{name} is in no cache or remote that can be reached ({reason}): {there}, then "
                         f"dvc pull '{name}', or dvc repro if it was never pushed")  # fmt: skip


def _was_made(entry: dict[str, Any]) -> bool:
    """Says whether git tracks the file or dvc.lock has its content: outputs of stages that never ran are listed too."""
    known = entry.get("dvc_info")
    if entry["type"] == "directory" or not known or not known.get("isout"):
        return True
    return "md5" in known or any(known.get(key) for key in ("etag", "checksum", "version_id"))


def _errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions that DVC raises where data is unavailable, or its files cannot be read."""
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.tree import TreeError
    from dvc_data.index.index import DataIndexError, StorageError

    return OSError, DvcException, TreeError, DataIndexError, StorageError


@lru_cache(maxsize=16)
def _opened(root: Path, sha: str) -> Any:
    from dvc.api import DVCFileSystem

    return DVCFileSystem(repo=str(root), rev=sha)


@lru_cache(maxsize=64)
def _files(root: Path, revision: Revision) -> RevisionFiles:
    return RevisionFiles(root, revision)


def open_revision(root: Path, rev: str) -> Place:
    """Returns a commit or an experiment as a place in which runs are looked for.

    Raises:
        UserError: if there is no such revision.
    """
    return _place(root, find_revision(root, rev))


def _place(root: Path, revision: Revision) -> Place:
    label = revision.key if revision.kind == "experiment" else revision.sha[:7]
    return Place(revision.key, label, _files(root.resolve(), revision), revision.label)


def open_revisions(root: Path, revs: list[str]) -> tuple[list[Place], list[Notice]]:
    """Returns the places of several revisions, and a notice for each that does not exist."""
    places, notices = [], []
    for rev in dict.fromkeys(revs):
        try:
            places.append(open_revision(root, rev))
        except UserError as error:
            notices.append(Notice(rev[:80], str(error)))
    return places, notices
