"""Tests README's path from own problems and a model to a training run, and what the command says on the way."""

import json
from pathlib import Path
import shlex
import shutil
import sys
from typing import Any

import pytest

from pipelines.new_project import main
from pipelines.own_problems import guessed_columns
from pipelines.prepare import main as prepare
from sdpg.errors import UserError
from sdpg.evaluation.base import build_base
from sdpg.params import TrackingParams, load_params
from sdpg.params.configure import configure
from sdpg.problems.measuring import Lengths, Limits, Measured, propose_limits
from sdpg.problems.sources import Overlap, ProblemSet
from sdpg.records.mlflow_store import connect
from sdpg.training.run import train_run
from tests.helpers.row_files import write_rows

ROOT = Path(__file__).parents[2]


def sums(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"Question number": n, "question": f"{n % 90} + {n % 7} = ?", "answer": str(n % 90 + n % 7),
         "solution": f"{n % 90} + {n % 7} = {n % 90 + n % 7}. \\boxed{{{n % 90 + n % 7}}}" if n % 4 else ""}
        for n in range(first, first + count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(TrackingParams(uri=f"sqlite:///{folder}/mlflow.db"))
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Path) -> Path:
    """A project on the micro profile with the committed model, and files of somebody who has just come."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "catalogue.yaml", "profiles", "presets", "inputs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    shutil.copy(database, tmp_path)
    configure(tmp_path, profile="micro")
    write_rows(tmp_path / "mine.csv", sums(0, 60), "\r\n", b"\xef\xbb\xbf")
    write_rows(tmp_path / "exam.csv", sums(58, 8), "\r\n")
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["new_project", *arguments])
    main()


def printed_commands() -> list[str]:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("    sdpg new"))
    return [line.strip() for line in lines[start : start + 2]]


def test_readmes_path_works_as_printed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new, repro = printed_commands()
    assert shlex.split(repro)[:2] == ["sdpg", "repro"]
    call(monkeypatch, *shlex.split(new)[2:])
    said = capsys.readouterr().out
    assert "inputs/problems/mine.csv (problem=question, answer=answer, solution=solution)" in said
    assert "60 rows, 60 problems; 45 (75%) with a worked solution" in said
    assert "`check` accepts it.\nNext: sdpg repro" in said
    params = load_params()
    assert params.prompts.hint == "answer_and_solution"
    assert (params.base.name, list(params.data.benchmarks)) == ("tiny-base", ["exam"])
    prepare()
    metrics = json.loads(Path("data/prepare.json").read_text())
    # 58 and 59 are in the exam, too: they are counted, and not trained on.
    assert metrics["sets"]["benchmarks/exam"]["kept"] == 8
    assert metrics["sets"]["train"]["dropped"]["overlaps_benchmark"] == 2
    assert metrics["sets"]["train"]["dropped"]["teacher_prompt_too_long"] == 0
    build_base(params)
    assert train_run(params, "sdpg-ufkl", 0) == Path("runs/sdpg-ufkl-0")


def test_a_raw_layout_a_folder_elsewhere_and_limits_of_ones_own(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": [{"role": "user", "content": row["question"]}], "reward_model": {"ground_truth": row["answer"]}}
            for row in sums(0, 40)]  # fmt: skip
    write_rows(project / "elsewhere/raw.jsonl.gz", rows)
    shutil.move(project / "inputs/models/tiny-base", project / "elsewhere/my-model")
    call(monkeypatch, "--problems", "elsewhere\\raw.jsonl.gz", "--model", "elsewhere/my-model", "--benchmarks",
         "exam.csv, digits-b", "--max-response", "24", "--validation", "7")  # fmt: skip
    params, said = load_params(), capsys.readouterr().out
    assert "problem=prompt, answer=reward_model.ground_truth" in said
    assert (params.prompts.hint, params.rollout.max_tokens, params.data.validation_size) == ("answer", 24, 7)
    assert "0 (0%) with a worked solution" in said
    assert (params.base.name, list(params.data.benchmarks)) == ("my-model", ["exam", "digits-b"])
    assert (project / "inputs/models/my-model/model.safetensors").stat().st_nlink == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "tiny-base", "--benchmarks", "exam.csv"], "--problems is missing: the file of problems"),
        (["--problems", "gone.csv", "--model", "tiny-base", "--benchmarks", "exam.csv"], "gone.csv is no file, here"),
        (["--problems", "mine.csv", "--model", "no model", "--benchmarks", "exam.csv"], "--model is 'no model': name"),
        (["--problems", "mine.csv", "--model", "tiny-base", "--benchmarks", "aime99"], "'aime99': name a .*aime24"),
        (["--problems", "mine.csv", "--model", "tiny-base", "--benchmarks", "exam.csv", "--max-response", "999"],
         r"\(999\) = \d+ tokens, but the model's context is 256"),
        (["--problems", "mine.csv", "--model", "tiny-base", "--benchmarks", "exam.csv", "--validation", "60"],
         "validation_size is 60"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_message_and_params_yaml_stays(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError, match=said):
        call(monkeypatch, *arguments)
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"problem": "1+1", "answer": 2}, {}),
        ({"question": "1+1", "final_answer": ["2"], "solution": ["…"]},
         {"problem": "question", "answer": "final_answer", "solution": "solution"}),
        ({"question": "1+1", "answer": "so\n#### 2"},
         {"problem": "question", "solution": "answer", "answer_after": "####", "solution_without": "<<.*?>>"}),
        ({"messages": [], "target": "2", "id": 5}, {"problem": "messages", "answer": "target"}),
    ],
)  # fmt: skip
def test_usual_columns_are_found(row: dict[str, Any], columns: dict[str, str]) -> None:
    # Ids that repeat are no ids.
    found = guessed_columns([row, row], "mine.csv").model_dump(exclude_defaults=True)
    assert found == columns


def test_columns_that_nobody_would_guess_are_named() -> None:
    with pytest.raises(UserError, match=r"none of its columns \(frage, antwort\) .* a problem .*--columns prob"):
        guessed_columns([{"frage": "1+1", "antwort": 2}], "mine.csv")


def test_lengths_by_hand() -> None:
    assert Lengths.of([]) is None
    assert Lengths.of([7]) == Lengths(7, 7, 7)
    assert Lengths.of(list(range(200, 0, -1))) == Lengths(101, 199, 200)


def measured(solutions: Lengths | None, teacher: int = 200) -> Measured:
    held = {"exam": (9, Lengths(20, 60, 70), Overlap(0, 0, 0))}
    return Measured(ProblemSet([], 0), 0, Lengths(30, 64, 900), Lengths(90, teacher, 900), solutions, held)


@pytest.mark.parametrize(
    ("solutions", "context", "limits"),
    [
        # The longest prompt of the benchmark, 70, is more than 99 of 100 others: the next multiple of 32 is 96.
        (Lengths(40, 100, 500), None, Limits(96, 224, 224)), (Lengths(1, 2, 3), None, Limits(96, 224, 64)),
        (None, None, Limits(96, 224, 1024)), (None, 400, Limits(96, 224, 160)), (None, 290, Limits(96, 224, 64)),
    ],
)  # fmt: skip
def test_limits_by_hand(solutions: Lengths | None, context: int | None, limits: Limits) -> None:
    assert propose_limits(measured(solutions), context) == limits


def test_prompts_that_leave_no_room_are_named() -> None:
    with pytest.raises(UserError, match=r"prompts of 224 tokens leave 46 of the model's 270 for a response"):
        propose_limits(measured(None), 270)
