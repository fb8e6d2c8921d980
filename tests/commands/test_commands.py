"""Tests the command sdpg: its help, what it finds, and where the paths of its options lead."""

import importlib
import json
import os
from pathlib import Path
import shlex
import subprocess
import sys
from typing import get_args

import pytest

from pipelines import compare, new_project, plan, score, solutions
from pipelines.verifier_options import add_verifier_options
from sdpg import paths
from sdpg.commands import main as command
from sdpg.commands.project import find_project, settings_file, shipped_files
from sdpg.commands.table import COMMANDS, GROUPS, overview
from sdpg.errors import UserError
from sdpg.params import RewardParams
from sdpg.planning.work import CARDS
from sdpg.solutions.settings import Connection

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "pandas", "pydantic", "numpy", "scipy", "pyarrow", "mlflow", "optuna", "dvc", "streamlit", "rich"}
LINES, COLUMNS = 44, 100
"""The size of a screen; that of solutions, with thirty options, is the longest help."""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command changes in its process is put back."""
    monkeypatch.setattr(paths, "_given_from", None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in (*command.FIXED, "OMP_NUM_THREADS", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("OMP_NUM_THREADS")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The least that is a project, with a subfolder in which commands are given."""
    (tmp_path / "project" / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "project" / "pipelines").mkdir()
    (tmp_path / "project" / "pipelines" / "check.py").touch()
    (tmp_path / "project" / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "project" / "notes" / "deep")
    return tmp_path / "project"


def test_help_shows_an_example_on_one_screen_and_imports_nothing_heavy(tmp_path: Path) -> None:
    program = f"""
import contextlib, io, json, sys
from sdpg.commands.main import call
shown = {{}}
for name in {[*COMMANDS]}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        call([name, "--help"])
    shown[name] = [out.getvalue(), sorted({HEAVY!r} & sys.modules.keys())]
print(json.dumps(shown))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    for name, (text, heavy) in json.loads(done.stdout).items():
        assert text.startswith(f"usage: sdpg {name}"), text
        assert f"Example: sdpg {name}" in text, text
        assert not heavy, (name, heavy)
        assert len(text.splitlines()) <= LINES, text


def test_the_overview_fits_a_screen_and_names_every_command() -> None:
    shown = overview()
    assert len(shown.splitlines()) <= LINES and max(map(len, shown.splitlines())) <= COLUMNS
    assert all(f"  {name} " in shown for name in COMMANDS) and all(f"{purpose}:" in shown for purpose in GROUPS)


def test_values_in_help_are_those_that_are_in_force() -> None:
    assert set(plan.CARD_NAMES) == set(CARDS)
    shown, known = " ".join(solutions.parser().format_help().split()), Connection()
    for text in (
        f"otherwise {known.key_env}", f"at once ({known.concurrency})", f"endpoint ({known.timeout:g})",
        f"one request ({known.retries})", f"first retry ({known.first_pause:g})",
    ):  # fmt: skip
        assert text in shown
    parser = score.parser()
    add = " ".join(parser.format_help().split())
    assert all(f"{name}: " in add for name in get_args(RewardParams.model_fields["answer_format"].annotation))
    assert add_verifier_options.__doc__
    with pytest.raises(SystemExit):
        parser.parse_args(["a.jsonl", "--answer-format", "boxes"])


@pytest.mark.parametrize(("name", "near"), [("evalute", "evaluate"), ("tune_all", "tune-all"), ("resolve", "rescore")])
def test_an_unknown_command_names_the_near_one(name: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"no command '{name}': did you mean {near}\?"):
        command.call([name])


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(UserError, match=r"no command 'xyz' \(sdpg --help lists all\)"):
        command.call(["xyz"])


def test_the_nearest_project_is_found_from_any_subfolder(project: Path, tmp_path: Path) -> None:
    assert find_project(project / "notes" / "deep") == find_project(project) == project
    assert find_project(tmp_path) is None
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "pipelines").mkdir()
    assert find_project(tmp_path) is None, "another project of DVC has other stages"


@pytest.mark.parametrize("name", [name for name, each in COMMANDS.items() if not each.anywhere])
def test_without_a_project_the_way_to_one_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"sdpg {name} needs a project, and .* make one with sdpg new my-project"):
        command.call([name])


def test_what_options_name_is_looked_for_where_the_command_was_given(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "runs" / "grpo-0").mkdir(parents=True)
    (project / "notes" / "answers.jsonl").touch()
    seen: list[object] = []

    def main() -> None:
        seen.append(Path.cwd())
        seen.extend(compare.parser().parse_args(["grpo-0", "../answers.jsonl"]).runs)
        seen.append(paths.given_path("out/new.json"))
        seen.append(paths.given_path("/else/where"))

    monkeypatch.setattr(compare, "main", main)
    command.call(["compare", "grpo-0", "x"])
    # A run's name is one where no file is called so; what is to be written goes where the command was given.
    out = Path("notes/deep/out/new.json")
    assert seen == [project, "grpo-0", "notes/answers.jsonl", out, Path("/else/where")]


def test_in_the_project_itself_paths_stay_as_they_are(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    paths.enter(project)
    assert paths.given_path("a/../b") == Path("a/../b") and paths.given_name("notes") == "notes"


def test_stages_get_their_environment(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    seen: dict[str, str] = {}
    monkeypatch.setattr(compare, "main", lambda: seen.update(os.environ))
    command.call(["compare"])
    assert seen["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"
    assert seen["OMP_NUM_THREADS"] == "1" and seen["TOKENIZERS_PARALLELISM"] == "false"
    assert seen["DVC_NO_ANALYTICS"] == seen["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert seen["HF_HUB_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    command.set_environment()
    assert os.environ["OMP_NUM_THREADS"] == "4", "a number that somebody chose stays"
    assert os.environ["PATH"].count(str(Path(sys.executable).parent)) == 1


def test_a_package_that_is_missing_is_named_with_the_extra(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(compare, "main", lambda: lacking("pydantic.fields"))
    with pytest.raises(UserError, match=r"needs the package pydantic\.fields.*pip install 'sdpg\[workbench\]'"):
        command.call(["compare"])
    monkeypatch.setattr(compare, "main", lambda: lacking("sdpg.gone"))
    with pytest.raises(ModuleNotFoundError):
        command.call(["compare"])


def test_plan_and_score_work_outside_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"id": "a", "completion": "\\boxed{4}", "answer": "4"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n")
    command.call(["score", "answers.jsonl", "--verifier", "string_match"])
    assert json.loads(capsys.readouterr().out)["status"] == "correct"
    (tmp_path / "mine").mkdir()
    config = json.loads((ROOT / "inputs/models/tiny-base/config.json").read_text())
    (tmp_path / "mine/config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
    assert settings_file(Path()) == shipped_files() / "params.yaml"
    command.call(["plan", "--profile", "tiny", "--model", "mine"])
    assert "(7 layers, D 128" in capsys.readouterr().out


def test_new_outside_a_project_asks_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name the folder of a new one, as in sdpg new my-project"):
        command.call(["new", "--problems", "mine.csv"])


def test_user_errors_are_one_message_and_ctrl_c_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sdpg", "repor"])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: sdpg has no command 'repor'")

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(new_project, "main", interrupted)
    monkeypatch.setattr(sys, "argv", ["sdpg", "new"])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 130


def test_each_command_is_a_module_with_a_parser_and_a_main() -> None:
    for name, each in COMMANDS.items():
        module = importlib.import_module(f"pipelines.{each.module}")
        assert module.parser().prog == f"sdpg {name}" and callable(module.main)


def test_the_page_of_commands_names_all() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`sdpg {name}`" not in page and f"sdpg {name} " not in page] == []
    without = page[page.index("## Without a project") : page.index("## Make\n")]
    assert [name for name, each in COMMANDS.items() if each.anywhere and f"`{name}`" not in without] == ["gpu-check"]


@pytest.mark.parametrize(
    ("target", "given"),
    [
        (["repro", "JOBS=2", "PROFILE=micro", "METHODS=grpo rlsd", "SEEDS=3", "BENCHMARKS=a b"],
         {"jobs": 2, "profile": "micro", "preset": None, "methods": "grpo rlsd", "seeds": "3", "benchmarks": "a b"}),
        (["study", "STATUS=1", "PRESET=paper"], {"jobs": 1, "status": True, "preset": "paper", "publish": False}),
        (["study-readme"], {"publish": True, "status": False}),
        (["app", "FOLDER=a b"], {"folder": [Path("a"), Path("b")], "mlflow": None}),
        (["verify", "RUN=x y", "QUICK=1"], {"runs": ["x", "y"], "quick": 5}),
        (["gpu-check", "GPU_CHECK=--parts 1,3"], {"parts": "1,3"}),
    ],
)  # fmt: skip
def test_make_hands_everything_over(target: list[str], given: dict[str, object]) -> None:
    # The tests themselves may be run by make, which tells its children so.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", *target], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    word, name, *arguments = shlex.split(shown.splitlines()[-1])
    options = importlib.import_module(f"pipelines.{COMMANDS[name].module}").parser().parse_args(arguments)
    assert word == "sdpg" and given.items() <= vars(options).items()
