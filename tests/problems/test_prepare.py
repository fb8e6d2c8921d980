"""Tests the whole prepare stage, from params.yaml to files, on a small world and on local files."""

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
from transformers import Qwen3Config

from pipelines import prepare as stage
from sdpg.errors import UserError, entry_point
from sdpg.params import Params, parse_params
from sdpg.problems import prepare as work
from sdpg.problems.context import model_context
from sdpg.problems.prepare import prepare, summary, write_prepared
from sdpg.problems.prompts import prompt_ids, read_prepared
from sdpg.problems.sources import text_keys
from sdpg.problems.tokenizer import load_tokenizer, train_tokenizer
from tests.helpers.scratch import scratch_tree

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
LIMITS = {"prompts.max_student_tokens": 3000, "prompts.max_teacher_tokens": 3000, "base.model.context": 9000}


def tree(**changes: object) -> dict[str, Any]:
    """The project's own params.yaml with a small synthetic world; keys of ``changes`` have dots."""
    params = scratch_tree()
    small = {
        "data.train": {"kind": "synthetic", "families": {"chain-2": 1, "chain-3": 1}, "count": 50},
        "data.validation_size": 8,
        "data.benchmarks": {
            name: {"title": name, "source": {"kind": "synthetic", "families": {name: 1}, "count": 10}}
            for name in ("chain-2", "chain-3")
        },
        "prompts.max_student_tokens": 150,
        "prompts.max_teacher_tokens": 300,
        "base.model": params["base"]["model"] | {"kind": "scratch", "context": 600},
        "rollout.max_tokens": 100,
        "evaluation.max_tokens": 100,
    }
    for key, value in (small | changes).items():
        *parents, leaf = key.split(".")
        node = params
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return params


def params(**changes: object) -> Params:
    return parse_params(tree(**changes))


def file_benchmark(path: str, **source: object) -> dict[str, Any]:
    return {"bench": {"title": "Bench", "source": {"kind": "file", "path": path, **source}}}


def write_lines(path: Path, *rows: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def model_folder(folder: Path) -> Path:
    """A model folder as far as this stage reads it."""
    train_tokenizer(["Solve step by step: "] * 9, 300).save_pretrained(folder)
    Qwen3Config(max_position_embeddings=512).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def few_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "TOKENIZER_CHAINS", 100)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the small params.yaml, in which the stage runs."""
    (tmp_path / "params.yaml").write_text(json.dumps(tree()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_writes_what_it_declares(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.main()
    sets = {
        name: read_prepared(folder / "data" / "prepared" / f"{name}.jsonl")
        for name in ("train", "validation", "benchmarks/chain-2", "benchmarks/chain-3")
    }
    assert [len(rows) for rows in sets.values()] == [42, 8, 10, 10]
    assert len(frozenset[str]().union(*map(text_keys, sets.values()))) == 70
    tokenizer = load_tokenizer(folder / "data" / "tokenizer")
    for rows in sets.values():
        for row in rows:
            assert row.student_tokens == len(prompt_ids(tokenizer, row.student_prompt))
            assert row.problem in row.student_prompt and row.teacher_prompt and row.solution in row.teacher_prompt

    metrics = json.loads((folder / "data" / "prepare.json").read_text())
    assert metrics["sets"]["train"]["kept"] == 42 and not any(metrics["sets"]["train"]["dropped"].values())
    lengths = [row.student_tokens for row in sets["train"]]
    assert metrics["sets"]["train"]["student_tokens"] == {
        "min": min(lengths),
        "mean": round(sum(lengths) / len(lengths), 2),
        "max": max(lengths),
    }
    assert all(values["exact"] == values["exact_in_source"] == 0 for values in metrics["overlap"].values())

    log = capsys.readouterr().out
    first = sets["train"][0]
    assert log.count(first.student_prompt) == 1 and log.count(str(first.teacher_prompt)) == 1
    assert log.strip().splitlines()[-1].endswith("Next: dvc repro base")


def test_two_runs_write_identical_bytes(tmp_path: Path) -> None:
    # Two processes with different hash seeds: nothing may follow the order of a set.
    script = (
        "import sys, pathlib; from sdpg import params; from sdpg.problems import prepare; "
        "prepare.TOKENIZER_CHAINS = 100; "
        "source, target = map(pathlib.Path, sys.argv[1:]); "
        "prepare.write_prepared(prepare.prepare(params.load_params(source)), target)"
    )
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(tree()))
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "a")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    write_prepared(prepare(params()), tmp_path / "b")
    written = files(tmp_path / "a")
    assert written == files(tmp_path / "b") and "tokenizer/tokenizer.json" in written
    assert prepare(params(**{"data.seed": 1})).train.rows != prepare(params()).train.rows


def test_rows_too_long_are_dropped_and_counted(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "b.jsonl",
        {"problem": "long " * 200, "answer": "1", "solution": "s"},
        {"problem": "short", "answer": "1", "solution": "long " * 400},
        {"problem": "fits", "answer": "1", "solution": "s"},
        {"problem": "unsolved", "answer": "1", "solution": None},
    )
    benchmark = file_benchmark("b.jsonl", columns={"solution": "solution"})
    found = prepare(params(**{"data.folder": str(tmp_path), "data.benchmarks": benchmark})).benchmarks["bench"]
    assert [row.problem for row in found.rows] == ["fits", "unsolved"]
    assert found.rows[1].teacher_prompt is None  # a benchmark needs no solutions
    assert found.dropped == {"student_prompt_too_long": 1, "teacher_prompt_too_long": 1}


@pytest.mark.parametrize(("rows", "told"), [([], "left of 0"), ([{"problem": "a", "answer": ""}], "no_answer 1")])
def test_an_empty_benchmark_is_named(tmp_path: Path, rows: list[dict[str, object]], told: str) -> None:
    write_lines(tmp_path / "b.jsonl", *rows)
    changes = {"data.folder": str(tmp_path), "data.benchmarks": file_benchmark("b.jsonl")}
    with pytest.raises(UserError, match=rf"data\.benchmarks\.bench: no usable problem is .*{told}"):
        prepare(params(**changes))


def local_training(tmp_path: Path, **changes: object) -> Params:
    """Ten training problems in a file, two of them in the benchmark, and a local model."""
    model_folder(tmp_path / "model")
    write_lines(
        tmp_path / "train.jsonl",
        *({"problem": f"what is {i} plus {i} ?", "answer": str(2 * i), "solution": "add"} for i in range(10)),
    )
    write_lines(
        tmp_path / "b.jsonl", *({"problem": f"what is  {i} plus {i} ?", "answer": str(2 * i)} for i in (3, 5, 77))
    )
    local = {
        "data.folder": str(tmp_path),
        "data.train": {"kind": "file", "path": "train.jsonl", "columns": {"solution": "solution"}},
        "data.benchmarks": file_benchmark("b.jsonl"),
        "data.validation_size": 3,
        "data.ngram": 2,
        "base.folder": str(tmp_path),
        "base.model": {"kind": "folder", "path": "model"},
        "prompts.hint": "answer_and_solution",
    }
    return params(**(local | changes))


def test_training_problems_of_a_benchmark_are_dropped(tmp_path: Path) -> None:
    prepared = prepare(local_training(tmp_path))
    assert prepared.train.dropped["overlaps_benchmark"] == 2
    assert (len(prepared.train.rows), len(prepared.validation.rows)) == (5, 3)
    # "what is" is in every problem, so each benchmark problem and each training problem shares a 2-gram.
    assert prepared.overlaps["bench"] == {
        "exact_in_source": 2,
        "exact": 0,
        "ngram_problems": 3,
        "ngram_train": 5,
        "exact_validation": 0,
    }
    assert "dropped from train: overlaps_benchmark 2" in summary(prepared, Path("data"))


def test_overlap_may_be_kept_but_never_in_validation(tmp_path: Path) -> None:
    prepared = prepare(local_training(tmp_path, **{"data.drop_overlap": False, "data.validation_size": 8}))
    assert {row.answer for row in prepared.train.rows} == {"6", "10"}
    assert (prepared.overlaps["bench"]["exact"], prepared.overlaps["bench"]["exact_validation"]) == (2, 0)
    with pytest.raises(UserError, match=r"validation_size is 9, .* has 10 usable problems, 8 of them"):
        prepare(local_training(tmp_path, **{"data.drop_overlap": False, "data.validation_size": 9}))


def test_a_limit_counts_usable_rows(tmp_path: Path) -> None:
    source = {"kind": "file", "path": "train.jsonl", "columns": {"solution": "solution"}, "limit": 6}
    prepared = prepare(local_training(tmp_path, **{"data.train": source}))
    assert (len(prepared.train.rows), prepared.train.dropped["over_limit"]) == (3, 2)
    assert prepared.train.read == len(prepared.train.rows) + prepared.train.dropped.total()


def test_a_model_folder_gives_tokenizer_and_context(tmp_path: Path) -> None:
    prepared = prepare(local_training(tmp_path))
    assert prepared.tokenizer.get_vocab() == load_tokenizer(tmp_path / "model").get_vocab()
    assert model_context(local_training(tmp_path).base) == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rollout.max_tokens": 451},
            r"max_student_tokens \(150\) \+ rollout\.max_tokens \(451\) = 601 .*context is 600",
        ),
        ({"evaluation.max_tokens": 451}, r"max_student_tokens .* evaluation\.max_tokens \(451\)"),
        ({"rollout.max_tokens": 301}, r"max_teacher_tokens \(300\) \+ rollout\.max_tokens \(301\)"),
    ],
)
def test_limits_beyond_the_context_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(params(**change))


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    changes = {"base.model": {"kind": "folder", "path": "gone"}}
    with pytest.raises(UserError, match=r"gone has no config\.json: .*base\.model\.path"):
        prepare(local_training(tmp_path, **changes))


def test_a_model_that_the_hub_does_not_give_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    changes = {"base.model": {"kind": "hub", "id": "nobody/nothing", "revision": "0123abc"}}
    with pytest.raises(UserError, match=r"configuration of nobody/nothing does not load: .*into .*/nobody/nothing"):
        prepare(local_training(tmp_path, **changes))


def test_bad_input_leaves_earlier_outputs_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.main()
    before = files(folder / "data")
    (folder / "params.yaml").write_text(json.dumps(tree(**{"data.benchmarks": file_benchmark("gone.jsonl")})))
    with pytest.raises(SystemExit) as stopped:
        entry_point(stage.main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "gone.jsonl does not exist" in error and "Traceback" not in error
    assert files(folder / "data") == before


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"{SHARED} is not there: the public benchmarks are not part of the project"
)
def test_the_public_benchmarks_are_prepared(tmp_path: Path) -> None:
    benchmarks = {
        name: {"title": name, "source": {"kind": "file", "path": f"{name}.jsonl", "columns": {"id": "id"}}}
        for name in ("aime24", "aime25", "amc23")
    }
    prepared = prepare(params(**{"data.folder": str(SHARED), "data.benchmarks": benchmarks, **LIMITS}))
    write_prepared(prepared, tmp_path)
    rows = {name: read_prepared(tmp_path / "prepared" / "benchmarks" / f"{name}.jsonl") for name in benchmarks}
    assert [len(found) for found in rows.values()] == [30, 30, 40]
    assert "336^\\circ" in {row.answer for row in rows["aime25"]}
    assert all(row.teacher_prompt is None for found in rows.values() for row in found)
