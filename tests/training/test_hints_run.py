"""Tests that a step's teacher reads each rollout under its own hint, nothing where there is none, and the records."""

from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check.steps import Made, Shape, make, random_model
from sdpg.models.distribution import shard
from sdpg.models.ranks import SOLO, Ranks
from sdpg.params import Params, parse_params
from sdpg.params.data import HINT_PLACEHOLDERS
from sdpg.records.schemas import read_rollouts
from sdpg.rewards.verifiers import Status, Verdict
from tests.helpers.fabricated import params_with
from tests.helpers.plain_update import plain_log_probs
from tests.helpers.pretended_gpu import pretended_gpu, put_model
from tests.helpers.tiny import counted_passes
from tests.helpers.two_ranks import plugin

SHAPE = Shape(16, 32, 1, 2, 1, 8, 259, True, 256)
STATUSES = {"r": Status.CORRECT, "w": Status.WRONG, "n": Status.NO_ANSWER, "t": Status.TRUNCATED}
GROUPS = ("rwrw", "wwrw", "wwnw", "rrrr")
"""The verdicts of each step: mixed, one right, none right, all right."""
OWN = {"kind": "import", "path": "tests.helpers.own_parts:evidence", "coefficient": 0.5, "reads_teacher": True}
SDPO = {"outcome": "none", "distillation": "kl_student_teacher", "gate": "all", "beta": 1.0, "beta_warmup": 0.0,
        "beta_decay": 0.0, "hint": "sibling", "hint_choice": "shortest"}  # fmt: skip
CONTRAST = {"outcome": "reinforce", "terms": {"evidence": OWN}, "hint": "sibling", "hint_missing": "fall_back",
            "contrast_hint": "wrong_sibling"}  # fmt: skip


class ByLetter:
    """Finds of each response what its place in GROUPS says, and the letter itself as its answer."""

    name, version = "by letter", "1"

    def score(self, completions: Sequence[str], golds: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        letters = "".join(GROUPS)
        return [
            Verdict(STATUSES[kind], kind if kind in "rw" else None, 1.0 if kind == "r" else -1.0)
            for kind in letters[: len(completions)]
        ]


def hinted(method: dict[str, Any], **train: Any) -> Params:
    """Four prompts of four responses; templates that are short in bytes."""
    tree = params_with(["sdpg-ufkl"], [0]).model_dump(mode="json", exclude_unset=True)
    tree["methods"] = {"hinted": {"title": "hinted", **method}}
    tree["run"]["methods"] = ["hinted"]
    tree["prompts"]["student"] = "{problem}"
    tree["prompts"]["teacher"] = {
        hint: "{student}" + "".join(f" {hint[0]}{{{name}}}" for name in names)
        for hint, names in HINT_PLACEHOLDERS.items()
    }
    tree["rollout"]["max_tokens"] = 8
    tree["train"] |= {"steps": 3, "prompts_per_step": 4, "responses_per_prompt": 4, "tokens_per_micro_batch": 256,
                      "line_tokens": 0, "head_megabytes": 1, "gradients_every": 0, "record_every": 1,
                      "record_rows": 16, "lr": 1e-3, "lr_warmup": 0.0, **train}  # fmt: skip
    return parse_params(tree)


def made(params: Params, folder: Path, ranks: Ranks = SOLO) -> Made:
    student, reference = (random_model(SHAPE, "cpu", spread=0.3) for _ in range(2))
    if ranks.size > 1:
        for model in (student, reference):
            shard(model, torch.device("cpu"), torch.float32, plugin())
    one = make(params, "hinted", student, reference.requires_grad_(False), folder, ranks=ranks, keep_gradients=True)
    one.trainer.verifier = ByLetter()
    return one


def rows_of(folder: Path, step: int = 1) -> list[dict[str, Any]]:
    return read_rollouts(folder / f"rollouts/step-{step:06d}-rank-0.parquet").to_pylist()


@pytest.mark.parametrize("line_tokens", [0, 200])
def test_a_teacher_reads_a_rollout_behind_its_own_siblings_response(tmp_path: Path, line_tokens: int) -> None:
    one = made(hinted(SDPO, line_tokens=line_tokens), tmp_path)
    before = one.trainer.policies.student.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    metrics, _ = one.step(1)
    rows = rows_of(tmp_path)
    expected = []
    for group, kinds in enumerate(GROUPS):
        members = rows[4 * group : 4 * group + 4]
        for own in range(4):
            right = [at for at in range(4) if at != own and kinds[at] == "r"]
            expected.append(min(right, key=lambda at: members[at]["length"], default=None))
    assert [row["hint_sibling"] for row in rows] == expected
    assert expected[6] is None and expected[4:6] == [2, 2] and expected[8:12] == [None] * 4 and None not in expected[:4]
    tokenizer = one.trainer.tokenizer
    model = random_model(SHAPE, "cpu", spread=0.3)
    model.load_state_dict(before)
    for at, row in enumerate(rows):
        sibling = row["hint_sibling"]
        if sibling is None:
            assert (row["hint_kind"], row["teacher_prompt"], row["gate"]) == ("none", None, 0.0)
            assert row["teacher_logprob"] is None and row["kl_to_teacher"] is None and row["ref_logprob"]
            continue
        shown = rows[at // 4 * 4 + sibling]
        assert sibling != row["sibling"] and shown["status"] == "correct" and row["gate"] == 1.0
        user = f"{row['student_prompt']} s{shown['completion']}"
        assert row["teacher_prompt"] == f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        assert row["hint_kind"] == "sibling"
        # Whatever line it shared with its siblings, the teacher read this prompt and this response alone.
        ids = tokenizer(row["teacher_prompt"])["input_ids"]
        log_q = plain_log_probs(model, ids, row["completion_ids"], 1.0)
        places = torch.arange(row["length"])
        assert row["teacher_logprob"] == pytest.approx(log_q[places, row["completion_ids"]].tolist(), abs=1e-4)
    assert (metrics["hint_skipped"], metrics["hint_fell_back"], metrics["hint_refused"]) == (5 / 16, 0, 0)
    assert metrics["gate_rate"] == metrics["teacher_rows"] / 16 == 11 / 16 and metrics["contrast_missing"] is None  # type: ignore[operator]


def test_a_skipped_rollout_costs_no_teacher_pass_and_a_fallen_one_reads_the_prepared_prompt(tmp_path: Path) -> None:
    read = {}
    for missing in ("skip", "fall_back"):
        one = made(hinted(SDPO | {"hint_missing": missing}, record_rows=0), tmp_path / missing)
        with counted_passes(one.trainer.policies.student) as passes:
            metrics, _ = one.step(1)
        read[missing] = len(passes.prompts(with_gradient=False)), len(passes.prompts(with_gradient=True))
        assert metrics["hint_skipped" if missing == "skip" else "hint_fell_back"] == 5 / 16
    assert read == {"skip": (11, 11), "fall_back": (16, 16)}
    rows = rows_of(tmp_path / "fall_back")
    assert [row["hint_kind"] for row in rows[4:9]] == ["sibling", "sibling", "answer_and_solution", "sibling",
                                                       "answer_and_solution"]  # fmt: skip
    assert rows[6]["teacher_prompt"].endswith(rows[6]["student_prompt"]) and rows[6]["hint_sibling"] is None


@pytest.mark.parametrize("updates", [1, 2])
def test_rlsd_leaves_the_weight_of_a_skipped_rollout_at_1(tmp_path: Path, updates: int) -> None:
    method = {"outcome": "ppo_clip", "token_weighting": "rlsd", "rlsd_lambda": 0.5, "rlsd_decay": 0.0,
              "hint": "sibling", "hint_choice": "longest"}  # fmt: skip
    one = made(hinted(method, updates_per_batch=updates, normaliser="batch"), tmp_path)
    metrics, _ = one.step(1)
    rows = rows_of(tmp_path)
    weights = {row["hint_kind"]: [] for row in rows}
    for row in rows:
        if row["advantage"]:
            weights[row["hint_kind"]] += row["weight"]
    # The one right rollout of the second group has an advantage and no hint.
    assert rows[6]["advantage"] > 0 and rows[6]["hint_kind"] == "none"
    assert set(weights["none"]) == {1.0} and len(set(weights["sibling"])) > 2
    assert math.isfinite(metrics["loss"] or 0.0)


@pytest.mark.parametrize("count", [1, 3])
def test_the_contrast_is_what_the_teacher_says_under_the_wrong_hint(tmp_path: Path, count: int) -> None:
    one = made(hinted(CONTRAST | {"contrast_count": count}), tmp_path)
    model = random_model(SHAPE, "cpu", spread=0.3)
    model.load_state_dict(one.trainer.policies.student.state_dict())
    with counted_passes(one.trainer.policies.student) as passes:
        metrics, _ = one.step(1)
    rows = rows_of(tmp_path)
    # Wrong siblings: all of the first three groups have some, the fourth has none.
    assert [row["contrast_prompt"] is None for row in rows] == [False] * 12 + [True] * 4
    assert metrics["contrast_missing"] == 0.25 and metrics["hint_fell_back"] == 5 / 16
    for row in rows[:12]:
        shown = rows[row["group"] * 4 + row["contrast_sibling"]]
        assert row["contrast_sibling"] != row["sibling"] and shown["status"] == "wrong"
        assert f"{row['student_prompt']} s{shown['completion']}<|im_end|>" in row["contrast_prompt"]
        assert (row["contrast_others"] is None) == (count == 1)
        others = [rows[row["group"] * 4 + place] for place in row["contrast_others"] or []]
        wrong = [other["sibling"] for other in [shown, *others]]
        there = GROUPS[row["group"]].count("w") - (row["status"] == "wrong")
        assert len(set(wrong)) == len(wrong) == min(count, there)
        probabilities = []
        for other in [shown, *others]:
            prompt = row["contrast_prompt"].replace(f" s{shown['completion']}<", f" s{other['completion']}<")
            log_q = plain_log_probs(model, one.trainer.tokenizer(prompt)["input_ids"], row["completion_ids"], 1.0)
            probabilities.append(log_q[torch.arange(row["length"]), row["completion_ids"]].exp())
        expected = torch.stack(probabilities).mean(0).log().tolist()
        assert row["contrast_logprob"] == pytest.approx(expected, abs=1e-4)
    assert all(row["contrast_logprob"] is None for row in rows[12:])
    # The own term got these numbers, and NaN where there are none: its gradient follows from them.
    without = made(hinted({name: value for name, value in CONTRAST.items() if name != "contrast_hint"}), tmp_path / "0")
    with counted_passes(without.trainer.policies.student) as fewer:
        other, _ = without.step(1)
    read = sum(1 + len(row["contrast_others"] or ()) for row in rows[:12])
    assert read == 12 if count == 1 else read > 12
    assert len(passes.prompts(False)) - len(fewer.prompts(False)) == read and other["contrast_missing"] is None
    assert not torch.equal(one.gradients[0], without.gradients[0]) and other["loss"] != metrics["loss"]


def test_a_resumed_run_draws_the_same_hints(tmp_path: Path) -> None:
    params = hinted(SDPO | {"hint_choice": "random"})
    whole = made(params, tmp_path)
    for step in (1, 2):
        whole.step(step)
    whole.trainer.save(2)
    whole.step(3)
    drawn = [[row["hint_sibling"] for row in rows_of(tmp_path, step)] for step in (1, 2, 3)]
    assert drawn[0] != drawn[1] != drawn[2]
    expected = rows_of(tmp_path, 3)
    resumed = made(params, tmp_path)
    assert resumed.trainer.resume() == 2 and not list(tmp_path.glob("rollouts/step-000003*"))
    resumed.step(3)
    assert rows_of(tmp_path, 3) == expected


def test_spans_are_leaks_only_of_what_a_teacher_was_shown(tmp_path: Path) -> None:
    one = made(hinted(SDPO | {"hint_missing": "fall_back"}), tmp_path)
    sampled = one.trainer.sampler.draw(1)
    verdicts = one.trainer.verify(sampled)
    assert one.trainer.hints is not None and sampled.shown_problems is sampled.problems
    drawn = sampled.with_hints(one.trainer.hints, verdicts, 1)
    prepared = [problem.teacher_prompt or "?" for problem in sampled.problems]
    shown = [problem.teacher_prompt or "" for problem in drawn.shown_problems]
    # The third group falls back as a whole; in the second one rollout does.
    assert [text in joined.split("\n") for text, joined in zip(prepared, shown, strict=True)] == [
        False, True, True, False
    ]  # fmt: skip
    assert all(text in shown[0] for text in (sampled.texts[0], sampled.texts[2]))


def test_no_device_is_mixed(tmp_path: Path) -> None:
    for number, method in enumerate((SDPO, CONTRAST)):
        one = made(hinted(method), tmp_path / str(number))
        with pretended_gpu():
            for model in (one.trainer.policies.student, one.trainer.policies.reference):
                put_model(model)
            metrics, _ = one.step(1)
        assert math.isfinite(metrics["loss"] or math.nan)


def sharded(ranks: Ranks, folder: Path) -> None:
    """Two ranks with shards do what one process does; tests/training/test_distributed_trainer.py calls this."""
    for name, method in (("sdpo", SDPO), ("contrast", CONTRAST)):
        params = hinted(method)
        made(params, folder / f"{name}-{ranks.rank}", ranks).step(1)
        if not ranks.first:
            continue
        made(params, folder / f"{name}-alone").step(1)
        pairs = zip(rows_of(folder / f"{name}-0"), rows_of(folder / f"{name}-alone"), strict=True)
        for row, alone in pairs:
            for column in ("teacher_prompt", "hint_kind", "hint_sibling", "contrast_prompt", "gate"):
                assert row[column] == alone[column], column
            for column in ("contrast_logprob", "teacher_logprob", "kl_to_teacher", "loss"):
                found = None if alone[column] is None else pytest.approx(alone[column], abs=1e-4)
                assert row[column] == found, column
