"""Estimates the hours of a run from operations, bytes and named assumptions; no GPU's hours were measured.

Random numbers take no time here: a response's own seed costs vLLM nothing on a GPU, see docs/vllm.md.
"""

from dataclasses import dataclass, replace
import math

from sdpg.params import MethodParams, Params
from sdpg.params.tree import PORTIONS
from sdpg.params.vllm import VllmInProcess, VllmServer
from sdpg.planning.generation import VllmMemory, largest_generation
from sdpg.planning.machines import Machine
from sdpg.planning.memory import FLOAT, HALF, Layout, kv_per_token
from sdpg.planning.plan import memory_of
from sdpg.planning.shapes import Shape
from sdpg.planning.traffic import Traffic, run_traffic
from sdpg.planning.work import Assumptions, Card, Counts, Range, decode_flops, forward_flops, method_work

FLOAT_SHARE = 1 / 15
"""Assumption: speed of float32 products, which do not run on tensor cores, as a share of the bfloat16 peak."""


def compute_hours(flops: Range, card: Card, gpus: int, half: bool, assumed: Assumptions) -> Range:
    """Returns the hours of training passes without traffic.

    Float32 passes are taken to be at best half as fast as bfloat16 passes.
    """
    peak = card.peak_flops * gpus * (1.0 if half else 0.5)
    balance = assumed.balance if gpus > 1 else Range(1.0, 1.0)
    mfu = assumed.training_mfu
    return Range(flops.low / (peak * mfu.low * balance.low), flops.high / (peak * mfu.high * balance.high)).scaled(
        1 / 3600
    )


@dataclass(frozen=True)
class TrainingHours:
    """Hours of the training passes of one run.

    Attributes:
        compute: hours of the operations.
        traffic: hours in which one GPU receives bytes from the others.
        rounds: rounds of micro-batches per update, with short and with long responses.
        received: bytes that one GPU receives per step, with short and with long responses.
    """

    compute: Range
    traffic: Range
    rounds: Range
    received: Range

    @property
    def together(self) -> Range:
        """Returns the hours from full overlap of traffic and operations to no overlap."""
        return Range(max(self.compute.low, self.traffic.low), self.compute.high + self.traffic.high)


def training_hours(
    shape: Shape, params: Params, method: MethodParams, layout: Layout, machine: Machine, assumed: Assumptions
) -> TrainingHours:
    """Returns the hours of one method's training passes on the GPUs of a layout."""
    train, share = params.train, assumed.response_share
    lengths = [share.low * params.rollout.max_tokens, share.high * params.rollout.max_tokens]
    low, high = (method_work(shape, params, method, assumed, length, layout.checkpointing).total for length in lengths)
    short, long = (run_traffic(shape, params, method, layout, assumed, length) for length in lengths)
    link, reached = machine.link(layout.gpus), assumed.link_share
    updates = train.steps * train.updates_per_batch

    def both(pick: str, divisor: float) -> Range:
        def rate(traffic: Traffic) -> float:
            return getattr(traffic, pick) / divisor

        return Range(rate(short), rate(long))

    return TrainingHours(
        compute_hours(Range(low, high), machine.card, layout.gpus, train.dtype == "bfloat16", assumed),
        Range(short.received / (link * reached.low), long.received / (link * reached.high)).scaled(1 / 3600),
        both("rounds", updates),
        both("received", train.steps),
    )


@dataclass(frozen=True)
class Sampler:
    """The engine that generates responses.

    Attributes:
        vllm: whether it is vLLM, which refills places that fall free; otherwise it is transformers' generate.
        itemsize: bytes of one number, in the weights and in keys and values.
        batch: the largest number of sequences in flight on one GPU.
        room: tokens that its KV cache holds; sequences that do not fit wait.
        engines: how many GPUs generate side by side.
    """

    vllm: bool
    itemsize: int
    batch: int
    room: float = math.inf
    engines: int = 1

    def in_flight(self, tokens: float) -> int:
        """Returns how many sequences of so many tokens are in flight at once."""
        return max(1, int(min(self.batch, self.room / tokens)))


def samplers(shape: Shape, params: Params, layout: Layout, machine: Machine) -> tuple[Sampler, Sampler]:
    """Returns the samplers of a run: the one in training, and the one of the evaluation of a finished policy.

    They differ in their batches. A server is taken to have one GPU like the others, with all of its memory.
    """
    rollout, settings = params.rollout, params.rollout.vllm
    if settings is None:
        alone = Sampler(False, FLOAT, params.evaluation.batch, engines=layout.gpus)
        return replace(alone, batch=rollout.batch), alone
    generation = largest_generation(params, machine.card.memory)
    engines, itemsize = layout.gpus, HALF
    if isinstance(generation, VllmMemory):
        itemsize, cache = generation.itemsize, float(generation.cache(shape))
    else:
        engines, cache = 1, machine.usable - HALF * shape.parameters
    room = cache / kv_per_token(shape, itemsize)
    alone = Sampler(True, itemsize, params.evaluation.batch, room, engines)
    return replace(alone, batch=rollout.batch), alone


def vllm_instead(shape: Shape, params: Params, layout: Layout, machine: Machine) -> Sampler:
    """Returns vLLM in process where params.yaml names transformers, with as many sequences as fit, up to 256."""
    stays = 0
    if layout.gpus > 1:
        device = machine.card.memory
        replaced = largest_generation(params, device).stays(shape, layout)
        stays = sum(memory_of(shape, params, layout, device).stays.values()) - sum(replaced.values())
    room = machine.usable - stays - HALF * shape.parameters
    return Sampler(True, HALF, 256, room / kv_per_token(shape, HALF), layout.gpus)


def decode_seconds(
    shape: Shape, batch: float, prompt: float, response: float, card: Card, assumed: Assumptions, sampler: Sampler
) -> Range:
    """Returns the seconds of one token for every sequence of a batch.

    Weights, and keys and values, are read once per token.
    """
    itemsize = sampler.itemsize
    weights = itemsize * (shape.layers * shape.layer_products + shape.embedding)
    cache = batch * (prompt + response / 2) * kv_per_token(shape, itemsize)
    flops = batch * decode_flops(shape, prompt, response) / response
    compute = flops / (card.peak_flops * (0.5 if itemsize == HALF else FLOAT_SHARE))
    floor = Range(0.0, 0.0) if sampler.vllm else assumed.launch_seconds.scaled(shape.layers)
    share = assumed.bandwidth_share
    return Range(
        max((weights + cache) / (card.bandwidth * share.low), compute, floor.low),
        max((weights + cache) / (card.bandwidth * share.high), 2 * compute, floor.high),
    )  # fmt: skip


def read_seconds(shape: Shape, prompts: float, card: Card, assumed: Assumptions, sampler: Sampler) -> Range:
    """Returns the seconds in which an engine reads so many prompts of mean length."""
    flops = prompts * forward_flops(shape, assumed.student_prompt, assumed.student_prompt)
    peak, reached = card.peak_flops * (1 if sampler.itemsize == HALF else FLOAT_SHARE), assumed.training_mfu
    return Range(flops / (peak * reached.low), flops / (peak * reached.high))


def generation_hours(
    shape: Shape, completions: float, calls: int, limit: int, card: Card, assumed: Assumptions, sampler: Sampler,
    siblings: float = 1,
) -> Range:  # fmt: skip
    """Returns the hours to sample so many responses in so many calls, each of which ends with its longest response.

    The ``siblings`` of a prompt are on one engine, where it is read once and, with vLLM, takes room once.

    transformers' generate fills a batch and waits for its longest response, so that each batch takes ``limit`` tokens.
    vLLM refills places that fall free; at the end of a call they stay empty, and the last responses, up to the limit,
    are made alone.
    """
    rows = completions / calls / sampler.engines
    ends = []
    for pick in ("low", "high"):
        mean = getattr(assumed.response_share, pick) * limit
        shared = assumed.student_prompt / (siblings if sampler.vllm else 1)
        batch = min(sampler.in_flight(shared + mean), rows)
        arguments = (assumed.student_prompt, mean, card, assumed, sampler)
        token = getattr(decode_seconds(shape, batch, *arguments), pick)
        if sampler.vllm:
            alone = getattr(decode_seconds(shape, 1, *arguments), pick)
            seconds = rows / batch * mean * token + (limit - mean) * alone
        else:
            seconds = math.ceil(rows / batch) * limit * token
        seconds += getattr(read_seconds(shape, rows / siblings, card, assumed, sampler), pick)
        balance = getattr(assumed.balance, pick) if sampler.engines > 1 else 1.0
        ends.append(calls * seconds / balance / 3600)
    return Range(*ends)


@dataclass(frozen=True)
class Sampling:
    """Hours of a run's responses, and of the base model's, which are sampled once for the whole table."""

    rollouts: Range
    in_training: Range
    final: Range
    base: Range

    @property
    def evaluation(self) -> Range:
        """Returns the hours of the run's evaluations, in training and at its end."""
        return self.in_training + self.final


def sampling_hours(
    shape: Shape, params: Params, counts: Counts, card: Card, assumed: Assumptions, training: Sampler, alone: Sampler
) -> Sampling:
    """Returns the hours of all responses: ``training`` makes those in training, ``alone`` the final ones."""

    def hours(completions: int, calls: int, limit: int, sampler: Sampler, siblings: float) -> Range:
        return generation_hours(shape, completions, calls, limit, card, assumed, sampler, siblings)

    train, evaluation = params.train, params.evaluation
    limit, samples = evaluation.max_tokens, evaluation.final_samples
    # Each engine makes its portions one after another.
    calls = math.ceil(PORTIONS / alone.engines)
    return Sampling(
        hours(counts.rollouts, train.steps, params.rollout.max_tokens, training, train.responses_per_prompt),
        hours(counts.in_training + counts.validation, counts.evaluations, limit, training, evaluation.samples),
        # Sampled, and greedily.
        hours(counts.final, 2 * calls, limit, alone, (samples + 1) / 2),
        # And as teacher.
        hours(counts.base, 3 * calls, limit, alone, (2 * samples + 1) / 3),
    )


@dataclass(frozen=True)
class Around:
    """Hours of a run between generation and training passes.

    Attributes:
        records: exchange, verification, texts, metrics and records.
        handover: the weights' way to the engine, with its sleep and the canary.
    """

    records: Range
    handover: Range

    @property
    def together(self) -> Range:
        """Returns the hours of both."""
        return self.records + self.handover


def around_hours(shape: Shape, params: Params, layout: Layout, card: Card, assumed: Assumptions) -> Around:
    """Returns the hours around generation and update; gathering shards is counted with the training passes' traffic.

    One process gathers and writes for all, so that more GPUs do not make it faster.
    """
    train, settings, around = params.train, params.rollout.vllm, assumed.around_seconds
    tokens = assumed.response_share.scaled(
        train.steps * train.prompts_per_step * train.responses_per_prompt * params.rollout.max_tokens / 1e6
    )
    # Float32 weights are read, and written in the engine's type.
    itemsize = HALF if isinstance(settings, VllmInProcess) and settings.dtype == "bfloat16" else FLOAT
    moved = (FLOAT + itemsize) * shape.parameters
    seconds = Range(moved / (card.bandwidth * assumed.bandwidth_share.low),
                    moved / (card.bandwidth * assumed.bandwidth_share.high))  # fmt: skip
    if settings is None:
        seconds = seconds if layout.sharding == "fsdp2" else Range(0.0, 0.0)
    elif isinstance(settings, VllmServer):
        # The folder's files are written and read, in the type of the trainer's passes.
        size = 2 * (HALF if train.dtype == "bfloat16" else FLOAT) * shape.parameters
        seconds = Range(size / assumed.file_bandwidth.low, size / assumed.file_bandwidth.high)
    elif settings.sleep:
        seconds += assumed.wake_seconds
    return Around(
        Range(tokens.low * around.low, tokens.high * around.high).scaled(1 / 3600),
        seconds.scaled(train.steps / 3600),
    )
