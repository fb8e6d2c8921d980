"""A plan: parameters, shape, machines and assumptions put together, and what to change where it does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sdpg.lora_params import LoraParams
from sdpg.overlays import merge, read_overlay
from sdpg.params import PARAMS_FILE, Params, parse_params, read_yaml
from sdpg.planning.adapter import planned_adapter
from sdpg.planning.machines import Machine
from sdpg.planning.memory import Generation, Layout, MemoryPlan, Passes, plan_memory
from sdpg.planning.shapes import Shape, read_shape, shape_of
from sdpg.planning.work import Assumptions

SMALLEST_HEAD = 128
"""MiB; with less, a GPU's products become thin."""
MOST_GPUS = 256


@dataclass(frozen=True)
class Plan:
    """What is planned, and for what."""

    params: Params
    shape: Shape
    machines: list[Machine]
    assumed: Assumptions


def planned_params(profile: str | None, root: Path = Path()) -> Params:
    """params.yaml, with a profile laid over it where one is named; the file stays as it is.

    Raises:
        UserError: if there is no such profile, or the result is not valid.
    """
    tree = read_yaml(root / PARAMS_FILE)
    if profile:
        merge(tree, {**read_overlay("profile", profile, root), "profile": profile})
    return parse_params(tree, str(root / PARAMS_FILE))


def make_plan(
    profile: str | None,
    model: str | None,
    machines: list[Machine],
    assumed: Assumptions,
    root: Path = Path(),
    lora: LoraParams | None = None,
) -> Plan:
    """Reads parameters and shape.

    Args:
        profile: of profiles/; None for params.yaml as it is.
        model: a folder whose config.json gives the shape instead of the profile's model.
        machines: to plan for.
        assumed: what is not known beforehand.
        root: the project's folder.
        lora: an adapter that takes the place of ``train.lora``.
    """
    params = planned_params(profile, root)
    if lora is not None:
        params = params.model_copy(update={"train": params.train.model_copy(update={"lora": lora})})
    shape = read_shape(Path(model)) if model else shape_of(params.base)
    return Plan(params, shape, machines, assumed)


def largest_passes(params: Params, checkpointing: bool) -> Passes:
    """The largest micro-batch that the settings allow: all prompts short, all responses at their limit, all gates open.

    A line longer than the budget makes a micro-batch of its own.
    """
    budget, response = params.train.tokens_per_micro_batch, params.rollout.max_tokens
    tokens = max(budget, params.prompts.max_student_tokens + response)
    methods = [params.methods[name] for name in params.run.methods]
    taught = any(method.distillation != "none" or method.token_weighting == "rlsd" for method in methods)
    referred = any(method.reference != "none" or method.teacher == "reference" for method in methods)
    return Passes(
        tokens=tokens,
        # The recorded rows' diagnostic pass asks the teacher for every method.
        teacher_tokens=max(budget, params.prompts.max_teacher_tokens + response)
        if taught or params.train.record_rows
        else 0,
        responses=tokens,
        scored=tokens if taught or params.train.record_rows else 0,
        half=params.train.dtype == "bfloat16",
        head_bytes=params.train.head_megabytes << 20,
        checkpointing=checkpointing,
        reference=referred or params.train.record_rows > 0,
        on_gpu=True,
        lora=planned_adapter(params.train.lora),
    )


def largest_generation(params: Params) -> Generation:
    """The largest batch of rollouts and evaluations, every sequence as long as it may be."""
    tokens = params.prompts.max_student_tokens + max(params.rollout.max_tokens, params.evaluation.max_tokens)
    # The trainer's engine has rollout.batch also where it evaluates; evaluation.batch is that of a policy alone.
    return Generation(params.rollout.batch, tokens)


def memory_of(shape: Shape, params: Params, layout: Layout) -> MemoryPlan:
    """The memory of one GPU of a layout."""
    return plan_memory(shape, largest_passes(params, layout.checkpointing), largest_generation(params), layout)


def layouts(gpus: int) -> list[Layout]:
    """The ways to lie on so many GPUs; the first is params.yaml's default."""
    if gpus == 1:
        return [Layout(), Layout(checkpointing=True)]
    kinds: list[Layout] = [Layout(gpus, "ddp"), Layout(gpus, "fsdp2")]
    return [*kinds, *(replace(layout, checkpointing=True) for layout in kinds)]


def exists(layout: Layout) -> bool:
    """Whether a run lies so without being told to: one process, nothing computed again."""
    return layout == Layout()


@dataclass(frozen=True)
class Change:
    """A value of params.yaml that lets a run fit, or helps to."""

    key: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.key}: {self.before} → {self.after}"


def with_changes(params: Params, changes: list[Change]) -> Params:
    """The parameters with other values."""
    tree = params
    for change in changes:
        section, key = change.key.split(".")
        inner = getattr(tree, section).model_copy(update={key: change.after})
        tree = tree.model_copy(update={section: inner})
    return tree


def _smaller(params: Params) -> Iterator[Change]:
    """Values that take less memory and change no result but rounding, one step smaller each."""
    train, longest = params.train, params.prompts.max_student_tokens + params.rollout.max_tokens
    if (budget := max(longest, train.tokens_per_micro_batch // 2)) < train.tokens_per_micro_batch:
        yield Change("train.tokens_per_micro_batch", train.tokens_per_micro_batch, budget)
    if (head := max(SMALLEST_HEAD, train.head_megabytes // 2)) < train.head_megabytes:
        yield Change("train.head_megabytes", train.head_megabytes, head)
    if params.rollout.batch > 1:
        yield Change("rollout.batch", params.rollout.batch, params.rollout.batch // 2)


def changes_to_fit(shape: Shape, params: Params, layout: Layout, usable: float) -> list[Change] | None:
    """The fewest steps down that make a layout fit: each time the one that lowers the peak most. None: none does."""
    before, current = params, params
    while (peak := memory_of(shape, current, layout).peak) > usable:
        tried = [
            (memory_of(shape, with_changes(current, [change]), layout).peak, change) for change in _smaller(current)
        ]
        if not tried or (best := min(tried, key=lambda found: found[0]))[0] >= peak:
            return None
        current = with_changes(current, [best[1]])
    keys = ("train.tokens_per_micro_batch", "train.head_megabytes", "rollout.batch")
    values = {
        key: tuple(getattr(getattr(p, key.split(".")[0]), key.split(".")[1]) for p in (before, current)) for key in keys
    }
    return [Change(key, old, new) for key, (old, new) in values.items() if old != new]


def gpus_to_fit(shape: Shape, params: Params, usable: float) -> int | None:
    """How many GPUs FSDP2 with checkpointing needs: a power of two; None where no number does."""
    count = 1
    while count <= MOST_GPUS:
        if memory_of(shape, params, Layout(count, "fsdp2", True)).peak <= usable:
            return count
        count *= 2
    return None
