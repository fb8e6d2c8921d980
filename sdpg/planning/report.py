"""Writes the plan as text: what was assumed stands beside what follows from it."""

from dataclasses import replace
from typing import Any

from sdpg.params.vllm import VllmServer
from sdpg.planning.adapter import planned_adapter
from sdpg.planning.generation import (
    BATCHED_TOKENS,
    GRAPHS,
    LOGITS,
    VllmMemory,
    full_length,
    largest_generation,
    longest_in_cache,
)
from sdpg.planning.hours_report import hours_of
from sdpg.planning.machines import MACHINE_GPUS, RESERVED, Machine
from sdpg.planning.memory import HALF, Layout, MemoryPlan, kv_per_token
from sdpg.planning.plan import (
    Plan,
    cache_room,
    changes_to_fit,
    gpus_to_fit,
    layouts,
    memory_of,
    own_layout,
    with_changes,
)
from sdpg.planning.text import GIB, MISSING, gib, marked, span, text_table
from sdpg.planning.work import Counts, Range, count_completions, method_work, plan_disk


def report(plan: Plan) -> str:
    """Returns the whole plan as text."""
    parts = [_head(plan)]
    for machine in plan.machines:
        parts += [_memory(plan, machine), _advice(plan, machine)]
    counts = count_completions(plan.params)
    parts += [_tokens(plan, counts), _operations(plan)]
    parts += [hours_of(plan, machine, counts) for machine in plan.machines]
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


def _column(layout: Layout, plan: Plan) -> str:
    how, _, more = marked(replace(layout, checkpointing=False)).partition(", ")
    words = [how + more, f"checkpointing{MISSING}" if layout.checkpointing else ""]
    return "\n".join([*filter(None, words), *(["as params.yaml says"] if layout == own_layout(plan.params) else [])])


def _memory(plan: Plan, machine: Machine) -> str:
    params, shape = plan.params, plan.shape
    device = machine.card.memory
    columns = layouts(params, machine.gpus)
    plans = [memory_of(shape, params, layout, device) for layout in columns]
    rows: list[list[str]] = []

    def add(section: str) -> None:
        names = list(dict.fromkeys(name for one in plans for name in getattr(one, section)))
        for name in names:
            rows.append([f"  {name}", *(gib(getattr(one, section).get(name, 0)) for one in plans)])

    rows.append(["in every phase", *[""] * len(plans)])
    add("stays")
    rooms = [cache_room(shape, params, layout, machine.usable, device) for layout in columns]
    for section, phase in (("update", "update"), ("generation", "generation"), ("step", "optimiser step")):
        rows.append([f"{phase}, beside that", *[""] * len(plans)])
        add(section)
        if phase == "generation" and rooms[0] is not None:
            rows += _room_rows([room or 0 for room in rooms], plan)
        rows.append([f"= peak of the {phase}", *(gib(one.phases[phase]) for one in plans)])
    usable = machine.usable
    rows.append([f"fits {gib(usable)} GiB", *(_verdict(one, usable) for one in plans)])
    notes = [
        f"{MISSING} train.distributed and train.activation_checkpointing: tried on CPUs alone. The largest micro-batch "
        "that the settings\nallow is planned: responses at their limit, all gates open. "
        f"{gib(device)} GiB less {RESERVED:.0%} (assumption) for context and gaps.",
        _generation_note(plan, machine),
    ]
    if (own := own_layout(params)) not in columns:
        notes.append(f"params.yaml says {marked(own)}, which is more GPUs than these.")
    if params.train.line_tokens:
        notes.append("train.line_tokens is not 0: masks of shared lines are not counted.")
    return text_table(
        f"Memory of one GPU, GiB: {machine.label}", ["", *(_column(layout, plan) for layout in columns)], rows,
        "\n".join(filter(None, notes)),
    )  # fmt: skip


def _room_rows(rooms: list[int], plan: Plan) -> list[list[str]]:
    """Returns what each layout leaves for the KV cache, and how many rollouts at their full length that would hold."""
    generation = largest_generation(plan.params, 0)
    assert isinstance(generation, VllmMemory), "checked by the caller"
    sequence = full_length(plan.params, plan.shape, generation.itemsize)
    return [
        ["  (free for the KV cache)", *(f"({gib(room)})" for room in rooms)],
        ["  (rollouts at full length in that)", *(f"({room // sequence})" for room in rooms)],
    ]


def _generation_note(plan: Plan, machine: Machine) -> str:
    generation = largest_generation(plan.params, machine.card.memory)
    if isinstance(plan.params.rollout.vllm, VllmServer):
        return "vLLM's server takes nothing here: it needs GPUs of its own, which are not planned."
    if not isinstance(generation, VllmMemory):
        return ""
    cache, needed = generation.cache(plan.shape), longest_in_cache(plan.params, plan.shape)
    note = "vLLM in process, tried on CPUs alone. "
    if generation.sleep:
        note += (
            "That it takes no memory in the other phases, but for CUDA graphs, is an assumption: sleep has\nnot been "
            "tested. Its weights are handed over anew when it wakes."
        )
    held, batch = cache // full_length(plan.params, plan.shape, generation.itemsize), plan.params.rollout.batch
    note += (
        f"\nIts KV cache holds {held} rollouts at their full length, with their parts of prompts that siblings share; "
        f"{batch} are in flight\n(rollout.batch): "
        + ("none is ever preempted." if held >= batch else "long ones may be preempted, and are read again.")
    )
    if cache < needed:
        note += (
            f"\nThe KV cache does not hold the longest sequence, which takes {gib(needed)} GiB: vLLM will refuse it."
        )
    return note


def _verdict(plan: MemoryPlan, usable: float) -> str:
    return "yes" if plan.peak <= usable else f"no, {gib(plan.peak - usable)} over"


def _advice(plan: Plan, machine: Machine) -> str:
    lines = []
    device = machine.card.memory
    for layout in layouts(plan.params, machine.gpus):
        fitting = memory_of(plan.shape, plan.params, layout, device)
        if fitting.peak <= machine.usable:
            continue
        changes = changes_to_fit(plan.shape, plan.params, layout, machine.usable, device)
        if changes is None:
            stays = sum(fitting.stays.values())
            lines.append(
                f"- {marked(layout)}: no value of params.yaml makes it fit; {gib(stays)} GiB are there in every phase"
            )
        else:
            peak = memory_of(plan.shape, with_changes(plan.params, changes), layout, device).peak
            lines.append(f"- {marked(layout)}: fits with {'; '.join(map(str, changes))} (peak {gib(peak)} GiB)")
    if not lines:
        return "All of these fit as they are."
    needed = gpus_to_fit(plan.shape, plan.params, machine.usable, device)
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
        return [name, f"{completions:,}", how, span(tokens.scaled(completions / 1e6))]

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
    return text_table(
        "Completions of one run", ["", "completions", "", "million response tokens"], rows,
        f"A step: {rows_per_step:,} responses, {span(per_step.scaled(1e-3), 0)} thousand tokens to learn from.",
    )  # fmt: skip


def _work_of(plan: Plan, name: str, checkpointing: bool = False) -> tuple[Any, Any]:
    """Returns a method's work at short and at long responses."""
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
            span(Range(getattr(low, part) / 1e18, getattr(high, part) / 1e18))
            for part in ("student", "reference", "teacher", "head", "total")
        ]
        rows.append([plan.params.methods[name].title, *parts])
    return text_table(
        "Training passes of one run, 10¹⁸ operations (short to long responses)",
        ["", "student, both ways", "reference", "teacher", "head", "together"], rows,
        f"Gate open for {plan.assumed.gate_rate:.0%} of the rollouts, advantage not zero for "
        f"{plan.assumed.mixed_rate:.0%} (assumptions). Activation checkpointing would add the student's forward pass.",
    )  # fmt: skip


def _disk(plan: Plan, counts: Counts) -> str:
    runs = len(plan.params.run.methods) * len(plan.params.run.seeds)
    disk = plan_disk(plan.shape, plan.params, counts, runs, plan.assumed)
    rows = [
        ["base (at the most: float32)", f"{disk.base / 1e9:,.1f}"],
        [f"checkpoints of {runs} runs in .state, and one being written", f"{disk.checkpoints / 1e9:,.1f}"],
        ["final policies", f"{disk.policies / 1e9:,.1f}"],
        ["rollout records", span(disk.rollouts.scaled(1e-9))],
        ["evaluation records", span(disk.evaluations.scaled(1e-9))],
        ["= together", span(disk.total.scaled(1e-9))],
    ]
    return text_table(
        "Disk, GB", ["", ""], rows,
        "DVC's cache takes as much again for outputs where the file system cannot share blocks between files.",
    )  # fmt: skip


def _assumptions(plan: Plan) -> str:
    one, params = plan.assumed, plan.params
    card = plan.machines[0].card
    per_token = kv_per_token(plan.shape, HALF)
    return "\n".join([
        "Assumptions, none of them measured on a GPU:",
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
        f"- a token takes {per_token / 2**10:,.0f} KiB in keys and values (bfloat16); a seed for each response "
        "costs vLLM nothing on a GPU (docs/vllm.md)",
        f"- vLLM: prompts of {BATCHED_TOKENS:,} tokens are read at once, {LOGITS} float32 tensors of logits, CUDA "
        f"graphs of {GRAPHS / GIB:g} GiB, which stay",
        f"- the trainer adds {one.around_seconds.low:g}–{one.around_seconds.high:g} s per million response tokens "
        "around generation and update (docs/speed.md:\n"
        "  step_overhead and score_rate on two CPU cores; records may be written beside the next step);\n"
        f"  vLLM's sleep, wake-up and canary take {one.wake_seconds.low:g}–{one.wake_seconds.high:g} s a step; weights "
        f"for a server pass files at {one.file_bandwidth.high / 1e9:g}–{one.file_bandwidth.low / 1e9:g} GB/s",
        f"- of N GPUs none waits for another {one.balance.high:.0%} to {one.balance.low:.0%} of the time; traffic "
        f"reaches {one.link_share.high:.0%} to {one.link_share.low:.0%} of\n  {card.link / 1e9:,.0f} GB/s within a "
        f"machine of {MACHINE_GPUS}, {card.network / 1e9:,.0f} GB/s between machines (--link-bandwidth)",
        f"- a token takes {one.record_bytes.low:g}–{one.record_bytes.high:g} bytes in a rollout record, "
        f"{one.answer_bytes.low:g}–{one.answer_bytes.high:g} in an evaluation's",
        "- DDP's buckets are a copy of the gradients; FSDP2 gathers a layer and the next one, and keeps embedding and\n"
        "  head whole",
        "The formulas of one process were checked against tensors counted on a CPU\n"
        "(tests/planning/test_plan_memory.py), and against one H200's peaks, within 1%, or 6% with siblings on shared\n"
        "lines (docs/scaling.md); those of DDP, of FSDP2 on several GPUs and of vLLM were not.",
    ])  # fmt: skip
