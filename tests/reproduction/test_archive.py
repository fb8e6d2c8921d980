"""Tests that an exported run is the same elsewhere, and that no archive of anybody's making does harm."""

from collections.abc import Callable
import json
from pathlib import Path
import shutil
from typing import Any
import zipfile

import pytest

from app import sources, store
from sdpg.errors import UserError
from sdpg.evaluation.rescoring import find_run
from sdpg.records.manifest import NAME
from sdpg.reproduction import archive
from sdpg.reproduction.archive import archived_config, export_run, import_run
from tests.helpers.finished import make_finished
from tests.helpers.killed import killed_at

ROOT = Path(__file__).parents[2]
MORE: dict[str, Any] = {"versions": {"python": "3.11.2", "torch": "2.13.0"}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exporting") / "with spaces, ü"
    make_finished(root, MORE)
    for name in ("LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def exported(project: Path) -> Path:
    return export_run("grpo-0", project, project / "grpo-0.zip")


def test_a_run_is_the_same_elsewhere_and_the_app_and_rescoring_read_it(
    project: Path, exported: Path, tmp_path: Path
) -> None:
    folder = import_run(exported, tmp_path / "imported")
    assert folder == tmp_path / "imported" / "grpo-0"
    for part in ("runs/grpo-0", "evaluations/grpo-0", "models/base-evaluations"):
        files = {path.relative_to(project) for path in (project / part).rglob("*") if path.is_file()}
        assert files and all((folder / file).read_bytes() == (project / file).read_bytes() for file in files)
    assert (folder / "reports/table.json").read_bytes() == (project / "reports/table.json").read_bytes()
    (tmp_path / "imported" / ".grpo-1.partial-1" / "runs").mkdir(parents=True)
    assert sources.imported(tmp_path) == [folder]
    found = sources.discover(tmp_path, [folder])
    assert list(found.runs) == ["grpo-0/grpo-0"] and not found.notices
    assert len(store.index(found.runs["grpo-0/grpo-0"])[0]) == 6
    assert len(find_run(str(folder / "runs/grpo-0"), {}, tmp_path).files) == 8
    assert archived_config(exported)["versions"] == MORE["versions"]
    with pytest.raises(UserError, match="is there already"):
        import_run(exported, tmp_path / "imported")


def test_the_archive_is_laid_out_as_a_model_repository_of_the_hub(exported: Path) -> None:
    with zipfile.ZipFile(exported) as zipped:
        names = zipped.namelist()
        card = zipped.read("README.md").decode()
    assert {"README.md", "LICENSE", "CITATION.cff", "model.safetensors", "tokenizer.json", NAME} <= set(names)
    assert not any(name.endswith((".html", ".svg", ".py")) for name in names)
    head = card.split("---\n")[1]
    assert "license: apache-2.0\n" in head and "library_name: transformers\n" in head
    for words in (
        "## Data",
        "## Method",
        "| D1 |",
        "| D22 |",
        "95% intervals",
        "Chains of 3",
        "torch 2.13.0",
        "CITATION",
    ):
        assert words in card, words
    assert card.count("GRPO") > 6 and "rlsd" not in card.split("## Results")[1]


def test_equal_runs_give_equal_archives(project: Path, exported: Path, tmp_path: Path) -> None:
    assert export_run("grpo-0", project, tmp_path / "again.zip").read_bytes() == exported.read_bytes()


def test_what_was_altered_is_not_exported(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "copy")
    with (tmp_path / "copy/runs/grpo-0/metrics.csv").open("a") as file:
        file.write("41,0.5\n")
    with pytest.raises(UserError, match=r"metrics\.csv"):
        export_run("grpo-0", tmp_path / "copy", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
    for name in ("../elsewhere", "", "nope"):
        with pytest.raises(UserError):
            export_run(name, project, tmp_path / "out.zip")


Members = dict[str, bytes]


def manifest(members: Members) -> dict[str, Any]:
    return json.loads(members[NAME])


def noted(members: Members, **changes: Any) -> Members:
    return members | {NAME: json.dumps(manifest(members) | changes).encode()}


def added(name: str, content: bytes = b"") -> Callable[[Members], Members]:
    """Adds a file, which the manifest notes as it is."""
    import hashlib

    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return lambda members: noted(members, files={**manifest(members)["files"], name: entry}) | {name: content}


def resized(size: int) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        files = manifest(members)["files"]
        return noted(members, files={**files, "tokenizer.json": files["tokenizer.json"] | {"size": size}})

    return change


HOSTILE: dict[str, tuple[Callable[[Members], Members], str]] = {
    "a way out": (added("../out.json"), "plain name"),
    "an absolute name": (added("/tmp/out.json"), "plain name"),
    "a way out in the middle": (added("runs/../../out.json"), "plain name"),
    "a backslash": (added("runs\\..\\out.json"), "plain name"),
    "a pickle": (added("pytorch_model.bin"), "a kind of file"),
    "a module": (added("modeling.py"), "a kind of file"),
    "a page": (added("reports/report.html"), "a kind of file"),
    "a name that leads out": (lambda members: noted(members, name="../grpo-0"), "plain name"),
    "a file that is not noted": (lambda members: members | {"notes.txt": b"x"}, "manifest in notes.txt"),
    "a file that is missing": (lambda members: {name: content for name, content in members.items()
                                                if name != "tokenizer.json"}, "differs from its manifest in tokenizer"),
    "another weight": (lambda members: members | {"model.safetensors": members["model.safetensors"][:-1] + b"?"},
                       "model.safetensors is not what was exported"),
    "more than it says": (resized(3), "tokenizer.json is not what was exported"),
    "less than it says": (resized(300), "tokenizer.json is not what was exported"),
    "more than any disk has": (resized(1 << 50), "are allowed"),
    "a negative size": (resized(-1), "allowed"),
    "a future version": (lambda members: noted(members, version=99), "of newer code"),
    "no manifest": (lambda members: {name: content for name, content in members.items() if name != NAME},
                    "no manifest"),
    "no JSON": (lambda members: members | {NAME: b"[" * 9000}, "damaged"),
    "a file in the place of another": (added("runs/grpo-0/policy/tokenizer.json"), "cannot write"),
    "an added step of the run": (added("runs/grpo-0/rollouts/step-000007-rank-0.parquet"), "is new"),
}  # fmt: skip


@pytest.fixture(scope="module")
def members(exported: Path) -> Members:
    with zipfile.ZipFile(exported) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(members: Members, tmp_path: Path, kind: str) -> None:
    change, message = HOSTILE[kind]
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
        for name, content in change(members).items():
            zipped.writestr(name, content)
    with pytest.raises(UserError, match=message):
        import_run(tmp_path / "bad.zip", tmp_path / "imported")
    assert not list(tmp_path.glob("imported/*")) and not (tmp_path / "out.json").exists()


def test_links_twins_and_damage_are_refused(exported: Path, members: Members, tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            import_run(tmp_path / "bad.zip", tmp_path / "imported")
        assert not list(tmp_path.glob("imported/*"))

    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name == "tokenizer.json" else 0o100644) << 16
            zipped.writestr(info, content)
    refused("no plain file")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped, pytest.warns(UserWarning, match="Duplicate"):
        for name, content in [*members.items(), ("tokenizer.json", b"other")]:
            zipped.writestr(name, content)
    refused("two files of one name")
    whole = exported.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "bad.zip").write_bytes(whole[:size])
        refused("damaged")
    (tmp_path / "bad.zip").unlink()
    refused("does not exist")


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_byte_is_found_or_changes_nothing(exported: Path, project: Path, tmp_path: Path, seed: int) -> None:
    content = bytearray(exported.read_bytes())
    content[(seed * 7919 + 13) * 31 % len(content)] ^= 1 << seed % 8
    (tmp_path / "bad.zip").write_bytes(content)
    try:
        folder = import_run(tmp_path / "bad.zip", tmp_path / "imported")
    except UserError:
        assert not list(tmp_path.glob("imported/*"))
        return
    for name in ("policy/model.safetensors", "metrics.csv", "config.yaml"):
        assert (folder / "runs/grpo-0" / name).read_bytes() == (project / "runs/grpo-0" / name).read_bytes()


def test_killed_at_any_moment_nothing_half_written_is_taken_for_whole(
    project: Path, exported: Path, tmp_path: Path
) -> None:
    out, imported = tmp_path / "out.zip", tmp_path / "imported"
    for count in (0, 9):
        assert killed_at(count, archive, "_add", lambda: export_run("grpo-0", project, out))
        assert not out.exists()
    for count in (0, 2, 4):
        assert killed_at(count, archive, "check_folder", lambda: import_run(exported, imported)) is (count < 3)
        assert (imported / "grpo-0").exists() is (count >= 3)
    shutil.rmtree(imported)
    assert export_run("grpo-0", project, out).read_bytes() == exported.read_bytes()
    folder = import_run(out, imported)
    assert [path.name for path in imported.iterdir()] == [folder.name], "what the killed ones left is gone"
