"""The plan as text: what was assumed stands beside what follows from it."""

from collections.abc import Sequence
import io
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sdpg.planning.adapter import planned_adapter
from sdpg.planning.machines import RESERVED, Machine
from sdpg.planning.memory import HALF, Layout, MemoryPlan, kv_per_token
from sdpg.planning.plan import (
    Plan,
    changes_to_fit,
    exists,
    gpus_to_fit,
    layouts,
    memory_of,
    with_changes,
)
from sdpg.planning.work import (
    Counts,
    Range,
    count_completions,
    generation_hours,
    method_work,
    plan_disk,
    training_hours,
)

GIB = 2**30
WIDTH = 140
MISSING = "*"
"""Marks what has not been tried on a GPU, beyond all else, which has not been either."""


def report(plan: Plan) -> str:
    """The whole plan."""
    parts = [_head(plan)]
    for machine in plan.machines:
        parts += [_memory(plan, machine), _advice(plan, machine)]
    counts = count_completions(plan.params)
    parts += [_tokens(plan, counts), _operations(plan)]
    parts += [_hours(plan, machine, counts) for machine in plan.machines]
    parts += [_disk(plan, counts), _assumptions(plan)]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _head(plan: Plan) -> str:
    params, shape = plan.params, plan.shape
    machines = "; ".join(f"{machine.label} ({machine.source})" for machine in plan.machines)
    return (
        f"Plan of profile {params.profile}, preset {params.preset}: {shape.parameters / 1e9:.2f}B parameters "
        f"({shape.layers} layers, D {shape.hidden_size}, V {shape.vocabulary:,}), {params.train.dtype} passes\n"
        f"{_adapter(plan)}"
        f"Machines: {machines}\n"
        "All of this is computed from formulas and named assumptions; nothing of it was measured on these machines."
    )


def _adapter(plan: Plan) -> str:
    adapter = planned_adapter(plan.params.train.lora)
    if adapter is None:
        return ""
    count, targets = adapter.parameters(plan.shape), ", ".join(sorted(adapter.targets))
    return f"Trained is an adapter alone, of rank {adapter.rank}: {count / 1e6:.1f}M parameters on {targets}\n"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> str:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(str, row), end_section=row[0].startswith("="))
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, color_system=None, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + (f"\n{note}" if note else "")


def _gib(value: float) -> str:
    return f"{value / GIB:.1f}" if value >= GIB / 20 or value == 0 else f"{value / GIB:.4f}"


def _name(layout: Layout) -> str:
    return layout.label + ("" if exists(layout) else MISSING)


def _memory(plan: Plan, machine: Machine) -> str:
    plans = [memory_of(plan.shape, plan.params, layout) for layout in layouts(machine.gpus)]
    rows: list[list[str]] = []

    def add(section: str, phase: str | None) -> None:
        names = list(dict.fromkeys(name for one in plans for name in getattr(one, section)))
        for name in names:
            rows.append([f"  {name}", *(_gib(getattr(one, section).get(name, 0)) for one in plans)])
        if phase:
            rows.append([f"= peak of the {phase}", *(_gib(one.phases[phase]) for one in plans)])

    rows.append(["in every phase", *[""] * len(plans)])
    add("stays", None)
    for section, phase in (("update", "update"), ("generation", "generation"), ("step", "optimiser step")):
        rows.append([f"{phase}, beside that", *[""] * len(plans)])
        add(section, phase)
    usable = machine.usable
    rows.append([f"fits {_gib(usable)} GiB", *(_verdict(one, usable) for one in plans)])
    note = (
        f"{MISSING} train.distributed and train.activation_checkpointing: tried on CPUs alone. The largest micro-batch "
        "that the settings\nallow is planned: responses at their limit, all gates open. "
        f"{_gib(machine.card.memory)} GiB less {RESERVED:.0%} (assumption) for context and gaps."
    )
    if plan.params.train.line_tokens:
        note += "\ntrain.line_tokens is not 0: masks of shared lines are not counted."
    return _table(f"Memory of one GPU, GiB: {machine.label}", ["", *map(_name, layouts(machine.gpus))], rows, note)


def _verdict(one: MemoryPlan, usable: float) -> str:
    return "yes" if one.peak <= usable else f"no, {_gib(one.peak - usable)} over"


def _advice(plan: Plan, machine: Machine) -> str:
    lines = []
    for layout in layouts(machine.gpus):
        fitting = memory_of(plan.shape, plan.params, layout)
        if fitting.peak <= machine.usable:
            continue
        changes = changes_to_fit(plan.shape, plan.params, layout, machine.usable)
        if changes is None:
            stays = sum(fitting.stays.values())
            lines.append(
                f"- {_name(layout)}: no value of params.yaml makes it fit; {_gib(stays)} GiB are there in every phase"
            )
        else:
            peak = memory_of(plan.shape, with_changes(plan.params, changes), layout).peak
            lines.append(f"- {_name(layout)}: fits with {'; '.join(map(str, changes))} (peak {_gib(peak)} GiB)")
    if not lines:
        return "All of these fit as they are."
    needed = gpus_to_fit(plan.shape, plan.params, machine.usable)
    least = "no number of GPUs" if needed is None else f"{needed} GPU{'s' if needed > 1 else ''} like this"
    lines.append(f"- with the values as they are, FSDP2 with checkpointing{MISSING} needs {least}")
    return "\n".join(["To make it fit:", *lines])


def _tokens(plan: Plan, counts: Counts) -> str:
    params, assumed = plan.params, plan.assumed
    train, evaluation = params.train, params.evaluation
    mean = assumed.response_share.scaled(params.rollout.max_tokens)
    rows_per_step = train.prompts_per_step * train.responses_per_prompt
    per_step = mean.scaled(rows_per_step)
    answers = assumed.response_share.scaled(evaluation.max_tokens)

    def row(name: str, completions: int, how: str, tokens: Range) -> list[str]:
        return [name, f"{completions:,}", how, _span(tokens.scaled(completions / 1e6))]

    problems = counts.evaluated_problems
    rows = [
        row("rollouts", counts.rollouts, f"{train.steps} steps × {train.prompts_per_step} × "
            f"{train.responses_per_prompt}", mean),
        row("benchmarks in training", counts.in_training,
            f"{counts.evaluations} evaluations × {problems} problems × {evaluation.samples}", answers),
        row("validation in training", counts.validation,
            f"{counts.evaluations} × {params.data.validation_size} × {evaluation.samples}", answers),
        row("final policy", counts.final, f"{problems + params.data.validation_size} × ({evaluation.final_samples} + 1 "
            "greedy)", answers),
        row("base, once for all runs", counts.base, "as the final policy, and as teacher", answers),
    ]  # fmt: skip
    return _table(
        "Completions of one run", ["", "completions", "", "million response tokens"], rows,
        f"A step: {rows_per_step:,} responses, {_span(per_step.scaled(1e-3), 0)} thousand tokens to learn from.",
    )  # fmt: skip


def _span(values: Range, digits: int | None = None) -> str:
    def one(value: float) -> str:
        places = digits if digits is not None else 0 if value >= 100 else 1 if value >= 1 else 3
        return f"{value:,.{places}f}"

    low, high = sorted((values.low, values.high))
    return one(low) if one(low) == one(high) else f"{one(low)}–{one(high)}"


def _work_of(plan: Plan, name: str, checkpointing: bool = False) -> tuple[Any, Any]:
    """At short and at long responses."""
    limit, share = plan.params.rollout.max_tokens, plan.assumed.response_share
    method = plan.params.methods[name]
    return tuple(  # pyright: ignore[reportReturnType]
        method_work(plan.shape, plan.params, method, plan.assumed, value * limit, checkpointing)
        for value in (share.low, share.high)
    )


def _operations(plan: Plan) -> str:
    rows = []
    for name in plan.params.run.methods:
        low, high = _work_of(plan, name)
        parts = [
            _span(Range(getattr(low, part) / 1e18, getattr(high, part) / 1e18))
            for part in ("student", "reference", "teacher", "head", "total")
        ]
        rows.append([plan.params.methods[name].title, *parts])
    return _table(
        "Training passes of one run, 10¹⁸ operations (short to long responses)",
        ["", "student, both ways", "reference", "teacher", "head", "together"], rows,
        f"Gate open for {plan.assumed.gate_rate:.0%} of the rollouts, advantage not zero for "
        f"{plan.assumed.mixed_rate:.0%} (assumptions). Activation checkpointing would add the student's forward pass.",
    )  # fmt: skip


def in_flight(plan: Plan, machine: Machine) -> int:
    """How many sequences of mean length vLLM has room for beside its weights and, on several GPUs, FSDP2's state."""
    stays = 0
    if machine.gpus > 1:
        stays = sum(memory_of(plan.shape, plan.params, Layout(machine.gpus, "fsdp2", True)).stays.values())
    tokens = plan.assumed.student_prompt + plan.assumed.response_share.high * plan.params.rollout.max_tokens
    room = machine.usable - stays - HALF * plan.shape.parameters
    return max(1, min(plan.assumed.concurrent, int(room / (tokens * kv_per_token(plan.shape, HALF)))))


def _hours(plan: Plan, machine: Machine, counts: Counts) -> str:
    params, assumed, shape = plan.params, plan.assumed, plan.shape
    half = params.train.dtype == "bfloat16"

    concurrent = in_flight(plan, machine)

    def sampled(completions: int, limit: int, vllm: bool) -> Range:
        batch = concurrent if vllm else params.rollout.batch
        return generation_hours(shape, completions, limit, machine.card, machine.gpus, assumed, batch, vllm)

    evaluated = counts.in_training + counts.validation + counts.final
    rollouts = {vllm: sampled(counts.rollouts, params.rollout.max_tokens, vllm) for vllm in (False, True)}
    evaluations = {vllm: sampled(evaluated, params.evaluation.max_tokens, vllm) for vllm in (False, True)}
    base = {vllm: sampled(counts.base, params.evaluation.max_tokens, vllm) for vllm in (False, True)}
    rows, table = [], {vllm: base[vllm] for vllm in (False, True)}
    runs = len(params.run.seeds)
    for name in params.run.methods:
        low, high = _work_of(plan, name)
        training = training_hours(Range(low.total, high.total), machine.card, machine.gpus, half, assumed)
        totals = {vllm: rollouts[vllm] + evaluations[vllm] + training for vllm in (False, True)}
        table = {vllm: table[vllm] + totals[vllm].scaled(runs) for vllm in totals}
        sums = [_span(part[vllm]) for part in (rollouts, evaluations, totals) for vllm in (True, False)]
        rows.append([params.methods[name].title, _span(training), *sums])
    rows.append([f"= whole table, {runs} seed{'s' if runs > 1 else ''}, base included", "", "", "", "", "",
                 *(_span(table[vllm]) for vllm in (True, False))])  # fmt: skip
    beside = "beside a share of the training state" if machine.gpus > 1 else "the training state elsewhere meanwhile"
    note = (
        f"vLLM{MISSING}: {concurrent} sequences in flight on a GPU, bfloat16, {beside}.\n"
        f"transformers: {params.rollout.batch} sequences at once (rollout.batch), float32, each batch as long as its "
        "longest response.\nVerifying, recording and moving weights are left out."
    )
    if machine.gpus > 1:
        fits = memory_of(shape, params, Layout()).peak <= machine.usable
        note += f"\nHours of {machine.gpus} GPUs on one run (train.distributed) are not planned; " + (
            f"{machine.gpus} runs can train side by side." if fits else "one run does not fit one of them."
        )
    return _table(
        f"Hours of one run on {machine.label}, from good to poor utilisation and short to long responses (estimates)",
        ["", "training", f"rollouts, vLLM{MISSING}", "transformers", f"evaluation, vLLM{MISSING}", "transformers",
         f"together, vLLM{MISSING}", "transformers"], rows, note,
    )  # fmt: skip


def _disk(plan: Plan, counts: Counts) -> str:
    runs = len(plan.params.run.methods) * len(plan.params.run.seeds)
    disk = plan_disk(plan.shape, plan.params, counts, runs, plan.assumed)
    rows = [
        ["base (at the most: float32)", f"{disk.base / 1e9:,.1f}"],
        [f"checkpoints of {runs} runs in .state, and one being written", f"{disk.checkpoints / 1e9:,.1f}"],
        ["final policies", f"{disk.policies / 1e9:,.1f}"],
        ["rollout records", _span(disk.rollouts.scaled(1e-9))],
        ["evaluation records", _span(disk.evaluations.scaled(1e-9))],
        ["= together", _span(disk.total.scaled(1e-9))],
    ]
    return _table(
        "Disk, GB", ["", ""], rows,
        "DVC's cache takes as much again for outputs where the file system cannot share blocks between files.",
    )  # fmt: skip


def _assumptions(plan: Plan) -> str:
    one, params = plan.assumed, plan.params
    card = plan.machines[0].card
    per_token = kv_per_token(plan.shape, HALF)
    return "\n".join([
        "Assumptions, none of them measured:",
        f"- mean response: {one.response_share.low:.0%} to {one.response_share.high:.0%} of the limit of "
        f"{params.rollout.max_tokens:,} tokens (--response-share)",
        f"- mean prompts: student {one.student_prompt}, teacher {one.teacher_prompt} tokens (--student-prompt, "
        "--teacher-prompt)",
        f"- gate open for {one.gate_rate:.0%} of the rollouts (--gate-rate), advantage not zero for "
        f"{one.mixed_rate:.0%} (--mixed-rate)",
        f"- training reaches {one.training_mfu.high:.0%} to {one.training_mfu.low:.0%} of "
        f"{card.peak_flops / 1e12:,.0f} TFLOP/s, dense bfloat16 (--mfu, --peak-flops)",
        f"- generation reaches {one.bandwidth_share.high:.0%} to {one.bandwidth_share.low:.0%} of "
        f"{card.bandwidth / 1e12:.2f} TB/s (--bandwidth); a token of transformers' takes at least "
        f"{one.launch_seconds.low * 1e3:g}–{one.launch_seconds.high * 1e3:g} ms a layer",
        f"- vLLM keeps {one.concurrent} sequences in flight at the most; a token takes {per_token / 2**10:,.0f} KiB in "
        "keys and values",
        f"- N GPUs are {one.data_parallel.high:.0%} to {one.data_parallel.low:.0%} as fast as N times one",
        f"- a token takes {one.record_bytes.low:g}–{one.record_bytes.high:g} bytes in a rollout record, "
        f"{one.answer_bytes.low:g}–{one.answer_bytes.high:g} in an evaluation's",
        "- DDP's buckets are a copy of the gradients; FSDP2 gathers a layer and the next one, and keeps embedding and\n"
        "  head whole",
        "The formulas of one process were checked against tensors counted on a CPU (tests/test_plan_memory.py); those\n"
        "of DDP and FSDP2, and the workspaces of GPU kernels, were not.",
    ])  # fmt: skip
