"""Tests the signals of a rollout: their numbers, their scales, and the reasons why one is missing."""

from collections.abc import Iterator
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app import signals, sources, store
from app.quick_yaml import parse_yaml
from sdpg.objective.advantages import group_advantages
from sdpg.objective.coefficients import coefficients, is_trained
from sdpg.params import Params
from sdpg.records.schemas import TOKEN_SIGNALS

PROJECT = Path(__file__).parents[2]
PARAMS = parse_yaml((PROJECT / "params.yaml").read_text(encoding="utf-8"))


def row(method: str = "sdpg-ufkl", **changes: Any) -> dict[str, Any]:
    """A rollout of two tokens with everything recorded."""
    made: dict[str, Any] = dict.fromkeys(TOKEN_SIGNALS) | {
        "method": method, "step": 10, "advantage": 1.5, "gate": 1.0,
        "rollout_logprob": [-1.0, -2.0], "logprob": [-1.25, -2.5], "ref_logprob": [-1.0, -4.5],
        "teacher_logprob": [-0.25, -5.5], "kl_to_teacher": [0.5, 2.0], "entropy": [0.75, 1.0], "weight": [1.0, 1.0],
        "loss": [0.001, -0.002],
    }  # fmt: skip
    return made | changes


def of(key: str, row: dict[str, Any], params: dict[str, Any] | None = None, tokens: float | None = 2000) -> Any:
    found = {each.signal.key: each for each in signals.readings(row, params or PARAMS, tokens)}
    assert tuple(found) == signals.KEYS
    return found[key]


def with_train(**changes: Any) -> dict[str, Any]:
    return {**PARAMS, "train": {**PARAMS["train"], **changes}}


def with_method(name: str, **changes: Any) -> dict[str, Any]:
    return {**PARAMS, "methods": {**PARAMS["methods"], name: {**PARAMS["methods"][name], **changes}}}


def test_values_follow_from_the_record() -> None:
    made = row()
    assert of("gap", made).values == [1.0, -3.0]
    assert of("reference", made).values == [-0.25, 2.0]
    assert of("mismatch", made).values == [-0.25, -0.5]
    assert of("kl", made).values == [0.5, 2.0]
    assert of("entropy", made).values == [0.75, 1.0]
    assert of("gate", made).values == 1.0
    assert of("advantage", made).values == 1.5
    assert of("loss", made).values == [2.0, -4.0]
    assert of("loss", made, with_train(updates_per_batch=4)).values == [0.5, -1.0]
    weighted = row("rlsd", weight=[1.1, 0.9], step=2)
    assert of("weight", weighted).values == [1.1, 0.9] and not of("weight", weighted).note


def test_rlsd_says_when_its_weights_have_faded() -> None:
    assert "λ is 0" in of("weight", row("rlsd")).note


@pytest.mark.parametrize("std", ["population", "sample"])
@pytest.mark.parametrize("siblings", [2, 8, 16])
def test_the_scale_of_the_advantage_is_its_bound(std: Any, siblings: int) -> None:
    """One right among wrong ones is the furthest from the mean that a reward can be."""
    params = with_train(responses_per_prompt=siblings, advantage_std=std)
    scale = of("advantage", row(), params).signal.scale
    rewards = torch.tensor([[1.0] + [-1.0] * (siblings - 1)])
    largest = group_advantages(rewards, std, 0.0).max().item()
    assert scale.high == pytest.approx(largest, rel=1e-9) and scale.low == -scale.high


def test_scales_are_the_same_for_all_rollouts_and_steps() -> None:
    first = signals.catalogue(row(), PARAMS)
    for step in (1, 7, 60):
        for advantage, gate in ((0.0, 0.0), (-2.0, 0.0), (2.0, 1.0)):
            other = signals.catalogue(row(step=step, advantage=advantage, gate=gate, loss=None), PARAMS)
            assert {key: each.scale for key, each in other.items()} == {key: each.scale for key, each in first.items()}
    assert signals.catalogue(row("rlsd"), with_method("rlsd", rlsd_clip=0.3))["weight"].scale.high == 1.3


def test_open_ends_are_said() -> None:
    assert signals.Scale(-3, 0, 3, True, True).ends() == ("≤ −3", "≥ 3")
    assert signals.Scale(0, 0, 2, False, True).ends() == ("0", "≥ 2")
    assert signals.Scale(0.8, 1, 1.2).ends() == ("0.8", "1.2")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"teacher": "current"}, {10: "the current weights"}),
        ({"teacher": "reference"}, {10: "the base"}),
        ({"teacher": "ema", "teacher_rate": 0.05}, {10: "the moving average of the weights, rate 0.05"}),
        (
            {"teacher": "snapshot", "teacher_every": 4},
            {4: "the base, until the first snapshot", 5: "the weights after step 4", 8: "the weights after step 4",
             9: "the weights after step 8"},
        ),
        ({"teacher": "gated"}, {10: "the weights with the best validation accuracy so far"}),
        ({"teacher": "of_another_version"}, {10: "of_another_version, which this version does not know"}),
    ],
)  # fmt: skip
def test_signals_name_whose_weights_taught(values: dict[str, Any], said: dict[int, str]) -> None:
    params = with_method("sdpg-ufkl", **values)
    for step, weights in said.items():
        for key in ("gap", "kl"):
            shown = of(key, row(step=step), params).signal.derived
            assert f"under the privileged prompt ({weights}, before the update)" in shown
    assert "(the current weights, before" in of("kl", row("grpo"), with_method("grpo", **values)).signal.derived


METHODS = sorted(PARAMS["methods"])


@pytest.mark.parametrize("method", METHODS)
def test_what_was_trained_is_what_training_trains(method: str) -> None:
    """Parity with the trainer's own rule, over steps, advantages, gates and the options that switch terms off."""
    for params in variants(method):
        tree = Params.model_validate(params)
        for step in (1, 7, 8, 59, 60):
            at = coefficients(tree.methods[method], step, tree.train.steps)
            for advantage in (-1.0, 0.0, 1.0):
                for gate in (0.0, 1.0):
                    expected = is_trained(tree.methods[method], at, advantage, gate)
                    done = signals.plan(row(method, step=step, advantage=advantage, gate=gate), params)
                    assert done.trained == expected, (method, step, advantage, gate)
                    assert bool(done.why_not_trained) != expected
                    assert done.rlsd_lambda == at.rlsd_lambda


def variants(method: str) -> Iterator[dict[str, Any]]:
    yield PARAMS
    yield with_method(method, entropy_bonus=0.01)
    entry = PARAMS["methods"][method]
    if "alpha" in entry:
        yield with_method(method, alpha=0.0)
        if entry["reference"] == "k3":
            yield with_method(method, reference_in="reward")
    if "beta" in entry:
        yield with_method(method, beta=0.0)


def test_reasons_name_what_decides() -> None:
    unscored = {"ref_logprob": None, "teacher_logprob": None, "kl_to_teacher": None}
    assert "16 of 128" in of("kl", row(**unscored)).reason
    assert "step 7" in of("gap", row(step=7, **unscored)).reason
    assert "every 10" in of("reference", row(step=7, **unscored)).reason
    assert "record_rows is 0" in of("kl", row(**unscored), with_train(record_rows=0)).reason
    assert "no token weighting" in of("weight", row("grpo")).reason
    assert "metrics.csv" in of("loss", row(), tokens=None).reason

    untouched = {**unscored, "logprob": None, "entropy": None, "weight": None, "loss": None}
    silent = with_method("sdpg-ufkl", alpha=0.0)
    uniform = row(advantage=0.0, gate=0.0, **untouched)
    for key in ("entropy", "mismatch", "loss"):
        reason = of(key, uniform, silent).reason
        assert "its advantage is 0, its gate is closed and α is 0" in reason
        assert ("16 of 128" in reason) == (key != "loss")
    assert "β is 0 at this step" in of("loss", row(step=60, advantage=0.0, **untouched), silent).reason
    assert of("gate", uniform, silent).values == 0.0


def test_a_run_of_another_version_is_read_as_far_as_it_is_known() -> None:
    """Fields of a later version are left out, and what an earlier one lacks has its default."""
    later = with_method("sdpg-ufkl", gate="later", of_later=1)
    assert "later, which this version does not know" in of("gate", row(), later).signal.formula
    lacking = {"methods": {"sdpg-ufkl": {"outcome": "reinforce"}}, "train": {"steps": 60}}
    assert of("gap", row(), lacking).values == of("gap", row()).values
    assert signals.plan(row(step=10), lacking).scored and signals.plan(row(step=10), {}).scored


def test_a_rollout_without_a_hint_has_no_teacher() -> None:
    skipped = row(teacher_logprob=None, kl_to_teacher=None, hint_kind="none", gate=0.0)
    for key in ("gap", "kl"):
        assert of(key, skipped).reason == (
            "The teacher does not read this rollout: there is no such hint for it (hint_missing: skip)."
        )
    assert of("reference", skipped).values == [-0.25, 2.0]


def test_a_null_that_nothing_explains_is_not_explained() -> None:
    """A record that breaks the rules gets no invented reason."""
    assert "do not say why" in of("loss", row(loss=None)).reason
    assert "do not say why" in of("kl", row(kl_to_teacher=None)).reason


def sample_rows() -> Iterator[tuple[sources.RunEntry, dict[str, Any], float]]:
    for run in sources.discover(sources.SAMPLE).runs.values():
        for step in store.rollout_steps(run):
            table = store.step_rollouts(run, step)
            tokens = float(sum(table["length"].to_pylist()))
            for each in table.to_pylist():
                yield run, each, tokens


def test_of_real_runs_every_null_has_a_reason_and_nothing_else_has() -> None:
    count = missing = 0
    for run, each, tokens in sample_rows():
        for reading in signals.readings(each, run.params, tokens):
            count += 1
            missing += reading.values is None
            assert (reading.values is None) == bool(reading.reason)
            assert "do not say why" not in reading.reason, (run.id, each["step"], reading)
            if isinstance(reading.values, list):
                assert len(reading.values) == each["length"]
    assert 0 < missing < count


def test_of_real_runs_the_mean_loss_of_a_step_is_its_metric() -> None:
    """Holds where a step's records are whole, as the sample's are."""
    sums: dict[tuple[str, int], list[float]] = {}
    runs = {}
    for run, each, tokens in sample_rows():
        values = of("loss", each, run.params, tokens).values
        runs[run.id] = run
        sums.setdefault((run.id, each["step"]), []).append(math.fsum(values or []) / tokens)
    for (id, step), parts in sums.items():
        table = store.metrics(runs[id])
        metric = table.loc[table["step"] == step, "loss"].iloc[0]
        assert math.fsum(parts) == pytest.approx(metric, abs=1e-6)


def test_of_real_runs_no_value_passes_a_closed_end() -> None:
    for run, each, tokens in sample_rows():
        for reading in signals.readings(each, run.params, tokens):
            if reading.values is None:
                continue
            values, scale = np.atleast_1d(reading.values), reading.signal.scale
            assert scale.open_low or values.min() >= scale.low - 1e-4, (reading.signal.key, values.min())
            assert scale.open_high or values.max() <= scale.high + 1e-4, (reading.signal.key, values.max())


def test_scored_steps_are_the_first_the_last_and_every_so_many() -> None:
    params = with_train(steps=25, record_every=10, record_rows=4)
    assert [step for step in range(1, 26) if signals.plan(row(step=step), params).scored] == [1, 10, 20, 25]
    assert not signals.plan(row(step=10), with_train(record_rows=0)).scored
