"""Tests the wheel: what is in it, what it needs, and that a project is made from it away from the checkout."""

from email import message_from_string
import json
from pathlib import Path
import subprocess
import sys
import zipfile

import pytest

from sdpg.commands.new_folder import COPIED
from sdpg.records.code import read_code
from tests.helpers.clones import ENVIRONMENT, run

ROOT = Path(__file__).parents[2]
INSIDE = "sdpg/project/"
IDENTITY = {f"GIT_{role}_{part}": "t@t" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the working tree, built without an index."""
    folder = tmp_path_factory.mktemp("dist")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (file,) = folder.iterdir()
    assert file.name == "sdpg-0.2.0-py3-none-any.whl"
    return zipfile.ZipFile(file)


def test_it_holds_the_package_and_what_a_project_needs(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"sdpg", "sdpg-0.2.0.dist-info"}
    tracked = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    inside = {name.removeprefix(INSIDE) for name in names if name.startswith(INSIDE)}
    assert inside <= set(tracked), "nothing that git ignores, such as problems of one's own"
    assert {name for name in names if name.startswith("sdpg/") and not name.startswith(INSIDE)} == {
        name for name in tracked if name.startswith("sdpg/") and (ROOT / name).is_file()
    }
    # Whole folders, the app's too; tests and benchmarks stay in the checkout.
    for name in (*COPIED, "app", "requirements.lock", "docs/metrics.md"):
        below = {file for file in tracked if file == name or file.startswith(f"{name}/") if (ROOT / file).is_file()}
        assert below and below <= inside, name
    assert not {name for name in inside if name.startswith(("tests", "benchmarks", "docs/app/", "docs/results/"))}


def test_its_core_is_small_and_the_workbench_an_extra(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_string(wheel.read("sdpg-0.2.0.dist-info/METADATA").decode())
    required = metadata.get_all("Requires-Dist", [])
    assert {line.split(">")[0].split("<")[0] for line in required if "extra ==" not in line} == {"numpy", "torch"}
    assert set(metadata.get_all("Provides-Extra", [])) == {"dev", "postgresql", "reasoning-gym", "vllm", "workbench"}
    workbench = {line.split(";")[0] for line in required if "extra == 'workbench'" in line}
    assert len(workbench) > 25 and workbench <= {line.split(";")[0] for line in required if "extra == 'dev'" in line}
    entry = wheel.read("sdpg-0.2.0.dist-info/entry_points.txt").decode()
    assert entry.split() == ["[console_scripts]", "sdpg", "=", "sdpg.commands.main:main"]


def test_losses_and_head_import_nothing_but_torch_and_numpy() -> None:
    program = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        top, frame = name.split(".")[0], sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        ours = frame.f_globals.get("__name__", "").split(".")[0] in ("sdpg", "__main__")
        if ours and top not in {*sys.stdlib_module_names, "sdpg", "torch", "numpy"}:
            raise ImportError(f"{name} is no part of the core installation")
sys.meta_path.insert(0, Forbidden())
import sdpg.objective, sdpg.models.fused_head
from sdpg.objective import advantages, divergences, losses, outcomes, responses, schedules
try:
    import sdpg.params
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "is no part of the core installation" in done.stdout, "what is forbidden would have been seen"


@pytest.mark.slow
def test_a_project_is_made_from_it_and_its_first_stage_runs(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "installed")
    environment = ENVIRONMENT | IDENTITY | {"PYTHONPATH": str(tmp_path / "installed")}

    def call(folder: Path, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    (tmp_path / "à côté").mkdir()
    said = call(tmp_path / "à côté", "sdpg.commands", "new", "my project", "--profile", "micro", "--methods", "grpo")
    assert "+profile: micro" in said and said.endswith("Next: cd 'my project' && sdpg repro\n")
    project = tmp_path / "à côté" / "my project"
    assert not run(project, "git", "status", "--porcelain").stdout, "all is committed"
    assert not (project / "app").exists() and not (project / "sdpg").exists()
    call(project, "pipelines.check")
    assert json.loads((project / "data/check.json").read_text()) == {"valid": True}
    # Stages lie in the project and the package elsewhere, and both count as they do in a checkout.
    code = json.loads((project / "data/code/train-grpo.json").read_text())
    assert code["digest"] == read_code("pipelines.train").digest and "pipelines/train.py" in code["modules"]
    program = "import os, sdpg.commands.main as m; os.execv = lambda _, words: print(*words, sep='\\n'); m.main()"
    started = subprocess.run(
        [sys.executable, "-c", program, "app", "--folder", "x"], cwd=project / "inputs", env=environment,
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    # The app that comes with the package, on the project; what its options name lies where they were given.
    assert started[4] == str(tmp_path / "installed/sdpg/project/app/main.py")
    assert started[-3:] == ["--", "--folder", "inputs/x"]
