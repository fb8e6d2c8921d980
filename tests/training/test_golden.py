"""Tests traces of five updates per method: choices in no formula, such as the order of updates, must stay the same.

A file of ``tests/golden/`` holds a method's values beside its trace, so that tuning params.yaml does not affect it.
After a change that is meant to move the traces, or to add the methods that are new in params.yaml, run
``REGENERATE_GOLDEN=1 .venv/bin/python -m pytest tests/training/test_golden.py`` (``=new``: only for new methods) and
look at the difference before committing it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpg.files import write_json
from sdpg.objective.coefficients import coefficients
from sdpg.objective.schedules import learning_rate, window
from sdpg.params import MethodParams, load_params
from sdpg.training.update import Task, accumulate_gradients
from tests.helpers.tiny import (
    MAX_TOKENS,
    SIBLINGS,
    gradients,
    tiny_experience,
    tiny_policies,
    tiny_train,
    with_teacher,
)

FOLDER = Path(__file__).parents[1] / "golden"
STEPS, TOTAL = 5, 40
"""The first five steps of forty, in which the warm-up of β and the decay of λ are under way."""


RATIO_ALONE = ("gspo", "cispo")
"""Outcome terms that differ from others only off-policy, for which π_old is another policy."""


def trace(method: MethodParams) -> list[dict[str, float]]:
    """Losses, gradient norms and entropies of five updates on fabricated rollouts, in float32."""
    return updates(method)[0]


def final_weights(method: MethodParams) -> list[torch.Tensor]:
    """The student's weights after the same updates."""
    return updates(method)[1]


def updates(method: MethodParams) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    own = {name: getattr(method.train, name) for name in method.train.model_fields_set}
    policies, train = with_teacher(tiny_policies(), method), tiny_train(**{"lr": 3e-3, "lr_warmup": 0.1, **own})
    optimizer = torch.optim.AdamW(
        policies.student.parameters(), lr=train.lr, betas=train.betas, weight_decay=train.weight_decay
    )
    steps = []
    for step in range(1, STEPS + 1):
        kind = method.gate if method.distillation != "none" else "positive"
        experience = tiny_experience(
            seed=100 + step, gate_kind=kind, std=train.advantage_std, baseline=train.advantage_baseline,
            shifted_old=method.outcome in RATIO_ALONE,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, train.lr, window(train.lr_warmup, TOTAL))
        optimizer.zero_grad(set_to_none=True)
        at = coefficients(method, step, TOTAL)
        task = Task(policies, experience, method, at, train, MAX_TOKENS, Path("unused.json"))
        everyone = range(3 * SIBLINGS)
        with torch.no_grad():
            # Of all rows, those included that training does not read.
            batch = experience.batch([[row] for row in everyone], experience.student_prompts, policies.pad_id, "cpu")
            entropy = policies.read(policies.student, batch)[1].entropy.mean().item()
        loss = accumulate_gradients(task, everyone).loss
        steps.append({"loss": loss, "grad_norm": gradients(policies.student).norm().item(), "entropy": entropy})
        torch.nn.utils.clip_grad_norm_(policies.student.parameters(), train.max_grad_norm)
        optimizer.step()
        policies.advance_teacher(step, None)
    return steps, list(policies.student.parameters())


def golden_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


if os.environ.get("REGENERATE_GOLDEN"):
    for name, method in load_params(Path(__file__).parents[2] / "params.yaml").methods.items():
        values = method.model_dump(exclude_unset=True)
        if (FOLDER / f"{name}.json").exists() and os.environ["REGENERATE_GOLDEN"] == "new":
            continue
        write_json(FOLDER / f"{name}.json", {"method": values, "trace": trace(method)})


@pytest.mark.parametrize("name", golden_names())
def test_five_updates_follow_the_golden_trace(name: str) -> None:
    golden = read(name)
    found = trace(MethodParams(**golden["method"]))
    assert len(found) == len(golden["trace"]) == STEPS
    for step, expected in zip(found, golden["trace"], strict=True):
        assert step == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_methods_of_the_paper_have_a_trace_and_no_two_are_equal() -> None:
    names = golden_names()
    assert {"grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl", "alpha0", "beta0", "nogate"} <= set(names)
    traces = [json.dumps(read(name)["trace"]) for name in names]
    assert len(set(traces)) == len(names)
