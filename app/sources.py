"""Finds runs: in the project's folder, in training, in sweeps, and in other folders. The module imports no torch.

A run is looked up by its id among the runs that were found, and never by a path: what a link names is shown only if
it was found here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
import os
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter
from yaml import YAMLError

from app import disk_index
from app.quick_yaml import parse_yaml
from sdpg.errors import UserError
from sdpg.params.section import mask_addresses
from sdpg.records.manifest import altered, changes, read_manifest, renamed

Kind = Literal["finished", "in progress", "trial", "unfinished", "sample"]
NEEDED = ("method", "seed", "params")
"""The keys without which a config.yaml says too little to show its run."""
MARKS = ("config.yaml", "metrics.csv", "curves.csv", "COMPLETE", "rollouts")
"""The files and folders that mark a folder as a run's, even a damaged one's."""
SAMPLE = Path(__file__).parent / "sample"


class Files(Protocol):
    """A tree of files, on this disk or in another commit; names are relative and use ``/``."""

    @property
    def label(self) -> str:
        """Returns the name of the tree's root in notices."""
        ...

    def path(self, name: str) -> Path:
        """Returns where the file can be read, whether or not it exists; brings it onto this disk if needed."""
        ...

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names in a folder; empty where there is none."""
        ...

    def exists(self, name: str) -> bool:
        """Says whether there is such a file or folder."""
        ...


@dataclass(frozen=True)
class LocalFiles:
    """A folder on this disk."""

    root: Path

    @property
    def label(self) -> str:
        return "" if self.root == Path() else f"{self.root}/"

    def path(self, name: str) -> Path:
        return self.root / name

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()


@dataclass(frozen=True)
class Place:
    """A project folder, or something laid out like one.

    Attributes:
        key: the first part of its runs' ids; empty for the project that the app was started in.
        label: the place's name on the pages.
        files: the place's files.
        title: one line that explains the place to a reader.
    """

    key: str
    label: str
    files: Files
    title: str = ""


@dataclass(frozen=True)
class Notice:
    """Something that could not be shown, and the reason; ``path`` is the file or folder."""

    path: str
    text: str


@dataclass(frozen=True)
class RunEntry:
    """A run that was found.

    Attributes:
        id: the run's name in links, unique among all runs that were found.
        name: ``<method>-<seed>``, or study and number of a trial.
        place: the place where it was found.
        folder: its folder within the place.
        kind: whether it is finished, in progress, a trial, and so on.
    """

    id: str
    name: str
    place: Place
    folder: str
    kind: Kind
    config: Mapping[str, Any] = field(repr=False, compare=False, hash=False)

    @property
    def method(self) -> str:
        """Returns the method's name, as in ``methods.<method>``."""
        return str(self.config["method"])

    @property
    def seed(self) -> int:
        """Returns the seed of the training."""
        return int(self.config["seed"])

    @property
    def title(self) -> str:
        """Returns the method's title in the run's own parameters, with the seed."""
        entry = (self.config["params"].get("methods") or {}).get(self.method) or {}
        return f"{entry.get('title', self.method)}, seed {self.seed}"

    @property
    def label(self) -> str:
        """Returns the run's name in a list of runs from several places."""
        where = "" if self.place.key == "" and self.kind == "finished" else f" · {self.kind_label}"
        return f"{self.name}{where}"

    @property
    def kind_label(self) -> str:
        """Returns kind and place in a word or two."""
        if self.place.key and self.kind == "finished":
            return self.place.label
        return self.kind if not self.place.key or self.place.label == self.kind else f"{self.place.label}, {self.kind}"

    @cached_property
    def params(self) -> dict[str, Any]:
        """Returns the parameters with which the run was made, as plain containers."""
        return dict(self.config["params"])

    def path(self, name: str) -> Path:
        """Returns the path of a file in the run's folder."""
        return self.place.files.path(f"{self.folder}/{name}")

    def names(self, folder: str) -> list[str]:
        """Returns the names in a folder of the run."""
        return self.place.files.names(f"{self.folder}/{folder}")

    def label_of(self, name: str) -> str:
        """Returns the name of a file of the run in notices."""
        return f"{self.place.files.label}{self.folder}/{name}"

    @property
    def final(self) -> str | None:
        """Returns the path, within the place, of the final evaluation; None if it was not made."""
        name = f"evaluations/{self.name}/final.parquet"
        return name if self.kind != "trial" and self.place.files.exists(name) else None


@dataclass(frozen=True)
class Found:
    """The runs that were found, by id in the order of the lists, and notices of what could not be read."""

    runs: dict[str, RunEntry]
    notices: list[Notice]

    @property
    def only_sample(self) -> bool:
        """Says whether nothing but the bundled sample was found."""
        return all(run.kind == "sample" for run in self.runs.values())


_CONFIG = TypeAdapter(Mapping[str, Any])


@lru_cache(maxsize=2048)
def _parsed(path: Path, stamp: tuple[int, int]) -> Mapping[str, Any]:
    del stamp  # it is part of the cache's key, so that a rewritten file is read again
    return disk_index.kept("configs", disk_index.digest(path), _CONFIG, lambda: _checked(path))


def _checked(path: Path) -> Mapping[str, Any]:
    """Returns what a config.yaml says, without passwords."""
    try:
        config = parse_yaml(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"is damaged ({where}): run the stage that writes it again") from None
    missing = [key for key in NEEDED if not isinstance(config, dict) or config.get(key) is None]
    if missing:
        raise UserError(f"does not say {', '.join(missing)}: it is no run's config.yaml, or was cut off")
    if not isinstance(config["params"], dict) or not isinstance(config["seed"], int):
        raise UserError("holds params or a seed of another kind: it is no run's config.yaml")
    return _without_secrets(config)


def _without_secrets(tree: Any) -> Any:
    """Returns a tree whose addresses hold no password: older runs recorded that of ``tracking.uri``."""
    if isinstance(tree, dict):
        return {_without_secrets(key): _without_secrets(part) for key, part in tree.items()}
    if isinstance(tree, list):
        return [_without_secrets(part) for part in tree]
    return mask_addresses(tree) if isinstance(tree, str) and "://" in tree else tree


def read_config(path: Path) -> Mapping[str, Any]:
    """Returns a run's config.yaml without passwords in addresses, cached until the file changes.

    Raises:
        UserError: if the file is missing, damaged or too short; the text does not name the file.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("does not exist, so that nothing is known of this run: run its stage again") from None
    return _parsed(path, (status.st_mtime_ns, status.st_size))


def discover(root: Path = Path(), folders: Sequence[Path] = (), places: Sequence[Place] = ()) -> Found:
    """Finds runs; anything that cannot be read becomes a notice and hides no other run.

    Args:
        root: the project's folder.
        folders: other folders, given by option: each is a project, a folder of run folders, or a run folder.
        places: further project trees, such as other commits.
    """
    here = Place("", "workspace", LocalFiles(root))
    runs: dict[str, RunEntry] = {}
    notices: list[Notice] = []
    for entry in _project(here, notices):
        runs[entry.id] = entry
    finished = {run.config.get("fingerprint") for run in runs.values()}
    for entry in _in_progress(here, notices):
        if entry.config.get("fingerprint") not in finished:
            runs[entry.id] = entry
    for place in places:
        try:
            for entry in _project(place, notices):
                runs[entry.id] = entry
        except UserError as error:
            notices.append(Notice(f"{place.files.label}runs", str(error)))
    for folder, key in zip(folders, _keys(folders), strict=True):
        if not os.path.isdir(folder):  # a name that is too long is none either
            notices.append(Notice(str(folder), "is no folder: name a project, or a folder with run folders"))
            continue
        before = len(runs)
        for entry in _folder(Place(key, folder.name, LocalFiles(folder)), notices):
            runs[entry.id] = entry
        if len(runs) == before:
            notices.append(Notice(str(folder), "holds no run that can be shown"))
    if not runs:
        for entry in _project(Place("sample", "sample", LocalFiles(SAMPLE), "bundled with the app"), notices, "sample"):
            runs[entry.id] = entry
    return Found(runs, notices)


def imported(root: Path) -> list[Path]:
    """Returns the folders that `sdpg import` unpacked; each is laid out as a project with one run."""
    return sorted(path for path in root.glob("imported/[!.]*") if (path / "runs").is_dir())


def _keys(folders: Sequence[Path]) -> list[str]:
    """Returns a short name for each folder, with a number where two are alike."""
    keys: list[str] = []
    for folder in folders:
        name = folder.resolve().name or "folder"
        same = sum(key.split("~")[0] == name for key in keys)
        keys.append(f"{name}~{same + 1}" if same else name)
    return keys


def _id(place: Place, name: str) -> str:
    return f"{place.key}/{name}" if place.key else name


def _entry(place: Place, folder: str, name: str, kind: Kind, notices: list[Notice]) -> RunEntry | None:
    """Returns the run in a folder; None, and a notice, where it cannot be read."""
    try:
        if not place.files.names(folder):
            notices.append(Notice(f"{place.files.label}{folder}", "is empty: its stage did not finish; run it again"))
            return None
        path = place.files.path(f"{folder}/config.yaml")
        config = read_config(path)
        if isinstance(place.files, LocalFiles) and kind != "in progress":
            _check_identity(path.parent)
    except UserError as error:
        path = f"{place.files.label}{folder}/config.yaml"
        notices.append(Notice(path, str(error).removeprefix(path).lstrip()))
        return None
    if kind != "in progress" and not place.files.exists(f"{folder}/COMPLETE"):
        notices.append(Notice(f"{place.files.label}{folder}/COMPLETE", "does not exist: the run is shown as far as it "
                              "was written; run its stage again to finish it"))  # fmt: skip
        kind = "unfinished"
    return RunEntry(_id(place, name), name.split("~")[0], place, folder, kind, config)


def _check_identity(folder: Path) -> None:
    """Raises where a folder holds another run than its name and its config.yaml say; the rest is checked when read."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    if changed := [*renamed(folder, manifest), *changes(folder, manifest, ["config.yaml"])]:
        raise altered(folder, changed)


def _subfolders(files: Files, folder: str) -> Iterator[str]:
    """Yields the names of visible subfolders; the remains of a killed process start with a dot."""
    for name in files.names(folder):
        inside = f"{folder}/{name}" if folder else name
        if not name.startswith(".") and _is_folder(files, inside):
            yield name


def _is_folder(files: Files, name: str) -> bool:
    try:
        return bool(files.names(name)) or (isinstance(files, LocalFiles) and files.path(name).is_dir())
    except UserError:
        return True  # the folder belongs to another commit and its list of files is unavailable, as its notice will say


def _project(place: Place, notices: list[Notice], kind: Kind = "finished") -> Iterator[RunEntry]:
    """Yields the runs and trials of a project."""
    for name in _subfolders(place.files, "runs"):
        if name == "tune":
            continue
        if entry := _entry(place, f"runs/{name}", name, kind, notices):
            yield entry
    for study in _subfolders(place.files, "runs/tune"):
        trials = _subfolders(place.files, f"runs/tune/{study}")
        for trial in sorted(trials, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)):
            if any(place.files.exists(f"runs/tune/{study}/{trial}/{mark}") for mark in MARKS):
                entry = _entry(place, f"runs/tune/{study}/{trial}", f"tune/{study}/{trial}", "trial", notices)
                if entry:
                    yield entry


def _in_progress(place: Place, notices: list[Notice]) -> Iterator[RunEntry]:
    """Yields runs that are training or were interrupted; their folders are named by fingerprints."""
    for name in place.files.names(".state"):
        folder = f".state/{name}"
        if not place.files.exists(f"{folder}/metrics.csv") or not place.files.exists(f"{folder}/config.yaml"):
            continue  # it is other work in progress, or a run that has not begun
        entry = _entry(place, folder, f"in-progress-{name}", "in progress", notices)
        if entry:
            yield RunEntry(entry.id, f"{entry.method}-{entry.seed}", place, folder, "in progress", entry.config)


def _folder(place: Place, notices: list[Notice]) -> Iterator[RunEntry]:
    """Yields the runs of a folder given by option: a project, a run folder, or a folder of run folders."""
    files = place.files
    if files.exists("config.yaml"):
        folder = files.path("").resolve()
        above = Place(place.key, place.label, LocalFiles(folder.parent))
        if entry := _entry(above, folder.name, folder.name, "finished", notices):
            yield entry
        return
    if files.names("runs"):
        yield from _project(place, notices)
        return
    for name in _subfolders(files, ""):
        if any(files.exists(f"{name}/{mark}") for mark in MARKS) and (
            entry := _entry(place, name, name, "finished", notices)
        ):
            yield entry
