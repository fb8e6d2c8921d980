"""Writes the plan's hours as text."""

import math

from sdpg.params.vllm import VllmServer
from sdpg.planning.hours import Sampler, Sampling, around_hours, samplers, sampling_hours, training_hours, vllm_instead
from sdpg.planning.machines import Machine
from sdpg.planning.memory import Layout
from sdpg.planning.plan import Plan, memory_of, own_layout
from sdpg.planning.text import MISSING, marked, span, text_table
from sdpg.planning.work import Counts, Range


def _run_layout(plan: Plan, machine: Machine) -> Layout:
    """Returns the layout of params.yaml where there are enough GPUs for it, and otherwise one process."""
    own = own_layout(plan.params)
    return own if own.gpus <= machine.gpus else Layout(checkpointing=own.checkpointing)


def hours_of(plan: Plan, machine: Machine, counts: Counts) -> str:
    """Returns a table of hours on one machine: of each method's run, of the table, and of one run on all GPUs."""
    params, assumed, shape = plan.params, plan.assumed, plan.shape
    layout = _run_layout(plan, machine)
    training, alone = samplers(shape, params, layout, machine)
    instead = None if training.vllm else vllm_instead(shape, params, layout, machine)

    def sampled(sampler: Sampler, policy: Sampler) -> Sampling:
        return sampling_hours(shape, params, counts, machine.card, assumed, sampler, policy)

    samplings = [sampled(training, alone)]
    if instead is not None:
        samplings.append(sampled(instead, instead))
    seeds, rows = len(params.run.seeds), []
    tables = [sampling.base for sampling in samplings]
    runs = seeds * len(params.run.methods)
    side = min(machine.gpus // layout.gpus, runs)
    around = around_hours(shape, params, layout, machine.card, assumed)
    for name in params.run.methods:
        passes = training_hours(shape, params, params.methods[name], layout, machine, assumed).together
        totals = [sampling.rollouts + sampling.evaluation + passes + around.together for sampling in samplings]
        tables = [
            table + total.scaled(seeds * math.ceil(runs / side) / runs)
            for table, total in zip(tables, totals, strict=True)
        ]
        cells = (passes, samplings[0].rollouts, around.records, around.handover, samplings[0].in_training,
                 samplings[0].final, *totals)  # fmt: skip
        rows.append([params.methods[name].title, *map(span, cells)])
    beside = f", {side} runs side by side" if side > 1 else ""
    rows.append([f"= whole table, {seeds} seed{'s' if seeds > 1 else ''}, base included{beside}", *[""] * 6,
                 *map(span, tables)])  # fmt: skip
    engine = f"vLLM{MISSING}" if training.vllm else "transformers"
    notes = [_engine_note(plan, training, alone)]
    if instead is not None:
        notes.append(f"vLLM{MISSING} instead, in process: {_in_flight(plan, instead)} in flight on a GPU, bfloat16.")
    if memory_of(shape, params, layout, machine.card.memory).peak > machine.usable:
        notes.append("In memory this does not fit, see above.")
    notes.append("A finished policy is evaluated by all processes of a run, in portions. Checkpoints and recorded "
                 "diagnostics are left out.")  # fmt: skip
    text = text_table(
        f"Hours of one run as {marked(layout)} on {machine.label}, from good to poor utilisation and short to long "
        "responses (estimates)",
        ["", "training\npasses", f"rollouts,\n{engine}", "verifying,\nrecords", "weights to\nthe engine",
         "evaluation\nin training", "of the final\npolicy", "together",
         *([f"together with\nvLLM{MISSING} instead"] if instead is not None else [])],
        rows, "\n".join(notes),
    )  # fmt: skip
    return text if machine.gpus == 1 else f"{text}\n\n{_several(plan, machine)}"


def _in_flight(plan: Plan, sampler: Sampler) -> str:
    assumed, limit = plan.assumed, plan.params.rollout.max_tokens
    prompt = assumed.student_prompt / (plan.params.train.responses_per_prompt if sampler.vllm else 1)
    sequences = [
        sampler.in_flight(prompt + share * limit) for share in (assumed.response_share.low, assumed.response_share.high)
    ]
    return f"{span(Range(*sequences), 0)} sequences"


def _engine_note(plan: Plan, training: Sampler, alone: Sampler) -> str:
    if not training.vllm:
        return (
            f"transformers: {training.batch} sequences at once (rollout.batch), float32, each batch as long as its "
            "longest response."
        )
    served = isinstance(plan.params.rollout.vllm, VllmServer)
    where = "in a server with one such GPU of its own" if served else "in process"
    return (
        f"vLLM{MISSING} {where}: {_in_flight(plan, training)} in flight on a GPU, as the KV cache has room for them, "
        f"of {training.batch} (rollout.batch);\n{_in_flight(plan, alone)} of a finished policy's. Each call ends with "
        "its longest response, which goes on to the limit alone."
    )


def _several(plan: Plan, machine: Machine) -> str:
    """Returns a table of one run on all GPUs, by replicas and by shards."""
    params = plan.params
    method = params.methods[params.run.methods[-1]]
    rows = []
    for kind in ("ddp", "fsdp2"):
        layout = Layout(machine.gpus, kind, params.train.activation_checkpointing)
        hours = training_hours(plan.shape, params, method, layout, machine, plan.assumed)
        rows.append([
            marked(layout), span(hours.rounds, 0), span(hours.received.scaled(1e-9)), span(hours.compute),
            span(hours.traffic), span(hours.together),
        ])  # fmt: skip
    link, share = machine.link(machine.gpus), plan.assumed.link_share
    return text_table(
        f"Training passes of one run of {method.title} on all {machine.gpus} GPUs (estimates)",
        ["", "rounds of an\nupdate", "GB that a GPU\nreceives a step", "hours of\noperations", "hours of\ntraffic",
         "hours\ntogether"],
        rows,
        f"Traffic at {share.high:.0%} to {share.low:.0%} of {link / 1e9:,.0f} GB/s (--link-bandwidth): from all of it "
        "hidden behind operations, or the reverse, to none.\nFSDP2 gathers all weights for each pass of each round, "
        "twice for the student's, and spreads float32 gradients; DDP sums them once an\nupdate. Left out: latency, "
        "texts and signals, recorded diagnostics.",
    )  # fmt: skip
