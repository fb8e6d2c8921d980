"""Lists D1-D22, where the paper and its public code differ: what each does, and which option chooses between them.

The presets ``paper`` and ``refcode`` set these options; sizes (steps, batch, learning rate, α, β) belong to profiles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdpg.params import Imported, Params, parse_params
from sdpg.params.configure import merge, read_overlay
from sdpg.params.train import MethodTraining, TrainOverrides

NOT_USED = "not used"


@dataclass(frozen=True)
class Choice:
    """A difference between paper and code.

    ``paths`` name options in params.yaml; ``methods.*.x`` is one value per method.
    """

    id: str
    what: str
    paper: str
    code: str
    paths: tuple[str, ...] = ()
    not_offered: str | None = None
    """Why there is no option, or what the options leave out."""


@dataclass(frozen=True)
class Resolved:
    """A difference with its value in this run."""

    choice: Choice
    values: tuple[tuple[str, str], ...]
    """Pairs of a path and its value as text."""


CHOICES = (
    Choice("D1", "Gate of the distillation, and clamps", "gate on: positive advantages only; no clamp",
           "gate off by default: wrong and uniform groups are distilled too; KL clamped at 20 per token, log ρ at ±20",
           ("methods.*.gate", "methods.*.kl_clamp", "train.log_ratio_clamp")),
    Choice("D2", "Windows of β(k)", "T_warm 50, T_decay 350 of 400 steps", "0 and 0: β is constant",
           ("methods.*.beta_warmup", "methods.*.beta_decay")),
    Choice("D3", "Clipping of the ratio", "0.2/0.2 (baselines)",
           "SDPG 0.2/0.28, dual clip 10; GRPO dual clip 1000 (off); RLSD dual clip 3",
           ("methods.*.clip_low", "methods.*.clip_high", "methods.*.dual_clip")),
    Choice("D4", "KL to the reference in the baselines", "coefficient 1e-3; neither estimator nor place is given",
           "GRPO: k1 inside the reward, before it is normalised; RLSD: none",
           ("methods.*.reference", "methods.*.reference_in", "methods.*.alpha")),
    Choice("D5", "Updates per rollout batch, and the outcome term",
           "on-policy REINFORCE, or A.3 with sg[ℓ_clip]·log π and sg[ρ] on all terms",
           "8 updates; PPO's clip on the reward term, no ρ on the others; π_old recomputed by the trainer",
           ("train.updates_per_batch", "train.old_logprobs", "train.ratio_on_all_terms", "methods.*.outcome")),
    Choice("D6", "Privileged context of the teacher", "answer and solution", "answer only",
           ("prompts.hint", "methods.*.hint")),
    Choice("D7", "Name of D_KL(student ‖ teacher)", "reverse KL", "forward KL",
           not_offered="naming only: the quantity is the same, here called kl_student_teacher"),
    Choice("D8", "Reward of a wrong answer", "text: 0; figures: −1", "−1", ("reward.wrong",)),
    Choice("D9", "Dynamic sampling and overlong penalty", "—", "set in the scripts",
           not_offered="never read in the public code: there is nothing to switch"),
    Choice("D10", "Normaliser of the loss", "mean over prompts of the group's token mean",
           "token mean per micro-batch, weighted by its share of sequences", ("train.normaliser",),
           "ours never depends on the micro-batch: the nearest, `batch`, is one token mean over the batch"),
    Choice("D11", "OPSD variant", "—", "clamped sampled-token weight, frozen teacher, reward gate",
           ("methods.opsd-sampled",)),
    Choice("D12", "Temperature of the teacher's logits", "—",
           "the student's are divided by the sampling temperature, the teacher's are not (same at 1)",
           ("train.teacher_temperature",)),
    Choice("D13", "OPCD", "in Table 2", "no such mode", ("methods.opcd",)),
    Choice("D14", "Prompts per step, and answer format", "128 prompts, \\boxed{…}",
           "the 1.7B script: 256 prompts, a line 'Answer: …'", ("train.prompts_per_step", "reward.answer_format"),
           "in no preset: the number is a size, and the format goes with the wording of the prompts"),
    Choice("D15", "Teacher prompts that are too long", "—",
           "cut at the right at 2048 tokens: can lose the generation header", ("prompts.max_teacher_tokens",),
           "never cut: a longer prompt drops its problem and is counted"),
    Choice("D16", "Standard deviation of the advantage", "std over the group (which one is not said)",
           "unbiased, over G − 1", ("train.advantage_std",)),
    Choice("D17", "Precision of the full-vocabulary KL", "—",
           "whole (B, T, V) logits of both; in bfloat16 the KL can become negative",
           not_offered="always float32"),
    Choice("D18", "Verifier", "—",
           "last \\boxed in the final 500 characters, normalised string match, fallback 'Answer:'",
           ("reward.verifier",)),
    Choice("D19", "Learning rate of the first optimiser step", "—", "0, for all 8 updates",
           ("train.lr_starts_at_zero",)),
    Choice("D20", "Length of training", "400 steps", "two epochs of 13.9k rows: about 216 steps", ("train.steps",),
           "in no preset: it is a size"),
    Choice("D21", "The token that ends a response, in the distillation", "distilled like any other",
           "the same; a later option, off by default, leaves it out", ("methods.*.exclude_eos",)),
    Choice("D22", "A step whose gradient norm is not finite", "—", "is skipped",
           not_offered="the run stops and says at which step: what is skipped in silence hides a fault"),
)  # fmt: skip


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Imported):
        return value.path
    if isinstance(value, list | tuple):
        return " · ".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _per_method(params: Params, field: str) -> str:
    """Returns 'value (methods); value (methods)', in the order in which the values first appear."""
    methods = {name: params.method(name) for name in params.run.methods}
    values = {name: _text(getattr(each, field)) if each.reads(field) else NOT_USED for name, each in methods.items()}
    return values[next(iter(values))] + " (all)" if len(set(values.values())) == 1 else _grouped(values)


def _grouped(values: dict[str, str]) -> str:
    """Returns the one value that all methods have, or each value with its methods."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())


def _value(params: Params, path: str) -> str:
    if path.startswith("methods.*."):
        return _per_method(params, path.removeprefix("methods.*."))
    section, name = path.split(".")
    if section == "train" and name in MethodTraining.model_fields:
        return _grouped(
            {method: _text(getattr(params.train_of(params.method(method)), name)) for method in params.run.methods}
        )
    if section == "methods":
        there = "offered" if name in params.methods else "not in params.yaml"
        return f"{there}, {'run' if name in params.run.methods else 'not run'}"
    return _text(getattr(getattr(params, section), name))


def resolve(params: Params, choices: Sequence[Choice] = CHOICES) -> list[Resolved]:
    """Returns each difference with the values of its options, for the methods of the run."""
    return [Resolved(choice, tuple((path, _value(params, path)) for path in choice.paths)) for choice in choices]


def choices_markdown(params: Params) -> str:
    """Returns the content of `reports/choices.md`."""
    lines = [
        "# Choices", "",
        "Where the paper and its public code differ: what each does, and what this run does.", "",
        f"Profile `{params.profile}`, preset `{params.preset}`, methods {', '.join(params.run.methods)}.", "",
        "| # | what | paper | public code | this run |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for resolved in resolve(params):
        choice = resolved.choice
        parts = [f"`{path}`: {value}" for path, value in resolved.values]
        if choice.not_offered:
            parts.append(choice.not_offered if choice.paths else f"Not offered: {choice.not_offered}")
        cells = (choice.id, choice.what, choice.paper, choice.code, "<br>".join(parts))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


PRESETS = ("paper", "refcode")


@dataclass(frozen=True)
class Deviation:
    """An option by which a run differs from a preset, with the values of both presets, as text."""

    id: str
    path: str
    value: str
    paper: str
    refcode: str


def deviations(params: Params, method: str, root: Path = Path()) -> list[Deviation]:
    """Returns the options of D1-D22 in which a method's run differs from what a preset would set.

    A preset sets nothing for a method that it does not name, beyond what holds for all.

    Args:
        params: the run's parameters.
        method: the method.
        root: the folder that holds ``presets/``.

    Raises:
        UserError: if a preset is missing or cannot be laid over the parameters.
    """
    params = params.model_copy(update={"run": params.run.model_copy(update={"methods": [method]})})
    ours = dict(_values(params))
    theirs = {preset: dict(_values(_under(params, preset, root))) for preset in PRESETS}
    choices = {path: choice.id for choice in CHOICES for path in choice.paths}
    return [
        Deviation(choices[path], path, value, *(theirs[preset][path] for preset in PRESETS))
        for path, value in ours.items()
        if path in choices and any(theirs[preset][path] != value for preset in PRESETS)
    ]


def _values(params: Params) -> Iterator[tuple[str, str]]:
    for resolved in resolve(params):
        for path, value in resolved.values:
            yield path, value.removesuffix(" (all)")


def _under(params: Params, preset: str, root: Path) -> Params:
    tree = params.model_dump(mode="json", exclude_unset=True)
    merge(tree, read_overlay("preset", preset, root))
    found = parse_params(tree, f"params.yaml with preset {preset}")
    # What a method sets for itself alone is no part of the preset; it need not go with the preset's other values.
    methods = {name: each.model_copy(update={"train": TrainOverrides()}) for name, each in found.methods.items()}
    return found.model_copy(update={"methods": methods})
