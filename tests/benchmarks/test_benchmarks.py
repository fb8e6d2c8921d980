from dataclasses import replace
from functools import partial
import importlib.util
import json
from pathlib import Path
import random
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import gpu, head, rivals, scoring, sequences, timing, training
from benchmarks.figures import SkippedError, Target
from benchmarks.gpu import Setting
from benchmarks.rivals import Result, Work, differences, make_work
from sdpg.errors import UserError
from sdpg.params import load_params
from sdpg.rewards.extraction import extract_boxed, is_integer
from sdpg.rewards.math_verify_pool import math_verify_equal
from tests.helpers.tiny import tiny_experience

PROMISED = ["name", "ratio", "against", "goal", "met"]
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


@pytest.fixture
def work() -> Work:
    return make_work(24, 16, 300)


@pytest.fixture
def setting() -> Setting:
    """A GPU's benchmark on a CPU: ours chunk by chunk, in the type of the GPU's."""
    return Setting(torch.device("cpu"), 24, 16, 300, torch.bfloat16, chunk_bytes=10 * 2 * 300 * 4)


@pytest.mark.parametrize(
    ("ratio", "goal", "met"),
    [
        (0.6, "<= 0.6", True), (0.61, "<= 0.6", False), (0.6, ">= 0.6", True), (0.59, ">= 0.6", False),
        (1.0, None, None),
    ],
)  # fmt: skip
def test_line_holds_what_is_promised(ratio: float, goal: str | None, met: bool | None) -> None:
    line = Target("speed", "a rival", goal).measured(ratio, seconds={"ours": 1.5}, repeats=3).line()
    assert list(line) == [*PROMISED, "seconds", "repeats"]
    assert line == {
        "name": "speed", "ratio": ratio, "against": "a rival", "goal": goal, "met": met, "seconds": {"ours": 1.5},
        "repeats": 3,
    }  # fmt: skip


def test_skipped_line_says_why() -> None:
    line = Target("speed", "a rival", "<= 0.6").skipped("no GPU").line()
    assert list(line) == [*PROMISED, "skipped"]
    assert (line["ratio"], line["met"], line["skipped"]) == (None, None, "no GPU")


def test_names_goals_and_rivals() -> None:
    goals = {target.name: target.goal for target in command.BENCHMARKS}
    assert goals == {
        "head_time_vs_plain": "<= 0.6", "head_time_vs_trl": "<= 0.25", "head_memory_vs_plain": "<= 0.15",
        "sdpg_step_vs_grpo": "<= 1.2", "sdpg_update_vs_limit": "<= 1.05", "grpo_step_vs_trl": "<= 0.6",
        "head_gpu_time_vs_trl": "<= 0.5", "head_gpu_time_vs_liger": "<= 0.5", "head_gpu_memory_vs_plain": "<= 0.05",
        "head_gpu_matmul_share": ">= 0.6", "sequences": None, "step_overhead": "<= 0.1",
        "app_many_runs_seconds": "<= 2", "app_many_runs_first_seconds": "<= 3", "app_many_runs_memory_gb": "<= 0.6",
        "step_overhead_waited": "<= 0.05", "score_rate": ">= 2000",
        "score_duplicates_vs_one_by_one": ">= 5", "study_two_workers_vs_one": ">= 1.6",
        "app_page_seconds": "<= 2", "app_strip_seconds": "<= 1", "app_memory_gb": "<= 1",
        "startup_train": "<= 1.3", "startup_tabulate": "<= 2", "startup_check": "<= 2", "startup_help": "<= 0.3",
    }  # fmt: skip
    assert all(target.against for target in command.BENCHMARKS)


def rounded_weight_gradient(work: Work) -> Result:
    found = rivals.plain(work)
    return Result(found.loss, found.hidden_gradient, found.weight_gradient.bfloat16().float(), found.entropy)


def test_plain_agrees_with_ours(work: Work) -> None:
    found = rivals.ours(work, memory_bytes=7 * 2 * 300 * 4)
    assert found.hidden_gradient.abs().sum() > 0 and found.weight_gradient.abs().sum() > 0
    head.check({"plain": rivals.plain(work), "plain, split": rivals.split(work), "ours": found}, 2e-6)
    with pytest.raises(UserError, match=r"rounded: weight_gradient differs from plain autograd's by .* 1e-05"):
        head.check({"plain": rivals.plain(work), "rounded": rounded_weight_gradient(work)}, head.TOLERANCE)


@needs_trl
def test_trl_agrees_with_ours(work: Work) -> None:
    assert max(differences(rivals.trl(work), rivals.ours(work, 1 << 20)).values()) < 2e-6


@needs_trl
def test_matrix_products_are_counted(work: Work) -> None:
    unit = 2 * 24 * 16 * 300
    counts = {name: timing.matmul_operations(partial(way, work)) / unit for name, way in head.all_ways(1 << 20).items()}
    assert counts == {"ours": 3.5, "plain": 3.5, "plain, split": 3.5, "trl": 7.0}


def test_peak_leaves_out_what_is_returned() -> None:
    def run() -> list[torch.Tensor]:
        one = torch.ones(1000)
        two = one + 1
        del one
        return [two]

    assert timing.peak_bytes(run) == 4000


def test_interleaved_and_ratios() -> None:
    calls: list[str] = []
    found = timing.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, "test")
    assert calls == ["a", "b"] * 3
    assert [len(taken) for taken in found.values()] == [2, 2]
    assert timing.median_ratio([2.0, 3.0, 40.0], [1.0, 2.0, 20.0]) == 2.0
    assert timing.ratio_range([2.0, 3.0, 40.0], [1.0, 2.0, 20.0]) == [1.5, 2.0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_gpu_lines_carry_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "LINES", tmp_path / "bench.jsonl")
    command.main(["gpu"])
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["name"] for line in lines] == [name for name in TARGETS if "gpu" in name]
    for line in lines:
        assert (line["ratio"], line["met"]) == (None, None)
        assert line["skipped"] == "no GPU: torch.cuda.is_available() is False"
        assert {"threads", "torch", "commit", "dirty", "load"} <= line.keys()
    assert (tmp_path / "bench.jsonl").read_text(encoding="utf-8") == printed.out
    assert "All figures" in printed.err and "bench.jsonl" in printed.err.replace("\n", "")  # a long path is wrapped


TARGETS = [target.name for target in command.BENCHMARKS]


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["head", "heads"])
    assert "no benchmark's name contains 'heads'; there are: head_time_vs_plain, " in capsys.readouterr().err


@needs_trl
def test_gpu_time(setting: Setting) -> None:
    line = gpu.time_against(setting, gpu.TIME_VS_TRL, "trl", rivals.trl, repeats=2).line()
    assert line["ratio"] > 0 and line["seconds"].keys() == {"ours", "trl"}
    assert line["sizes"] == {"N": 24, "D": 16, "V": 300, "dtype": "bfloat16", "open_gates": 0.5}
    with pytest.raises(UserError, match="wrong: loss differs"):
        gpu.check(setting, {"wrong": lambda work: rivals.plain(make_work(24, 16, 300, seed=1))})


def test_gpu_memory(setting: Setting) -> None:
    line = gpu.memory_against_plain(setting).line()
    assert line["plain_tokens"] == 24
    assert line["ratio"] == line["peak_bytes"]["ours"] / line["peak_bytes"]["plain"]


def test_gpu_memory_of_what_does_not_fit(setting: Setting) -> None:
    def measure(work: Work, most: int) -> int:
        if len(work.ids) > most:
            raise torch.OutOfMemoryError
        return 100

    assert gpu.largest_that_fits(setting, partial(measure, most=10)) == (6, 100)
    with pytest.raises(SkippedError):
        gpu.largest_that_fits(setting, partial(measure, most=0))


def test_gpu_share(setting: Setting) -> None:
    line = gpu.share_of_rate(setting, repeats=1).line()
    assert line["ratio"] == pytest.approx(3.5 * line["seconds"]["one product"] / line["seconds"]["ours"])
    assert len(line["shares"]) == len(gpu.BUDGETS) + 1


def test_sequences() -> None:
    params = load_params()
    policies = sequences.random_policies(params, context=64)
    task = sequences.make_task(params, policies, length=32, sequences=4)
    rollouts = zip(task.experience.student_prompts, task.experience.responses, strict=True)
    assert [len(prompt) + len(response) for prompt, response in rollouts] == [32] * 4
    assert len(set(map(tuple, task.experience.student_prompts))) == 1
    assert task.at.beta == params.methods["sdpg-ufkl"].beta
    assert 0 < sequences.attention_share(task) < 1
    assert all(parameter.grad is not None for parameter in policies.student.parameters())


def test_tokens_that_must_be_read() -> None:
    experience = replace(
        tiny_experience([[1, -1, -1, -1]]),
        student_prompts=[[1, 2, 3]] * 4,
        teacher_prompts=[[1, 2, 3, 4, 5]] * 4,
        responses=[[1, 2], [1, 2, 3], [1], [1, 2, 3, 4]],
    )
    assert training.tokens_read(experience) == (5 + 1, 3 + 1 + 2 + 0 + 3)


def test_training_steps_need_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SkippedError, match="models/base is missing: run `dvc repro base`"):
        training.bench_params()


def test_parts_of_a_step() -> None:
    rows: list[dict[str, Any]] = [
        {"rollout": 1.0, "reward": 2.0, "update": 3.0, "record": 10.0},
        {"rollout": 2.0, "reward": 2.0, "update": 4.0, "record": 10.0},
        {"rollout": 3.0, "reward": 2.0, "update": 9.0, "record": 10.0},
    ]
    assert training.totals(rows) == [6.0, 8.0, 14.0]
    assert training.part_medians(rows) == {"rollout": 2.0, "reward": 2.0, "update": 4.0, "record": 10.0}


def test_ordinary_answers_have_the_shares_that_are_told() -> None:
    assert sum(scoring.SHARES.values()) == pytest.approx(1)
    responses = scoring.ordinary(problems=1500, siblings=1, seed=0)
    golds = [gold for _, gold in responses]
    answers = [extract_boxed(text) for text, _ in responses]
    assert len(responses) == 1500
    # 0.8 of 0.95, 0.15 of 0.95, each within four standard deviations.
    assert sum(map(is_integer, golds)) / 1500 == pytest.approx(0.8 / 0.95, abs=0.04)
    assert answers.count(None) / 1500 == pytest.approx(scoring.SHARES["no answer"], abs=0.023)
    assert 0.05 < scoring.asked_share(responses) < 0.2


def test_forms_of_an_expression_are_equal_to_math_verify() -> None:
    at = random.Random(0)
    assert all(math_verify_equal(*scoring.expression_forms(at)) for _ in range(40))


def test_scoring_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROBLEMS": 20, "REPEATS": 1, "DUPLICATES": 40, "DISTINCT": 5, "WORKERS": 1}.items():
        monkeypatch.setattr(scoring, name, value)
    line = scoring.ordinary_rate().line()
    assert line["ratio"] > 0 and line["shares"] == scoring.SHARES
    assert scoring.duplicates_vs_one_by_one().line()["ratio"] > 0
