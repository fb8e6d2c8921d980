"""Estimates the bytes that the processes of one run send each other in its training passes.

The count follows :mod:`sdpg.models.distribution`. Every pass gathers every weight once, in the dtype of the passes.
The backward pass gathers them a second time, as they are dropped after the forward pass (``reshard_after_forward``),
and needs no third time where it computes layers again; it spreads the gradients in float32. All of this is paid in
each round of micro-batches, whatever their tokens. Replicas sum their gradients once per update.
tests/training/test_distributed_trainer.py counts the same traffic in a real run.

The estimate leaves out what rollouts and signals take (text beside tensors), the norm of the gradients, recorded
diagnostics and checkpoints.
"""

from dataclasses import dataclass
import math

from sdpg.params import MethodParams, Params
from sdpg.planning.adapter import planned_adapter
from sdpg.planning.memory import FLOAT, HALF, Layout, trained_parameters
from sdpg.planning.shapes import Shape
from sdpg.planning.work import Assumptions, rows_read, teacher_prompt


@dataclass(frozen=True)
class Traffic:
    """Traffic of one GPU in a whole run.

    Attributes:
        rounds: rounds of micro-batches in all updates together.
        gathers: how often all weights are gathered, in the dtype of the passes.
        received: bytes that one GPU receives.
    """

    rounds: int
    gathers: int
    received: float


def micro_batch_rounds(rows: float, length: float, budget: int, gpus: int) -> int:
    """Returns the rounds in which the GPUs read ``rows`` lines of one length; a line that is too long goes alone."""
    return math.ceil(rows / gpus / max(1, budget // length))


def run_traffic(
    shape: Shape, params: Params, method: MethodParams, layout: Layout, assumed: Assumptions, response: float
) -> Traffic:
    """Returns what one GPU of a layout receives in a run.

    The rank with the most teacher passes decides a round's number of them; one with all gates open is assumed.

    Args:
        shape: sizes of the model.
        params: the run's parameters; batch, token budget and steps are read.
        method: the method, whose terms decide which passes are made.
        layout: the GPUs, as replicas or shards.
        assumed: the assumptions; gate rate, mixed rate and prompt lengths are read.
        response: mean tokens of a response.
    """
    train = params.train_of(method)
    student = assumed.student_prompt + response
    teacher, contrast = (
        teacher_prompt(params, hint, assumed, response) + response for hint in (method.hint, method.contrast_hint)
    )
    rows, updates = train.prompts_per_step * train.responses_per_prompt, train.updates_per_batch
    lines = max(1, min(train.tokens_per_micro_batch // student, math.ceil(rows / updates / layout.gpus)))
    taught_passes = micro_batch_rounds(lines, teacher, train.tokens_per_micro_batch, 1)
    rounds = gathers = 0
    for step in range(1, train.steps + 1):
        read = rows_read(params, method, step, assumed)
        trained = updates * micro_batch_rounds(
            rows / updates * read.student, student, train.tokens_per_micro_batch, layout.gpus
        )
        rounds += trained
        gathers += trained * (2 + (read.reference > 0) + taught_passes * (read.teacher > 0))
        gathers += read.before * micro_batch_rounds(rows, student, train.tokens_per_micro_batch, layout.gpus)
        gathers += micro_batch_rounds(rows * read.contrast, contrast, train.tokens_per_micro_batch, layout.gpus)
    # The ring all-gather gives each GPU all parts but its own.
    others = (layout.gpus - 1) / layout.gpus
    whole = FLOAT * shape.parameters * others
    gradients = FLOAT * trained_parameters(shape, planned_adapter(train.lora)) * others
    if layout.sharding == "ddp":
        # Gradients are reduced and then spread again.
        return Traffic(rounds, 0, 2 * gradients * train.steps * updates)
    if layout.sharding == "none":
        return Traffic(rounds, 0, 0.0)
    itemsize = HALF if train.dtype == "bfloat16" else FLOAT
    # Float32 gradients are sent in every round, float32 weights for the engine once a step.
    received = gathers * itemsize * shape.parameters * others + rounds * gradients + train.steps * whole
    return Traffic(rounds, gathers, received)
