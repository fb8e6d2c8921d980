"""Tests that the rules of a method agree with what the loss itself does, over random valid methods."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from pathlib import Path
import tempfile
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from app import gates, series, signals
from app.sources import LocalFiles, Place, RunEntry
from sdpg.errors import UserError
from sdpg.evaluation.rescoring import find_run
from sdpg.files import write_json
from sdpg.models.experience import Experience
from sdpg.objective import coefficients as rules
from sdpg.objective import methods
from sdpg.objective.choices import NOT_USED, resolve
from sdpg.objective.gates import GATES, RowCredit
from sdpg.params import MethodParams, Params, parse_params
from sdpg.params.stored import fields_read, method_of, train_of
from sdpg.params.train import TrainParams
from sdpg.planning.plan import largest_passes
from sdpg.planning.work import Assumptions, rows_read
from sdpg.training.update import Task
from sdpg.tuning.trials import beta_at
from tests.helpers.fabricated import params_with
from tests.objective.test_methods import token_inputs

ADVANTAGES = [1.5, -0.5, 0.0, 0.25, -2.0, 0.0, 1.0, -0.25]
"""Of the rollouts of a step."""
ROWS = [
    RowCredit(advantage, 2.0 * right - 1, right, 0.5 if advantage else float(right))
    for advantage, right in zip(ADVANTAGES, [True, False, True, True, False, False, True, False], strict=True)
]
NUMBERS: dict[str, tuple[float | None, ...]] = {
    "clip_low": (0.1, 0.2), "clip_high": (0.2, 0.28), "dual_clip": (None, 3.0),
    "rlsd_lambda": (0.0, 0.5, 1.0), "rlsd_decay": (0.0, 0.125, 0.6, 1.0), "rlsd_warmup": (0.0, 0.2, 1.0),
    "rlsd_clip": (0.1, 0.3), "jsd_beta": (0.5, 0.25),
    "beta": (0.0, 1e-3, 2.0), "beta_warmup": (0.0, 0.125, 1.0), "beta_decay": (0.0, 0.2, 0.875),
    "evidence_tau": (1.0,), "evidence_threshold": (0.0,), "evidence_share": (1.0, 0.5), "skew": (0.5, 0.9),
    "top_k": (None, 3, 500), "entry_clip": (None, 0.05), "gate_kappa": (0.0, 5.0), "gate_quantile": (0.2, 0.5),
    "teacher_rate": (0.0, 0.05, 1.0), "teacher_every": (1, 20), "contrast_count": (1, 3),
    "kl_clamp": (None, 0.5, 20.0), "alpha": (0.0, 1e-3, 0.5), "entropy_bonus": (0.0, 0.0, 0.01),
}  # fmt: skip
"""Values of the options that are numbers; those that are names are drawn from all there are."""
OTHERWISE = ("terms", "token_gate", "exclude_eos", "train", "length", "switch")
TRAIN = {"steps", "lr", "updates_per_batch", "old_logprobs", "lr_warmup", "lr_decay", "lr_shape", "lr_starts_at_zero",
         "record_every", "record_rows"}  # fmt: skip
"""What the rules read of the section ``train``."""


def names(field: str) -> tuple[str, ...]:
    """The values that an option has; none where they are no names. Beside a name a gate may be a user's own."""
    options = get_args(MethodParams.model_fields[field].annotation)
    return tuple(name for option in options for name in [option, *get_args(option)] if isinstance(name, str))


@dataclass(frozen=True, repr=False)
class Drawn:
    """A run's valid parameters and one of its steps."""

    params: Params
    step: int

    def __repr__(self) -> str:
        train = self.params.train.model_dump(exclude_unset=True, include=TRAIN)
        return f"step {self.step}, {self.method.model_dump(exclude_unset=True)}, train {train}"

    @property
    def method(self) -> MethodParams:
        return self.params.methods["drawn"]

    @property
    def train(self) -> TrainParams:
        return self.params.train_of(self.method)

    @property
    def at(self) -> rules.Coefficients:
        return rules.coefficients(self.method, self.step, self.train.steps)

    @property
    def gates(self) -> list[float]:
        return [rules.gate_of(self.method).row(row) for row in ROWS]


def own_term(name: str) -> dict[str, Any]:
    path = f"tests.helpers.own_parts:{name}"
    return {"kind": "import", "path": path, "coefficient": 0.5, "reads_teacher": name == "taught"}


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """A method's entry with every field that its terms read."""
    outcome = draw(st.sampled_from(names("outcome")))
    lossless = outcome == "none"
    reference = draw(st.sampled_from(names("reference")))
    heads = {
        "title": "drawn", "outcome": outcome, "reference": reference,
        "distillation": draw(st.sampled_from(names("distillation")[1 if lossless else 0 :])),
        "token_weighting": "none" if lossless else draw(st.sampled_from(names("token_weighting"))),
        "reference_in": {"k1": "reward", "k3": draw(st.sampled_from(["loss", "reward"]))}.get(reference, "loss"),
    }  # fmt: skip
    rest = {
        field: draw(st.sampled_from(NUMBERS[field] if field in NUMBERS else names(field)))
        for field in MethodParams.model_fields
        if field not in heads and field not in OTHERWISE
    }
    rest["gate"] = draw(st.sampled_from([rest["gate"], rest["gate"], ["positive", "difficulty"]]))
    gained = heads["distillation"] == "sampled_gain"
    # Quantiles close the gate of tokens of which the rules know nothing.
    rest["token_gate"] = ["sigmoid"] if gained else draw(st.sampled_from([[], ["sigmoid"]]))
    rest["exclude_eos"] = draw(st.booleans())
    rest["length"] = draw(st.sampled_from([None, {"weight": 0.5}]))
    rest["train"] = draw(st.sampled_from([{}, {"lr_decay": 0.5}]))
    if heads["token_weighting"] in ("cepo", "rlcsd", "sipo"):
        rest["contrast_hint"] = "wrong_answer"
    rest["terms"] = draw(st.sampled_from([{}, {}, {"likely": own_term("likely")}, {"taught": own_term("taught")}]))
    if "taught" in rest["terms"]:
        # It reads the teacher on every rollout.
        rest["hint_missing"] = "fall_back"
    return fields_read(heads | rest)


@st.composite
def runs(draw: st.DrawFn) -> Drawn:
    steps, entry = draw(st.integers(1, 30)), draw(entries())
    train = {
        "steps": steps, "lr": draw(st.sampled_from([1e-6, 3e-4])),
        "updates_per_batch": draw(st.sampled_from([1] if entry["outcome"] == "reinforce" else [1, 2])),
        "old_logprobs": draw(st.sampled_from(["trainer", "rollout"])),
        "lr_warmup": draw(st.sampled_from([0.0, 0.025, 0.5])), "lr_decay": draw(st.sampled_from([0.0, 0.2, 1.0])),
        "lr_shape": draw(st.sampled_from(["linear", "cosine"])), "lr_starts_at_zero": draw(st.booleans()),
        "record_every": draw(st.integers(1, 12)), "record_rows": draw(st.sampled_from([0, 4])),
    }  # fmt: skip
    tree = BASE.model_dump(mode="json", exclude_unset=True)
    tree = {
        **tree,
        "run": {"methods": ["drawn"], "seeds": [0]},
        "methods": {"drawn": entry},
        "train": {**tree["train"], **train},
    }
    return Drawn(parse_params(tree), draw(st.integers(1, steps)))


BASE = params_with(["grpo"], [0])
each_run = settings(deadline=None, max_examples=150)


def stored(params: Params, otherwise: bool) -> dict[str, Any]:
    """What a run's config.yaml holds; ``otherwise``: as a version with fewer and other keys would write it."""
    tree = params.model_dump(mode="json")
    if otherwise:
        for section, held in ((tree["methods"]["drawn"], params.methods["drawn"]), (tree["train"], params.train)):
            for key, field in type(held).model_fields.items():
                if getattr(held, key) == field.default and key not in ("steps", "lr"):
                    del section[key]
            section["of_another_version"] = "something"
    return tree


def entry(tree: dict[str, Any]) -> RunEntry:
    config = {"method": "drawn", "seed": 0, "params": tree}
    return RunEntry("drawn-0", "drawn-0", Place("", "", LocalFiles(Path())), "runs/drawn-0", "finished", config)


def task(drawn: Drawn, **changes: float) -> Task:
    """The trainer's task, at the step's coefficients but for the changes."""
    count = len(ADVANTAGES)
    experience = Experience(
        [""] * count, [[2]] * count, [[2]] * count, [[1]] * count, [[0.0]] * count,
        torch.tensor(ADVANTAGES, dtype=torch.float64), torch.tensor(drawn.gates, dtype=torch.float64),
    )  # fmt: skip
    policies: Any = None
    return Task(policies, experience, drawn.method, replace(drawn.at, **changes), drawn.train, 1, Path("unused.json"))


def trained(drawn: Drawn) -> list[bool]:
    """What the trainer reads with a gradient."""
    return task(drawn).trained_rows()


def taught(drawn: Drawn, **changes: float) -> list[bool]:
    """What the trainer's teacher reads."""
    return task(drawn, **changes).taught_rows()


def said(rule: Callable[..., bool], drawn: Drawn, *before: Any) -> list[bool]:
    return [rule(*before, *each) for each in zip(ADVANTAGES, drawn.gates, strict=True)]


def test_every_option_is_drawn_and_every_gate_can_be_chosen() -> None:
    drawn = {"title", "outcome", "reference", "distillation", "token_weighting", "reference_in", *OTHERWISE, *NUMBERS}
    left = {field for field in MethodParams.model_fields if field not in drawn and not names(field)}
    assert not left, "say which values of them to draw"
    assert names("gate") == tuple(GATES)


def crossed(position: float, shape: str) -> float:
    at = min(1.0, position)
    return at if shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * at)


@each_run
@given(runs())
def test_coefficients_and_learning_rate_heed_every_option(drawn: Drawn) -> None:
    method, train, step = drawn.method, drawn.train, drawn.step
    total = train.steps

    def factor(passed: int, fraction: float, shape: str) -> float:
        return crossed(passed / max(1, round(fraction * total)), shape) if fraction else 1.0

    beta = method.beta * factor(step, method.beta_warmup, method.beta_shape)
    beta *= factor(total - step, method.beta_decay, method.beta_shape)
    left = max(1, round(method.rlsd_decay * total)) - step
    weight = method.rlsd_lambda * factor(step, method.rlsd_warmup, method.rlsd_shape)
    weight *= factor(max(0, left), method.rlsd_decay, method.rlsd_shape)
    assert drawn.at.beta == pytest.approx(beta if method.distillation != "none" else 0.0, abs=1e-15)
    assert drawn.at.rlsd_lambda == pytest.approx(weight if method.token_weighting != "none" else 0.0, abs=1e-15)
    assert drawn.at.alpha == (method.alpha if method.reference != "none" else 0.0)
    assert drawn.at.entropy_bonus == method.entropy_bonus
    lr = train.lr * factor(step - train.lr_starts_at_zero, train.lr_warmup, "linear")
    assert rules.learning_rate(train, step) == pytest.approx(
        lr * factor(total - step + 1, train.lr_decay, train.lr_shape), abs=1e-15
    )


@each_run
@given(runs())
def test_the_rules_are_what_the_loss_reads(drawn: Drawn) -> None:
    """A row has a term where its loss is not 0, and reads the teacher where another teacher makes another loss."""
    method, at = drawn.method, drawn.at
    inputs = token_inputs(ADVANTAGES, drawn.gates)
    reads_reference = rules.reads_reference(method, at)

    def total(gain: float, divergence: float) -> torch.Tensor:
        told = replace(
            inputs,
            divergence=torch.full_like(inputs.divergence, divergence),
            ref_logprobs=inputs.ref_logprobs if reads_reference else None,
            gain_teacher_logprobs=inputs.gain_logprobs + gain if at.rlsd_lambda > 0 else None,
            teacher_logprobs=inputs.gain_logprobs + gain,
            contrast_logprobs=inputs.gain_logprobs if method.token_weighting != "none" else None,
        )
        return methods.token_losses(method, at, drawn.train, told).total.detach()

    one, other = total(0.02, 0.01), total(0.04, 0.02)
    assert (one != 0).tolist() == said(rules.is_trained, drawn, method, at)
    assert (one != other).tolist() == said(rules.reads_teacher, drawn, method, at)
    assert not reads_reference or (one != 0).all()


@each_run
@given(runs())
def test_the_trainer_asks_for_the_same_rows(drawn: Drawn) -> None:
    assert trained(drawn) == said(rules.is_trained, drawn, drawn.method, drawn.at)
    assert taught(drawn) == said(rules.reads_teacher, drawn, drawn.method, drawn.at)
    assert beta_at(drawn.params, "drawn", drawn.step) == drawn.at.beta


@each_run
@given(runs())
def test_the_planner_counts_the_rows_that_the_trainer_reads(drawn: Drawn) -> None:
    method, at, params = drawn.method, drawn.at, drawn.params
    rows = len(ADVANTAGES)
    assumed = Assumptions(
        gate_rate=sum(advantage > 0 for advantage in ADVANTAGES) / rows,
        mixed_rate=sum(advantage != 0 for advantage in ADVANTAGES) / rows,
    )
    read = rows_read(params, method, drawn.step, assumed)
    several, passes = drawn.train.updates_per_batch > 1, sum(taught(drawn))
    if several and at.rlsd_lambda > 0:
        # Scored once before the updates, and once more where the updates distil.
        passes += sum(taught(drawn, rlsd_lambda=0.0))
    contrasts = method.contrast_count * (method.contrast_hint != "none")
    assert read.contrast * rows == pytest.approx(contrasts * sum(taught(drawn)))
    penalized = method.reference != "none" and method.reference_in == "reward"
    in_loss = method.reference != "none" and not penalized and method.alpha > 0
    assert read.student * rows == pytest.approx(sum(trained(drawn)))
    assert read.teacher * rows == pytest.approx(passes)
    assert read.reference == (read.student if in_loss else 0)
    assert read.before == (several and params.train.old_logprobs == "trainer") + 2 * penalized

    largest = largest_passes(params, False)
    own = any(term.reads_teacher for term in method.terms.values())
    taught_at_all = method.distillation != "none" or method.token_weighting != "none" or own
    recorded = params.train.record_rows > 0
    assert (largest.teacher_tokens > 0) == (largest.scored > 0) == (taught_at_all or recorded)
    frozen = taught_at_all and method.teacher == "reference"
    kept = taught_at_all and method.teacher in ("ema", "snapshot", "gated")
    assert (largest.teacher_weights, largest.teacher_head) == (kept, kept or frozen)
    assert largest.reference == (recorded or frozen or method.reference != "none")


@each_run
@given(runs(), st.booleans())
def test_the_app_believes_what_training_did(drawn: Drawn, otherwise: bool) -> None:
    method, at, train = drawn.method, drawn.at, drawn.train
    tree = stored(drawn.params, otherwise)
    run = entry(tree)
    meant = series.scheduled(run).set_index("step").loc[drawn.step]
    expected = {"alpha": at.alpha, "beta": at.beta, "rlsd_lambda": at.rlsd_lambda}
    expected["lr"] = rules.learning_rate(train, drawn.step)
    assert {name: meant[name] for name in series.COEFFICIENTS} == expected

    recorded = train.record_rows > 0 and drawn.step in {1, train.steps, *range(0, train.steps, train.record_every)}
    for advantage, gate, is_trained in zip(ADVANTAGES, drawn.gates, trained(drawn), strict=True):
        row = {"method": "drawn", "step": drawn.step, "advantage": advantage, "gate": gate}
        done = signals.plan(row, tree)
        assert (done.trained, done.rlsd_lambda, done.scored) == (is_trained, at.rlsd_lambda, recorded)
        assert bool(done.why_not_trained) != is_trained
        assert signals.catalogue(row, tree)["gate"].formula == rules.gate_of(method).formula

    kind = gates.kind(run)
    distils = method.distillation != "none"
    assert (kind.distils, kind.rlsd) == (distils, method.token_weighting != "none")
    assert kind.gate == (" · ".join(rules.gate_names(method.gate)) if distils else "positive")
    assert kind.keeps_out == (not all(drawn.gates) or (method.hint != "prompts" and method.hint_missing == "skip"))


@settings(deadline=None, max_examples=40)
@given(runs(), st.booleans())
def test_rescoring_and_the_report_name_the_gate_that_held(drawn: Drawn, otherwise: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "config.yaml", {"method": "drawn", "params": stored(drawn.params, otherwise)})
        (folder / "rollouts").mkdir()
        (folder / "rollouts" / "step-000001-rank-0.parquet").touch()
        gate = find_run(name, {}, folder).gate
    # Rescoring knows an advantage's sign alone.
    assert [gate.row(replace(row, advantage=(row.advantage > 0) - (row.advantage < 0))) for row in ROWS] == drawn.gates

    values = {path: value for choice in resolve(drawn.params) for path, value in choice.values}
    gate = rules.gate_name(drawn.method) if rules.distils(drawn.method) else NOT_USED
    assert values["methods.*.gate"] == f"{gate} (all)"
    penalty = drawn.method.reference_in if drawn.method.reference != "none" else NOT_USED
    assert values["methods.*.reference_in"] == f"{penalty} (all)"
    assert rules.penalizes_reward(drawn.method) == (penalty == "reward")


def test_a_stored_tree_is_read_as_far_as_it_is_known() -> None:
    tree = stored(BASE, False)
    method = tree["methods"]["grpo"] | {"later": 1}
    assert method_of({"methods": {"grpo": method}}, "grpo") == BASE.methods["grpo"]
    assert fields_read(method) == {**fields_read(tree["methods"]["grpo"]), "later": 1} and fields_read(None) is None
    assert train_of({"train": {**tree["train"], "later": 1}}).lr == BASE.train.lr
    assert not method_of({}, "grpo").model_fields_set and method_of({"methods": []}, "grpo").title == "grpo"
    assert not train_of({"train": None}).model_fields_set


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("train", {"steps": None}, "train lacks steps"),
        ("train", {"lr_shape": "steps"}, "the shape steps is unknown"),
        ("methods", {"drawn": None}, "methods.drawn is missing"),
    ],
)
def test_schedules_that_this_version_cannot_know_are_not_guessed(section: str, change: Any, says: str) -> None:
    tree = stored(BASE, False)
    tree["methods"]["drawn"] = tree["methods"]["sdpg-ufkl"]
    tree[section] = {key: value for key, value in {**tree[section], **change}.items() if value is not None}
    with pytest.raises(UserError, match=says):
        series.scheduled(entry(tree))
