"""Notes size and digest of every file of a finished run, evaluation or report, and names what has changed since.

A manifest is written last, beside what it notes. Whoever reads a folder checks the files that it reads. The module
imports no torch. docs/records.md says what is noticed, and by whom.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from glob import escape
import hashlib
from pathlib import Path
import re
import sys
from typing import Any

from sdpg.errors import UserError
from sdpg.files import check_within, read_json, write_json

NAME = "manifest.json"
VERSION = 1
COMPLETE = "COMPLETE"
"""The file that marks a run as finished: it is written after the manifest, which has its content."""
UNNOTED = frozenset({NAME, COMPLETE, "timing.csv"})
"""Files that a manifest leaves out: no result depends on times, and equal runs differ in them."""
KINDS = {
    "config.yaml": "parameters and provenance", "policy/tokenizer*": "the tokenizer",
    "policy/*.safetensors": "the policy's weights", "policy/*": "the policy", "rollouts/*": "rollouts",
    "evaluations/*": "an evaluation in training", "final.parquet": "the final evaluation",
    "sampled.parquet": "the base's evaluation", "table.*": "the main table", "*.csv": "a table of the training",
    "*.jsonl": "prepared problems",
}  # fmt: skip
"""Pattern of a file's name → what it holds, in words; the first that fits counts."""
_HEX = re.compile(r"[0-9a-f]{64}")
_SHOWN = 5


@dataclass(frozen=True)
class Manifest:
    """The files of a folder as they were when its stage ended.

    Attributes:
        name: the folder's name then.
        files: path of a file, relative to the folder → its size in bytes and its SHA-256.
        fingerprint: the content of the file COMPLETE; empty where the folder has none.
        made_from: what else the files depend on → its digest.
    """

    name: str
    files: Mapping[str, tuple[int, str]]
    fingerprint: str = ""
    made_from: Mapping[str, str] = field(default_factory=dict)

    def digest(self, *patterns: str) -> str:
        """Returns one digest of the files that fit a pattern, names included; of all where there is no pattern."""
        lines = [f"{name} {sha}\n" for name, (_, sha) in sorted(self.files.items()) if _fits(name, patterns)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def note_folder(
    folder: Path,
    name: str,
    fingerprint: str = "",
    made_from: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
) -> Manifest:
    """Writes the manifest of a folder whose files are all there.

    Args:
        folder: the folder, which may still have a temporary name.
        name: the name that the folder gets.
        fingerprint: what the file COMPLETE will hold.
        made_from: digests of what the files depend on, by name.
        names: the files, where the folder has others beside them; otherwise all but :data:`UNNOTED`.
    """
    noted = _noted(folder) if names is None else (folder / each for each in sorted(names))
    files = {path.relative_to(folder).as_posix(): (path.stat().st_size, sha256(path)) for path in noted}
    manifest = Manifest(name, files, fingerprint, dict(made_from or {}))
    write_json(folder / NAME, manifest_tree(manifest))
    return manifest


def manifest_tree(manifest: Manifest) -> dict[str, Any]:
    """Returns a manifest as plain containers, ready for JSON."""
    return {
        "version": VERSION, "name": manifest.name, "fingerprint": manifest.fingerprint,
        "made_from": dict(manifest.made_from),
        "files": {path: {"size": size, "sha256": digest} for path, (size, digest) in manifest.files.items()},
    }  # fmt: skip


def read_manifest(folder: Path) -> Manifest | None:
    """Reads a folder's manifest; None where it has none.

    Raises:
        UserError: if it is damaged, or of a version that this code does not know.
    """
    path = folder / NAME
    if not path.exists():
        return None
    tree = read_json(path, _remedy(folder))
    return parse_manifest(tree, str(path), _remedy(folder))


def parse_manifest(tree: Any, source: str, remedy: str) -> Manifest:
    """Returns the manifest in a tree that was read from JSON.

    Args:
        tree: the tree.
        source: what errors call it.
        remedy: what a person does where it is damaged.

    Raises:
        UserError: if it is damaged, or of a version that this code does not know.
    """
    version = tree.get("version") if isinstance(tree, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UserError(f"{source} has version {version}, of newer code; this code reads versions up to {VERSION}: "
                        "update this checkout (git pull), or use the commit that wrote it")  # fmt: skip
    try:
        files = {str(name): (int(one["size"]), str(one["sha256"])) for name, one in tree["files"].items()}
        made_from = {str(name): str(digest) for name, digest in tree["made_from"].items()}
        manifest = Manifest(str(tree["name"]), files, str(tree["fingerprint"]), made_from)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise UserError(f"{source} is damaged: it is not what a stage writes. {remedy}") from None
    for name, (_, digest) in files.items():
        check_within(name, source)
        if not _HEX.fullmatch(digest):
            raise UserError(f"{source} is damaged: {name} has no SHA-256 there. {remedy}")
    return manifest


def check_folder(folder: Path, *patterns: str) -> Manifest | None:
    """Compares files of a folder with its manifest.

    Args:
        folder: the folder of a run, of an evaluation or of reports.
        patterns: patterns of the files that the caller reads, such as ``rollouts/*``; all files where there is none.

    Returns:
        The manifest; None where the folder has none, which is said once on stderr.

    Raises:
        UserError: if the folder has another name than its manifest says, or a file is changed, missing or new; the
            message names up to five files and what they hold.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        _say_unknown(folder)
        return None
    if changed := [*renamed(folder, manifest), *changes(folder, manifest, patterns)]:
        raise altered(folder, changed)
    return manifest


def check_origin(folder: Path, manifest: Manifest | None, expected: Mapping[str, str]) -> None:
    """Compares what a folder's files were made from with what lies beside it now.

    Args:
        folder: the folder.
        manifest: its manifest; without one, nothing is known and nothing is compared.
        expected: names in ``made_from`` → the digests that they should have; an empty one is not known.

    Raises:
        UserError: if they differ; the message names what differs.
    """
    known = manifest.made_from if manifest else {}
    if wrong := [f"it was made from another {name}" for name, digest in expected.items()
                 if digest and known.get(name, digest) != digest]:  # fmt: skip
        raise altered(folder, wrong)


def renamed(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yields, in words, whether a folder has another name than its stage gave it."""
    if (now := folder.resolve().name) != manifest.name:
        yield f"it is {manifest.name} under another name ({now})"


def changes(folder: Path, manifest: Manifest, patterns: Sequence[str] = ()) -> Iterator[str]:
    """Yields, in words, each file that fits a pattern and is not as the manifest has it."""
    for name, (size, digest) in manifest.files.items():
        if not _fits(name, patterns):
            continue
        path, holds = folder / name, _holds(name)
        if not path.is_file():
            yield f"{name}{holds} is missing"
        elif (found := path.stat().st_size) != size:
            yield f"{name}{holds} has {found:,} bytes and not {size:,}"
        elif sha256(path) != digest:
            yield f"{name}{holds} has other content"
    for path in _noted(folder):
        name = path.relative_to(folder).as_posix()
        if name not in manifest.files and _fits(name, patterns):
            yield f"{name}{_holds(name)} is new"
    if manifest.fingerprint and _first_line(folder / COMPLETE) != manifest.fingerprint:
        yield f"{COMPLETE} is missing, or of another run"


def altered(folder: Path, changed: Sequence[str]) -> UserError:
    """Returns the error that names what was changed in a folder."""
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return UserError(f"{folder} is not what its stage wrote: {'; '.join(changed[:_SHOWN])}{more}. {_remedy(folder)}")


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hex digits, as the command sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def noted_files(folder: Path) -> list[str]:
    """Returns the names of the files that a folder's manifest notes."""
    return [path.relative_to(folder).as_posix() for path in _noted(folder)]


def _noted(folder: Path) -> Iterator[Path]:
    """Yields the files that a manifest notes; hidden ones, which are git's or half written, are not among them."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and str(inside) not in UNNOTED and not any(part.startswith(".") for part in inside.parts):
            yield path


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _holds(name: str) -> str:
    words = next((words for pattern, words in KINDS.items() if fnmatchcase(name, pattern)), None)
    return f" ({words})" if words else ""


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _remedy(folder: Path) -> str:
    return f"Put back what was written (dvc checkout --force), or run the stage that writes {folder} again"


def check_file(path: Path) -> None:
    """Compares one file with the manifest of its folder, or of the folder above; without one, nothing is known.

    Raises:
        UserError: if the file is not what was written.
    """
    for folder in (path.parent, path.parent.parent):
        name = path.relative_to(folder).as_posix()
        if (folder / NAME).is_file() and name not in UNNOTED:
            manifest = read_manifest(folder)
            if manifest is not None and (changed := list(changes(folder, manifest, [escape(name)]))):
                raise altered(folder, changed)
            return


@cache
def _say_unknown(folder: Path) -> None:
    """Says once for each folder that nothing is known of its files."""
    sys.stderr.write(f"{folder} has no {NAME}, as it is of an older version: nothing tells whether it was changed\n")
