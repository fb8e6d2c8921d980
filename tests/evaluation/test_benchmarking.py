"""Tests any model folder on any benchmark files: which prompts fit, what is left out, what survives, every number."""

from functools import partial
import json
import os
from pathlib import Path
import re
import shutil
import signal
import sys
from typing import Any

import pytest

from pipelines.benchmarks import main
from sdpg.errors import UserError, entry_point
from sdpg.evaluation import benchmarking
from sdpg.evaluation.benchmarking import (
    BenchmarkAnswers,
    SampleBudget,
    benchmark_models,
    open_model,
    read_benchmarks,
    render_benchmark,
)
from sdpg.files import write_json_lines
from sdpg.models.loading import save_model, scratch_model
from sdpg.params import ReportParams, ScratchModel, TrackingParams, load_params
from sdpg.params.configure import configure
from sdpg.problems.prompts import prepare_row
from sdpg.problems.sources import Problem
from sdpg.problems.tokenizer import train_tokenizer
from sdpg.records.code import read_code
from sdpg.records.mlflow_store import connect
from sdpg.records.run_inputs import stage_code
from sdpg.records.schemas import EVALUATION_SCHEMA, read_evaluations
from sdpg.results.benchmark_scores import compare, score, text
from sdpg.rewards.verifiers import Verifier
from tests.helpers.forked import start

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
MODEL = ScratchModel(
    kind="scratch", vocab_size=300, hidden_size=32, layers=1, heads=2, kv_heads=1, head_dim=32, intermediate_size=64,
    context=256, steps=1, batch=1, lr=1e-3, student_share=1, slip_rate=0, misconception_rate=0,
)  # fmt: skip
REPORT = ReportParams(resamples=200)


def make_model(folder: Path, seed: int = 0) -> Path:
    import torch

    tokenizer = train_tokenizer(["What is 2+3? Solve step by step. Box the answer."] * 9, 300)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_model(scratch_model(MODEL, tokenizer), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What takes long to make and is the same for all tests: a model, and MLflow's database."""
    folder = tmp_path_factory.mktemp("made")
    make_model(folder / "models/one")
    connect(TrackingParams(uri=f"sqlite:///{folder}/mlflow.db"))
    return folder


@pytest.fixture
def project(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder on the micro profile, with a random model and two benchmarks."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "profiles", "presets"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    configure(tmp_path, profile="micro")
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    sums = [{"id": f"s{n}", "problem": f"What is {n}+3?", "answer": str(n + 3), "url": None} for n in range(5)]
    write_json_lines(Path("sets/sums.jsonl"), [*sums, sums[0]])
    asked = [{"question": f"What is {n}-1?", "answer": n - 1.0, "solution": ["…"]} for n in (4, 9)]
    asked.insert(1, {"question": "What is " + "1+" * 200 + "1?", "answer": 201.0, "solution": []})
    write_json_lines(Path("sets/takes.jsonl"), asked)
    return tmp_path


def run(samples: int = 3, *models: str, limit: int | None = None, folder: str = "sets") -> list[BenchmarkAnswers]:
    paths = [Path(model) for model in models or ("models/one",)]
    return benchmark_models(load_params(), paths, Path(folder), SampleBudget(samples, limit), notify=lambda line: None)


def written() -> list[str]:
    return sorted(str(path) for path in Path("benchmarked").rglob("*")) if Path("benchmarked").exists() else []


def test_every_answer_is_recorded_and_what_does_not_fit_is_counted(project: Path) -> None:
    sums, takes = run()
    assert (len(sums.benchmark.rows), sums.benchmark.problems, dict(sums.benchmark.dropped)) == (5, 5, {"duplicate": 1})
    assert dict(takes.benchmark.dropped) == {"student_prompt_too_long": 1}
    assert [row.id for row in takes.benchmark.rows] == ["takes-0", "takes-2"] and takes.benchmark.problems == 3
    assert sums.folder is not None and takes.folder is not None
    table = read_evaluations(sums.folder / "answers.parquet")
    assert table.schema.equals(EVALUATION_SCHEMA)
    rows = table.to_pylist()
    assert {(r["problem_id"], r["sample"], r["temperature"]) for r in rows} == {
        (f"s{n}", sample, t) for n in range(5) for sample, t in ((0, 0.0), (0, 1.0), (1, 1.0), (2, 1.0))
    }
    assert {(r["run"], r["method"], r["benchmark"]) for r in rows} == {("models-one", "models-one", "sums")}
    params = load_params()
    # The prompt as the prepare stage writes it, the verdict as the verifier gives it to the stored text.
    for row in rows:
        n = int(row["problem_id"][1:])
        problem = Problem(row["problem_id"], f"What is {n}+3?", str(n + 3), "", "")
        assert row["prompt"] == prepare_row(sums.model.tokenizer, problem, params.prompts).student_prompt
        assert row["gold"] == str(n + 3) and 1 <= row["length"] <= params.evaluation.max_tokens
    with Verifier(params.reward) as verifier:
        cut = [row["status"] == "truncated" for row in rows]
        verdicts = verifier.score([r["completion"] for r in rows], [r["gold"] for r in rows], cut)
    assert [str(verdict.status) for verdict in verdicts] == [row["status"] for row in rows]
    summary = json.loads((takes.folder / "summary.json").read_text())
    assert (summary["asked"], summary["problems"], summary["asking"]["samples"]) == (2, 3, 3)


def counted(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[tuple[str, int]]:
    """Benchmark and samples of each evaluation that is really made; the one of number ``fail_at`` is interrupted."""
    seen: list[tuple[str, int]] = []
    evaluate = benchmarking.evaluate

    def watched(engine: Any, tokenizer: Any, verifier: Any, sets: Any, *arguments: Any, **named: Any) -> Any:
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        seen.append((next(iter(sets)), arguments[2]))
        return evaluate(engine, tokenizer, verifier, sets, *arguments, **named)

    monkeypatch.setattr(benchmarking, "evaluate", watched)
    return seen


def test_what_is_finished_is_not_asked_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run()
    content = {path: Path(path).read_bytes() for path in written() if Path(path).is_file()}
    monkeypatch.setattr(benchmarking, "load_model", lambda path: pytest.fail("the model was loaded"))
    assert [each.folder for each in run()] == [each.folder for each in first]
    assert {path: Path(path).read_bytes() for path in content} == content


def edit_line(path: str, change: dict[str, Any]) -> None:
    lines = Path(path).read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    Path(path).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda: edit_line("sets/sums.jsonl", {"url": "elsewhere"}), []),
        (lambda: edit_line("sets/sums.jsonl", {"answer": "5"}), ["sums"]),
        (lambda: edit_line("sets/sums.jsonl", {"problem": "What is 1 + 3?"}), ["sums"]),
        (lambda: Path("models/one/notes.md").write_text("…"), []),
        (lambda: make_model(Path("models/one"), seed=1), ["sums", "takes"]),
        (lambda: _replace("params.yaml", "verifier: math_verify", "verifier: string_match"), ["sums", "takes"]),
        (lambda: _replace("params.yaml", "final_samples: 4", "final_samples: 9"), []),
        (lambda: _replace("params.yaml", "Box the answer.\n  hint", "Box it.\n  hint"), ["sums", "takes"]),
    ],
)
def test_what_has_changed_is_asked_again_and_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch, change: Any, again: list[str]
) -> None:
    run(1)
    before = set(written())
    change()
    seen = counted(monkeypatch)
    run(1)
    assert [name for name, _ in seen] == [name for name in again for _ in range(2)]
    assert before <= set(written()), "earlier results stay"


def _replace(path: str, old: str, new: str) -> None:
    assert Path(path).read_text().count(old) == 1
    Path(path).write_text(Path(path).read_text().replace(old, new))


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_interruption_costs_the_unfinished_benchmark_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counted(patch, fail_at=at)
        run(2)
    assert len([path for path in written() if path.endswith("answers.parquet")]) == at // 2
    seen = counted(monkeypatch)
    resumed = run(2)
    assert seen == [("sums", 2), ("sums", 1), ("takes", 2), ("takes", 1)][at // 2 * 2 :]
    answers = [(each.folder or Path()) / "answers.parquet" for each in resumed]
    kept = [read_evaluations(path).to_pylist() for path in answers]
    shutil.rmtree("benchmarked")
    run(2)
    assert [read_evaluations(path).to_pylist() for path in answers] == kept, "as without the interruption"


def killed(before: bool) -> None:
    """The command, which dies before or after its second folder gets its name."""
    replace, count = os.replace, 0

    def killing(source: Any, target: Any) -> None:
        nonlocal count
        count += ".partial" in str(source) and os.path.isdir(source)
        if count == 2 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if count == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = killing
    sys.argv = ["benchmarks", "--model", "models/one", "--dir", "sets", "--samples", "2"]
    main()


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_around_the_second_rename(project: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    process = start(project, partial(killed, before), project / "said")
    process.join()
    assert process.exitcode == -signal.SIGKILL, (project / "said").read_text()
    seen = counted(monkeypatch)
    run(2)
    assert [name for name, _ in seen] == (["takes", "takes"] if before else [])
    assert not [path for path in written() if "partial" in path]


def test_greedy_alone_and_a_limit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    sums, takes = run(0, limit=2)
    assert seen == [("sums", 1), ("takes", 1)]
    assert dict(sums.benchmark.dropped) == {"duplicate": 1, "over_limit": 3}
    assert dict(takes.benchmark.dropped) == {"student_prompt_too_long": 1}
    scores = score(sums, REPORT)
    assert scores.sampled is None and scores.greedy is not None and scores.greedy.counts.samples == 1


def test_a_model_does_not_differ_from_its_copy(project: Path) -> None:
    shutil.copytree("models/one", "models/two")
    answered = run(2, "models/one", "models/two")
    found = compare([score(each, REPORT) for each in answered], REPORT)
    assert [(c.benchmark, c.way) for c in found] == [
        (name, way) for name in ("sums", "takes") for way in ("sampled", "greedy")
    ]
    assert all(c.difference.mean == 0 and c.difference.p_value == 1 for c in found)


def test_a_benchmark_of_which_nothing_fits_has_no_number(project: Path) -> None:
    write_json_lines(Path("sets/long.jsonl"), [{"problem": "1+" * 200, "answer": "7"}])
    scores = [score(each, REPORT) for each in run(1)]
    assert (scores[0].answered.benchmark.name, scores[0].sampled, scores[0].greedy) == ("long", None, None)
    shown = text(scores, [], REPORT)
    assert next(line for line in shown.splitlines() if line.startswith("long")).split()[2:] == [
        "0", "of", "1", "–", "–", "–", "–"
    ]  # fmt: skip
    assert "long, models-one: left out: student_prompt_too_long 1. Nothing was asked, so there is no number." in shown
    assert "takes, models-one: left out: student_prompt_too_long 1. The numbers are of 2 of 3 problems" in shown


def test_limits_are_limits_and_not_one_less(project: Path) -> None:
    params = load_params()
    model = open_model(Path("models/one"), params)
    problems = read_benchmarks(Path("sets"))["sums"]
    tokens = render_benchmark("sums", problems, model.tokenizer, params.prompts, None).rows[0].student_tokens
    for limit, kept in ((tokens, 5), (tokens - 1, 0)):
        prompts = params.prompts.model_copy(update={"max_student_tokens": limit})
        assert len(render_benchmark("sums", problems, model.tokenizer, prompts, None).rows) == kept
    # The context is 256, and evaluation.max_tokens 16.
    fitting = params.prompts.model_copy(update={"max_student_tokens": 240})
    open_model(Path("models/one"), params.model_copy(update={"prompts": fitting}))


def without_template() -> None:
    for path in Path("models/one").glob("chat_template*"):
        path.unlink()


def only_long() -> None:
    shutil.rmtree("sets")
    write_json_lines(Path("sets/long.jsonl"), [{"problem": "1+" * 200, "answer": "7"}])


def line(content: str) -> Any:
    return lambda: Path("sets/sums.jsonl").write_text('{"problem": "What is 1+1?", "answer": "2"}\n\n' + content)


BAD: list[tuple[Any, str]] = [
    (lambda: shutil.rmtree("models/one"), "MODEL models/one is no folder: name"),
    (lambda: Path("models/one/config.json").unlink(), "models/one has no config.json: copy"),
    (lambda: Path("models/one/model.safetensors").unlink(), r"has no \*.safetensors weights: convert"),
    (lambda: Path("models/one/model.safetensors").write_bytes(b"x" * 99), "safetensors is damaged .*copy it again"),
    (lambda: Path("models/one/tokenizer.json").unlink(), "models/one has no tokenizer"),
    (without_template, "has no chat template: add"),
    (lambda: shutil.rmtree("sets"), "DIR sets is no folder: name"),
    (lambda: [path.unlink() for path in Path("sets").iterdir()], "DIR sets holds no benchmark: put"),
    (line('{"problem": '), r"sets/sums.jsonl, line 3: not valid JSON .*: mend or remove"),
    (line("[1]"), "sets/sums.jsonl, line 3: a JSON object is expected, not list"),
    (line('{"problem": "What?"}'), "sums.jsonl, line 3: there is no column 'answer'; there are: problem. .*--columns"),
    (line('{"answer": "2", "text": ""}'), "sums.jsonl, line 3: there is no column 'question'; there are: answer, text"),
    (line('{"problem": "What?", "answer": "  "}'), "sums.jsonl, line 3: 'answer' is empty.*fill"),
    (line('{"problem": "", "answer": "2"}'), "sums.jsonl, line 3: 'problem' is empty.*fill"),
    (line('{"problem": "What?", "answer": [2, 3]}'), "sums.jsonl, line 3: column 'answer' holds a list of 2"),
    (line('{"problem": "What?", "answer": {"a": 2}}'), "line 3: column 'answer' holds an object of a.*'answer.a'"),
    (lambda: shutil.copy("sets/sums.jsonl", "sets/sums.JSONL"), "DIR sets holds sums.JSONL and sums.jsonl, one name"),
    (line('{"problem": "What  is 1+1?", "answer": "3"}'), "line 3: the answer is '3', but for the same problem '2'"),
    (line('{"problem": "A", "answer": "3", "id": "a"}\n{"problem": "B", "answer": "3", "id": "a"}'),
     r"line 4: id 'a' belongs to another problem already \(sets/sums.jsonl, line 3\): make ids unique"),
    (lambda: Path("sets/sums.jsonl").write_text("\n"), "sums.jsonl holds no problem: write"),
    (only_long, "no problem of sets can be asked of models/one .long: student_prompt_too_long 1.: raise prompts.max"),
    (lambda: _replace("params.yaml", "max_student_tokens: 96", "max_student_tokens: 241"),
     r"max_student_tokens \(241\) \+ evaluation.max_tokens \(16\) = 257 tokens, .* models/one is 256: lower"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_input_that_cannot_be_used_is_one_message_and_nothing_is_written(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: Any, message: str
) -> None:
    Path("mlflow.db").unlink()
    damage()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--model", "models/one", "--dir", "sets"])
    with pytest.raises(SystemExit) as exit_code:
        entry_point(main)
    assert exit_code.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ")
    assert re.search(message, said.err, re.DOTALL), said.err
    assert not Path("benchmarked").exists() and not Path("mlflow.db").exists()


def test_a_model_given_twice_is_named(project: Path) -> None:
    with pytest.raises(UserError, match="2 of the models would be called models-one: name each folder once"):
        run(1, "models/one", "models/../models/one")


def test_the_command_prints_tables_and_writes_them(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", *["--model", "models/one", "--dir", "sets", "--samples", "2", "--out", "res"]]
    )
    entry_point(main)
    said = capsys.readouterr().out
    assert "mean@2" in said and "5 of 5" in said and "2 of 3" in said
    assert "Next, two models compared by problem: sdpg evaluate --model models/one --model … --dir sets" in said
    found = json.loads(Path("res/report.json").read_text())
    assert [(s["benchmark"], s["asked"], s["problems"]) for s in found["scores"]] == [("sums", 5, 5), ("takes", 2, 3)]
    assert all(Path(s["answers"]).is_file() for s in found["scores"]) and not Path("benchmarked").exists()
    assert Path("res/report.md").read_text().startswith("# Benchmarks\n\n| benchmark | model | asked | mean@2 |")


def test_the_fingerprint_covers_the_code_that_answers() -> None:
    reached = stage_code("evaluate", load_params(ROOT / "params.yaml")).modules
    assert reached.keys() >= read_code("sdpg.evaluation.evaluation", "sdpg.rollouts.engines").modules.keys()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there: the public benchmarks are no part of this")
def test_the_public_benchmarks_are_read_whole(tmp_path: Path) -> None:
    for name in ("aime24", "aime25", "amc23"):
        (tmp_path / f"{name}.jsonl").symlink_to(SHARED / f"{name}.jsonl")
    found = read_benchmarks(tmp_path)
    assert {name: len(problems.problems) for name, problems in found.items()} == {
        "aime24": 30,
        "aime25": 30,
        "amc23": 40,
    }
    assert not any(problems.dropped for problems in found.values())
