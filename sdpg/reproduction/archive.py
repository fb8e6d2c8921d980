"""Packs a finished run into one archive with the layout of the hub's model repositories, and reads one from elsewhere.

The policy's files, a model card, licence and citation lie at the top, the run's records in ``runs/``, ``evaluations/``,
``models/`` and ``reports/`` as in a project. A manifest at the top holds the size and the digest of every file. An
archive may come from anybody: names are checked before anything is written, no more is read than the manifest says, and
nothing in it is run or unpickled.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path, PurePosixPath
import shutil
import tempfile
from typing import IO, Any
import zipfile
import zlib

from sdpg import paths
from sdpg.errors import UserError
from sdpg.files import check_name, replaced_file, replaced_folder, write_text
from sdpg.params import parse_params
from sdpg.records.manifest import NAME, Manifest, check_folder, manifest_tree, parse_manifest, sha256
from sdpg.reproduction.card import model_card
from sdpg.reproduction.rebuild import read_run_config, recorded_params
from sdpg.results.runs import read_results

TOP = ("README.md", "LICENSE", "CITATION.cff", NAME)
"""The files at the top that are not the policy's."""
FOLDERS = ("runs", "evaluations", "models", "reports")
SUFFIXES = frozenset({
    ".json", ".safetensors", ".txt", ".model", ".jinja", ".csv", ".yaml", ".parquet", ".md", ".tex", ".png", ".cff", "",
})  # fmt: skip
"""The kinds of files in an archive; pages and pictures that could run code in a browser are not among them."""
STORED = frozenset({".safetensors", ".parquet", ".png"})
"""Files that are packed already, or do not get smaller."""
TABLES = ("table.json", "table.md", "table.csv", "table.tex", "final.json", "claims.json", "choices.md", "curves.png")
LARGEST_MANIFEST = 64 << 20
LARGEST = 200 << 30
"""The bytes that an archive may unpack to."""
MOST_FILES = 200_000
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member, so that equal runs give equal archives."""
_PIECE = 1 << 20


def export_run(name: str, project: Path = Path(), out: Path | None = None) -> Path:
    """Writes the archive of a finished and evaluated run, whole or not at all; returns its path.

    Args:
        name: the run's name below ``runs/``.
        project: the project's folder.
        out: the archive; otherwise ``exported/<name>.zip``.

    Raises:
        UserError: if the run, its evaluation, the base's or the tables are missing or not what their stages wrote.
    """
    check_name(name, "RUN")
    run = project / "runs" / name
    config = read_run_config(run)
    if not (run / "policy").is_dir():
        raise UserError(f"{run} has no policy: runs of studies keep none; retrain the setting, or export another run")
    tree = recorded_params(config)
    tree["run"] = {"methods": [config["method"]], "seeds": [config["seed"]]}
    # Reading compares every file with its manifest.
    results = read_results(parse_params(tree, f"{run / 'config.yaml'}"), project)
    target = out or paths.EXPORTED / f"{name}.zip"
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        write_text(top / "README.md", model_card(results, config, name))
        files = dict(_contents(project, name)) | {"README.md": top / "README.md"}
        write_text(top / NAME, _archive_manifest(files, name))
        with replaced_file(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for inside, path in [(NAME, top / NAME), *sorted(files.items())]:
                _add(archive, inside, path)
    return target


def _contents(project: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yields the name in the archive and the path of each file of the project that belongs to a run."""
    for file in ("LICENSE", "CITATION.cff"):
        if (project / file).is_file():
            yield file, project / file
    folders = [Path("runs") / name, Path("evaluations") / name, paths.BASE_EVALUATIONS]
    for folder in folders:
        for path in sorted((project / folder).rglob("*")):
            inside = path.relative_to(project / folder)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                at_top = folder.parts[0] == "runs" and inside.parts[0] == "policy"
                yield (PurePosixPath(*inside.parts[1:]) if at_top else folder / inside).as_posix(), path
    reports = project / paths.REPORTS
    if (reports / NAME).is_file():
        check_folder(reports, *TABLES)
        yield from (((paths.REPORTS / table).as_posix(), reports / table) for table in TABLES
                    if (reports / table).is_file())  # fmt: skip


def _archive_manifest(files: Mapping[str, Path], name: str) -> str:
    """Returns the text of the manifest of the archive."""
    noted = {inside: (path.stat().st_size, sha256(path)) for inside, path in sorted(files.items())}
    return json.dumps(manifest_tree(Manifest(name, noted)), indent=2, ensure_ascii=False) + "\n"


def _add(archive: zipfile.ZipFile, inside: str, path: Path) -> None:
    member = zipfile.ZipInfo(inside, EPOCH)
    member.compress_type = zipfile.ZIP_STORED if path.suffix in STORED else zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    member.file_size = path.stat().st_size
    with path.open("rb") as source, archive.open(member, "w") as copy:
        shutil.copyfileobj(source, copy, _PIECE)


@dataclass(frozen=True)
class Archive:
    """An archive whose list of files was checked; the content of a file is checked as it is read."""

    path: Path
    zipped: zipfile.ZipFile
    manifest: Manifest

    @property
    def name(self) -> str:
        """Returns the name of the run."""
        return self.manifest.name

    def place(self, inside: str) -> Path:
        """Returns where a file of the archive lies in the folder of an imported run."""
        parts = PurePosixPath(inside).parts
        if parts[0] in FOLDERS or inside in TOP:
            return Path(inside)
        return Path("runs") / self.name / "policy" / inside

    def copy(self, inside: str, target: IO[bytes]) -> None:
        """Writes the content of a file to a stream.

        Raises:
            UserError: if it is not what the manifest says; no more bytes are read than that.
        """
        size, digest = self.manifest.files[inside]
        found, left = hashlib.sha256(), size
        try:
            with self.zipped.open(inside) as source:
                while piece := source.read(min(_PIECE, left + 1)):
                    left -= len(piece)
                    if left < 0:
                        break
                    found.update(piece)
                    target.write(piece)
        # Beside damage: a way of packing that Python lacks (NotImplementedError), and encryption (RuntimeError).
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise _damaged(self.path, f"{inside}: {error}") from None
        if left or found.hexdigest() != digest:
            raise _damaged(self.path, f"{inside} is not what was exported")


def open_archive(path: Path) -> Archive:
    """Opens an archive and checks its list of files: names, kinds, sizes, and that it agrees with the manifest.

    Raises:
        UserError: if it is no archive of a run, is damaged or cut short, or holds what none does.
    """
    try:
        zipped = zipfile.ZipFile(path)
        members = zipped.infolist()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name an archive that sdpg export wrote") from None
    # Beside damage: a folder or a file that may not be read, names that are no text, a newer version of the format.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, str(error)) from None
    if len(members) > MOST_FILES:
        raise _damaged(path, f"it holds {len(members):,} files")
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or NAME not in names:
        raise _damaged(path, f"it has no {NAME}, or two files of one name")
    if zipped.getinfo(NAME).file_size > LARGEST_MANIFEST:
        raise _damaged(path, f"its {NAME} is too large")
    try:
        with zipped.open(NAME) as file:
            text = file.read(LARGEST_MANIFEST + 1)
        tree = json.loads(text)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RecursionError, RuntimeError) as error:
        raise _damaged(path, f"{NAME}: {error}") from None
    archive = Archive(path, zipped, parse_manifest(tree, f"{path}, {NAME}", _remedy()))
    check_name(archive.name, f"{path}, {NAME}, name")
    for name in archive.manifest.files:
        if PurePosixPath(name).suffix not in SUFFIXES:
            raise UserError(f"{path} holds {name}, a kind of file that no archive of a run has: {_remedy()}")
    if set(names) != {NAME, *archive.manifest.files}:
        odd = sorted(set(names) ^ {NAME, *archive.manifest.files})
        raise _damaged(path, f"its list of files differs from its manifest in {', '.join(odd[:5])}")
    if any((member.external_attr >> 16) & 0o170000 not in (0, 0o100000) for member in members):
        raise _damaged(path, "it holds something that is no plain file")
    total = sum(size for size, _ in archive.manifest.files.values())
    if total > LARGEST or min((size for size, _ in archive.manifest.files.values()), default=0) < 0:
        raise UserError(f"{path} would unpack to {total:,} bytes, and {LARGEST:,} are allowed: see what it holds")
    return archive


def import_run(path: Path, folder: Path = paths.IMPORTED) -> Path:
    """Unpacks an archive into ``<folder>/<run>``, laid out as a project; it is there whole or not at all.

    Raises:
        UserError: if the archive cannot be trusted or is damaged, there is no room, or the run is there already.
    """
    archive = open_archive(path)
    with archive.zipped:
        target = folder / archive.name
        if target.exists():
            raise UserError(f"{target} is there already: remove it, or unpack to another folder (--into)")
        with replaced_folder(target) as temporary:
            total, room = sum(size for size, _ in archive.manifest.files.values()), shutil.disk_usage(temporary).free
            if total > room:
                raise UserError(f"{path} unpacks to {total:,} bytes, and there is room for {room:,}: free some space")
            for inside in archive.manifest.files:
                place = temporary / archive.place(inside)
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as file:
                    archive.copy(inside, file)
            # Beside the digests of the archive, those that the run's own stages wrote.
            for part in (Path("runs") / archive.name, Path("evaluations") / archive.name, paths.BASE_EVALUATIONS):
                if (temporary / part).is_dir():
                    check_folder(temporary / part)
    return target


def archived_config(path: Path) -> dict[str, Any]:
    """Returns the config.yaml of the run in an archive, without unpacking anything else."""
    archive = open_archive(path)
    inside = f"runs/{archive.name}/config.yaml"
    if inside not in archive.manifest.files:
        raise _damaged(path, f"it has no {inside}")
    with archive.zipped, tempfile.TemporaryDirectory() as scratch:
        with (Path(scratch) / "config.yaml").open("wb") as file:
            archive.copy(inside, file)
        return read_run_config(Path(scratch))


def _remedy() -> str:
    return "export the run again, or fetch the archive again"


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged, or no archive of a run ({why}): {_remedy()}")
