"""Makes a plan of parameters, shape, machines and assumptions, and finds what to change where it does not fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdpg.objective.coefficients import (
    keeps_teacher_weights,
    needs_reference_weights,
    needs_teacher_passes,
    teaches_with_own_head,
)
from sdpg.params import PARAMS_FILE, Params, parse_params, read_yaml
from sdpg.params.configure import merge, read_overlay
from sdpg.params.lora import LoraParams
from sdpg.params.vllm import VllmInProcess
from sdpg.planning.adapter import planned_adapter
from sdpg.planning.generation import VllmMemory, largest_generation, longest_in_cache, policy_bytes
from sdpg.planning.machines import DEFAULT_CARD, Machine
from sdpg.planning.memory import Layout, MemoryPlan, Passes, plan_memory
from sdpg.planning.shapes import Shape, read_shape, shape_of
from sdpg.planning.work import CARDS, Assumptions

SMALLEST_HEAD = 128
"""MiB of the smallest head; with less, a GPU's products become thin."""
MOST_GPUS = 256
SMALL_CARD = "rtx4090"


@dataclass(frozen=True)
class Plan:
    """A plan's parameters, shape, machines and assumptions."""

    params: Params
    shape: Shape
    machines: list[Machine]
    assumed: Assumptions


def planned_params(profile: str | None, root: Path = Path(), changes: Mapping[str, Any] | None = None) -> Params:
    """Returns params.yaml, with a profile and then ``changes`` laid over it where given; the file stays as it is.

    Raises:
        UserError: if there is no such profile, or the result is not valid.
    """
    tree = read_yaml(root / PARAMS_FILE)
    if profile:
        merge(tree, {**read_overlay("profile", profile, root), "profile": profile})
    merge(tree, changes or {})
    return parse_params(tree, str(root / PARAMS_FILE))


def planned_run(
    profile: str | None, model: str | None = None, lora: LoraParams | None = None, root: Path = Path()
) -> tuple[Params, Shape]:
    """Reads the parameters and the shape that are planned for.

    Args:
        profile: the name of a profile in profiles/; None for params.yaml as it is.
        model: a folder whose config.json gives the shape instead of the profile's model.
        lora: an adapter that takes the place of ``train.lora``.
        root: the project's folder.
    """
    params = planned_params(profile, root)
    if lora is not None:
        params = params.model_copy(update={"train": params.train.model_copy(update={"lora": lora})})
    return params, read_shape(Path(model)) if model else shape_of(params.base)


def largest_passes(params: Params, checkpointing: bool) -> Passes:
    """Returns the largest micro-batch that the settings allow: short prompts, longest responses, all gates open.

    A line longer than the budget makes a micro-batch of its own.
    """
    budget, response = params.train.tokens_per_micro_batch, params.rollout.max_tokens
    tokens = max(budget, params.prompts.max_student_tokens + response)
    methods = [params.methods[name] for name in params.run.methods]
    taught = any(needs_teacher_passes(method, params.train) for method in methods)
    return Passes(
        tokens=tokens,
        teacher_tokens=max(budget, params.prompts.max_teacher_tokens + response) if taught else 0,
        responses=tokens,
        scored=tokens if taught else 0,
        half=params.train.dtype == "bfloat16",
        head_bytes=params.train.head_megabytes << 20,
        checkpointing=checkpointing,
        reference=any(needs_reference_weights(method, params.train) for method in methods),
        on_gpu=True,
        lora=planned_adapter(params.train.lora),
        teacher_weights=any(map(keeps_teacher_weights, methods)),
        teacher_head=params.train.lora is None and any(map(teaches_with_own_head, methods)),
    )


def memory_of(shape: Shape, params: Params, layout: Layout, device: float = CARDS[DEFAULT_CARD].memory) -> MemoryPlan:
    """Returns the memory of one GPU of a layout; it has ``device`` bytes, of which vLLM may be given a share."""
    passes = largest_passes(params, layout.checkpointing)
    return plan_memory(shape, passes, largest_generation(params, device), layout)


def cache_room(shape: Shape, params: Params, layout: Layout, usable: float, device: float) -> int | None:
    """Returns the bytes of a GPU that a run leaves for vLLM's KV cache, in training and in its final evaluation.

    It is None where vLLM is not in the training process, and 0 where nothing is left. ``usable`` and ``device`` are as
    in :func:`changes_to_fit`.
    """
    generation = largest_generation(params, device)
    if not isinstance(generation, VllmMemory):
        return None
    none = replace(generation, kv_bytes=0, total=None)
    phases = plan_memory(shape, largest_passes(params, layout.checkpointing), none, layout).phases
    # With sleep the cache is there in one phase, otherwise in all of them.
    training = phases["generation"] if generation.sleep else max(phases.values())
    return max(0, int(usable) - max(training, policy_bytes(shape, none)))


def own_layout(params: Params) -> Layout:
    """Returns the layout that params.yaml describes."""
    spread = params.train.distributed
    return Layout(spread.processes, spread.strategy, params.train.activation_checkpointing)


def layouts(params: Params, gpus: int) -> list[Layout]:
    """Returns the layouts on so many GPUs; that of params.yaml comes first, where there are enough for it."""
    kinds = [Layout()] if gpus == 1 else [Layout(gpus, "ddp"), Layout(gpus, "fsdp2")]
    usual = [*kinds, *(replace(layout, checkpointing=True) for layout in kinds)]
    own = own_layout(params)
    return [own, *(layout for layout in usual if layout != own)] if own.gpus <= gpus else usual


def assumed_card(shape: Shape, params: Params) -> str:
    """Returns the card that is planned for where none is named or found: a small one where the run fits it."""
    small = Machine(1, CARDS[SMALL_CARD], "assumed")
    peak = memory_of(shape, params, own_layout(params), small.card.memory).peak
    return SMALL_CARD if peak <= small.usable else DEFAULT_CARD


def exists(layout: Layout) -> bool:
    """Returns whether a layout is the default one: one process, without checkpointing."""
    return layout == Layout()


@dataclass(frozen=True)
class Change:
    """A value of params.yaml that lets a run fit, or helps to."""

    key: str
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.key}: {self.before} → {self.after}"


def _value(params: Any, key: str) -> Any:
    for name in key.split("."):
        params = getattr(params, name)
    return params


def with_changes(params: Params, changes: list[Change]) -> Params:
    """Returns the parameters with changed values."""

    def changed(tree: Any, path: list[str], value: float) -> Any:
        inner = value if len(path) == 1 else changed(getattr(tree, path[0]), path[1:], value)
        return tree.model_copy(update={path[0]: inner})

    for change in changes:
        params = changed(params, change.key.split("."), change.after)
    return params


def _smaller(shape: Shape, params: Params, layout: Layout, usable: float, device: float) -> Iterator[Change]:
    """Yields values that take less memory and change no result but rounding: one step smaller, or what is left."""
    train, longest = params.train, params.prompts.max_student_tokens + params.rollout.max_tokens
    if (budget := max(longest, train.tokens_per_micro_batch // 2)) < train.tokens_per_micro_batch:
        yield Change("train.tokens_per_micro_batch", train.tokens_per_micro_batch, budget)
    if (head := max(SMALLEST_HEAD, train.head_megabytes // 2)) < train.head_megabytes:
        yield Change("train.head_megabytes", train.head_megabytes, head)
    if params.rollout.batch > 1:
        yield Change("rollout.batch", params.rollout.batch, params.rollout.batch // 2)
    settings = params.rollout.vllm
    if not isinstance(settings, VllmInProcess):
        return
    needed = longest_in_cache(params, shape)
    if (given := settings.kv_cache_megabytes) is not None:
        left = (cache_room(shape, params, layout, usable, device) or 0) >> 20
        if -(-needed // 2**20) <= left < given:
            yield Change("rollout.vllm.kv_cache_megabytes", given, left)
    elif (given := settings.gpu_memory_share) is not None:
        change = Change("rollout.vllm.gpu_memory_share", given, round(given - 0.05, 2))
        if change.after > 0:
            left = largest_generation(with_changes(params, [change]), device)
            assert isinstance(left, VllmMemory)
            if left.cache(shape) >= needed:
                yield change


def changes_to_fit(
    shape: Shape, params: Params, layout: Layout, usable: float, device: float = CARDS[DEFAULT_CARD].memory
) -> list[Change] | None:
    """Returns the fewest steps down that make a layout fit, each the one that lowers the peak most; None: none does.

    Of a GPU's ``device`` bytes ``usable`` are to be had.
    """
    current, changed = params, {}
    while (peak := memory_of(shape, current, layout, device).peak) > usable:
        tried = [
            (memory_of(shape, with_changes(current, [change]), layout, device).peak, change)
            for change in _smaller(shape, current, layout, usable, device)
        ]
        if not tried or (best := min(tried, key=lambda found: found[0]))[0] >= peak:
            return None
        current = with_changes(current, [best[1]])
        changed[best[1].key] = best[1].after
    return [Change(key, _value(params, key), after) for key, after in changed.items()]


def gpus_to_fit(shape: Shape, params: Params, usable: float, device: float = CARDS[DEFAULT_CARD].memory) -> int | None:
    """Returns how many GPUs FSDP2 with checkpointing needs: a power of two; None where no number suffices."""
    count = 1
    while count <= MOST_GPUS:
        if memory_of(shape, params, Layout(count, "fsdp2", True), device).peak <= usable:
            return count
        count *= 2
    return None
