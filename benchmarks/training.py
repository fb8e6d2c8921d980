"""Measures training steps of the tiny profile from the base model: SDPG against GRPO, and the update's limit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
import statistics
import tempfile
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.figures import Figure, SkippedError, Target, show
from benchmarks.timing import interleaved, median_ratio, ratio_range
from sdpg import paths
from sdpg.models.experience import Experience
from sdpg.objective.coefficients import coefficients
from sdpg.params import Params, load_params
from sdpg.rewards.verifiers import Verifier
from sdpg.training.run import make_trainer as make_trainer
from sdpg.training.trainer import Stopwatch, Trainer
from sdpg.training.update import Task

WARM_UP, STEP_REPEATS, UPDATE_REPEATS, BATCHES = 2, 12, 8, 4
PARTS = ("rollout", "reward", "update")
STILL_LR = 1e-30
"""A learning rate that moves no float32 weight: every step starts from the base, so both sides see equal rollouts."""

STEP = Target("sdpg_step_vs_grpo", "a step of GRPO with reference KL from the same prompts and policy", "<= 1.2")
UPDATE = Target(
    "sdpg_update_vs_limit",
    "GRPO's update times 1 + g(L_c + L_y)/(4(L_x + L_y)), for the teacher's pass at open gates",
    "<= 1.05",
)


def step_vs_grpo() -> Figure:
    """Measures rollouts, rewards and update of SDPG-UFKL where β peaks, against GRPO's."""
    params = bench_params()
    step = peak_step(params)
    parts: dict[str, list[dict[str, float]]] = {"sdpg-ufkl": [], "grpo": []}
    with trainer(params, "sdpg-ufkl") as sdpg, trainer(params, "grpo") as grpo:
        for seed in tqdm(range(WARM_UP + STEP_REPEATS), desc="training steps", unit="pair", leave=False):
            for runner in (sdpg, grpo):
                taken = timed_step(runner, step, seed)
                if seed >= WARM_UP:
                    parts[runner.name].append(taken)
    show_parts(f"Seconds of a training step ({describe(params)}; step {step}, where β peaks)", parts)
    ours, theirs = totals(parts["sdpg-ufkl"]), totals(parts["grpo"])
    return STEP.measured(
        median_ratio(ours, theirs),
        seconds={name: statistics.median(totals(rows)) for name, rows in parts.items()},
        parts={name: part_medians(rows) for name, rows in parts.items()},
        range=ratio_range(ours, theirs),
        repeats=len(ours),
        sizes=sizes(params),
    )


def update_vs_limit() -> Figure:
    """Measures gradients, clipping and optimiser step on fixed rollouts, against the least that SDPG adds to GRPO.

    GRPO reads student sequences four times: forward, backward (twice the work), and forward by the reference. SDPG also
    reads teacher sequences once, where the gate is open. L_x, L_c, L_y: student prompt, teacher prompt, response.
    """
    params = bench_params()
    step = peak_step(params)
    with trainer(params, "sdpg-ufkl") as sdpg:
        batches = [rollouts(sdpg, step, seed) for seed in range(BATCHES)]
        times = interleaved(
            {name: lambda name=name: [update(sdpg, batch, name, step) for batch in batches]
             for name in ("sdpg-ufkl", "grpo")},
            UPDATE_REPEATS, f"updates of {BATCHES} batches",
        )  # fmt: skip
    gate = statistics.mean(batch.gates.mean().item() for batch in batches)
    lengths = {
        "teacher_prompt": mean_length([batch.teacher_prompts for batch in batches]),
        "student_prompt": mean_length([batch.student_prompts for batch in batches]),
        "response": mean_length([batch.responses for batch in batches]),
    }
    limit = 1 + gate * (lengths["teacher_prompt"] + lengths["response"]) / (
        4 * (lengths["student_prompt"] + lengths["response"])
    )
    teacher, student = (sum(values) for values in zip(*map(tokens_read, batches), strict=True))
    shared = 1 + teacher / (4 * student)
    ratio = median_ratio(times["sdpg-ufkl"], times["grpo"])
    medians = {name: statistics.median(taken) / BATCHES for name, taken in times.items()}
    show(
        f"Seconds of an update ({describe(params)}; β at its peak)", ["", "median", "of GRPO's"],
        [("sdpg-ufkl", f"{medians['sdpg-ufkl']:.3f}", f"{ratio:.3f}"), ("grpo", f"{medians['grpo']:.3f}", ""),
         ("limit", "", f"{limit:.3f}"), ("limit where siblings share their prompt's tokens", "", f"{shared:.3f}")],
        f"gate open for {gate:.2f} of the rollouts; mean tokens: "
        + ", ".join(f"{name} {value:.1f}" for name, value in lengths.items()),
    )  # fmt: skip
    return UPDATE.measured(
        ratio / limit,
        seconds=medians,
        sdpg_over_grpo=ratio,
        limit=limit,
        limit_with_shared_prompts=shared,
        gate=gate,
        lengths=lengths,
        range=[bound / limit for bound in ratio_range(times["sdpg-ufkl"], times["grpo"])],
        repeats=UPDATE_REPEATS,
        sizes=sizes(params),
    )


def bench_params(**rollout: Any) -> Params:
    """Returns params.yaml without diagnostics, with :data:`STILL_LR`, and with changes to ``rollout``.

    Raises:
        SkippedError: if there is no base model.
    """
    if not (paths.BASE_MODEL / "config.json").is_file():
        raise SkippedError(f"{paths.BASE_MODEL} is missing: run `dvc repro base`")
    params = load_params()
    train = params.train.model_copy(update={"record_rows": 0, "gradients_every": 0, "lr": STILL_LR})
    return params.model_copy(update={"train": train, "rollout": params.rollout.model_copy(update=rollout)})


@contextmanager
def trainer(params: Params, method: str) -> Iterator[Trainer]:
    """Yields the pipeline's trainer, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder, Verifier(params.reward) as verifier:
        yield make_trainer(params, method, 0, Path(folder), verifier, lambda step, metrics: None)


def peak_step(params: Params, method: str = "sdpg-ufkl") -> int:
    """Returns the step at which β(k) is largest."""
    steps = range(1, params.train.steps + 1)
    return max(steps, key=lambda step: coefficients(params.methods[method], step, params.train.steps).beta)


def timed_step(one: Trainer, step: int, seed: int) -> dict[str, float]:
    """Returns the seconds of each part of a training step; the seed decides prompts and sampling."""
    one.seed = one.sampler.seed = seed
    watch = Stopwatch()
    metrics = one.step(step, watch)
    # The files count, and do not run into the next step's time.
    one.records.flush()
    watch.lap("record")
    return watch.seconds | {"response_tokens": metrics["response_tokens"] or 0.0}


def rollouts(one: Trainer, step: int, seed: int) -> Experience:
    """Samples a batch of rollouts, verifies it, and gives it advantages and gates."""
    one.seed = one.sampler.seed = seed
    sampled = one.sampler.draw(step)
    return one.credit(sampled.rollouts, one.verify(sampled), coefficients(one.method, step, one.params.train.steps))


def update(one: Trainer, experience: Experience, method: str, step: int) -> None:
    """Makes one update by the losses of any method."""
    params = one.params
    settings = params.methods[method]
    task = Task(
        one.policies, experience, settings, coefficients(settings, step, params.train.steps), params.train,
        params.rollout.max_tokens, one.state / "not-finite.json",
    )  # fmt: skip
    one.update(task, step)


def tokens_read(experience: Experience) -> tuple[int, int]:
    """Returns the tokens that the teacher must read at open gates, and those that the student must read.

    Each prompt is read once. The last token of a response is never read, as nobody needs what its state predicts.
    """

    def count(prompts: list[list[int]], rows: Sequence[int]) -> int:
        distinct = {tuple(prompts[row]) for row in rows}
        return sum(map(len, distinct)) + sum(len(experience.responses[row]) - 1 for row in rows)

    gated = [row for row, gate in enumerate(experience.gates.tolist()) if gate > 0]
    return count(experience.teacher_prompts, gated), count(experience.student_prompts, range(len(experience.responses)))


def totals(rows: Sequence[Mapping[str, float]]) -> list[float]:
    """Returns the seconds of rollouts, rewards and update of each step, without files and metrics."""
    return [sum(row[part] for part in PARTS) for row in rows]


def part_medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the median of each part, and of the other values that each step reports."""
    return {part: statistics.median(row[part] for row in rows) for part in rows[0]}


def show_parts(title: str, found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Prints how long each part of a step takes."""
    rows = []
    for name, steps in found.items():
        parts = part_medians(steps)
        seconds = [f"{parts[part]:.3f}" for part in PARTS]
        rows.append((name, *seconds, f"{statistics.median(totals(steps)):.3f}", f"{parts['response_tokens']:,.0f}"))
    show(title, ["median", *PARTS, "together", "response tokens"], rows)


def describe(params: Params) -> str:
    """Describes the batch in words."""
    return (
        f"{params.profile} profile, {params.train.prompts_per_step} prompts × {params.train.responses_per_prompt}, "
        f"at most {params.rollout.max_tokens} tokens, {torch.get_num_threads()} thread(s)"
    )


def sizes(params: Params) -> dict[str, int]:
    """Returns the sizes of the batch, for the JSON line."""
    return {
        "prompts": params.train.prompts_per_step,
        "responses_per_prompt": params.train.responses_per_prompt,
        "max_tokens": params.rollout.max_tokens,
    }


def mean_length(batches: Sequence[Sequence[Sequence[int]]]) -> float:
    """Returns the mean number of tokens of a sequence, over all batches."""
    return statistics.mean(len(ids) for batch in batches for ids in batch)
