"""Counts tokens, operations and disk of a run, from its parameters and named assumptions.

The axes are those of :mod:`sdpg.planning.shapes`; a multiply and an add are two operations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from sdpg.models.fused_head import chunk_tokens
from sdpg.objective import coefficients as rules
from sdpg.objective.gates import EXAMPLES
from sdpg.objective.methods import reads_whole_responses
from sdpg.params import FileSource, HubSource, MethodParams, Params
from sdpg.planning.adapter import Adapter, planned_adapter
from sdpg.planning.memory import FLOAT, trained_parameters
from sdpg.planning.shapes import Shape


@dataclass(frozen=True)
class Range:
    """A range between two values, the better one first."""

    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)

    def scaled(self, factor: float) -> "Range":
        """Returns both values times a factor."""
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Assumptions:
    """Values that are not known before a run; none is measured on a GPU, and each is an option of the command or stated
    by it.

    Attributes:
        gate_rate: share of rollouts with a positive advantage.
        mixed_rate: share of rollouts with an advantage that is not zero.
        response_share: mean length of a response, as a share of its limit.
        student_prompt: mean tokens of a student's prompt.
        teacher_prompt: mean tokens of a teacher's prompt.
        training_mfu: share of the card's bfloat16 peak that training passes reach, from good to poor.
        bandwidth_share: share of the card's memory bandwidth that generation reaches.
        launch_seconds: seconds of Python and kernel launches per layer and generated token in transformers' generate,
            whatever the batch.
        balance: share of the time in which none of N GPUs waits for another one's work, traffic not counted.
        link_share: share of a link's bandwidth that gathering and reducing reach.
        around_seconds: seconds per million response tokens that the trainer adds around generation and update: signals
            and completions exchanged, texts decoded, answers verified, records built and written, metrics.
            docs/speed.md has what two CPU cores took: ``python -m benchmarks step_overhead`` 0.48 s while the step
            waits and 0.39 s for records, beside the next step or not; ``score_rate`` 333 answers of 3,000 tokens in
            0.12 to 0.24 s.
        wake_seconds: seconds a step in which vLLM is sent to sleep, woken, and checked by the canary.
        file_bandwidth: bytes a second of the folder through which a server gets its weights.
        record_bytes: compressed bytes of a token in a rollout record: up to five float32 numbers, id, text and places.
        answer_bytes: compressed bytes of a token's text in an evaluation record.
    """

    gate_rate: float = 0.35
    mixed_rate: float = 0.7
    response_share: Range = Range(0.4, 0.9)
    student_prompt: int = 200
    teacher_prompt: int = 900
    training_mfu: Range = Range(0.45, 0.25)
    bandwidth_share: Range = Range(0.7, 0.35)
    launch_seconds: Range = Range(0.4e-3, 1.0e-3)
    balance: Range = Range(0.95, 0.8)
    link_share: Range = Range(0.8, 0.4)
    around_seconds: Range = Range(0.6, 1.1)
    wake_seconds: Range = Range(0.5, 3.0)
    file_bandwidth: Range = Range(2e9, 0.5e9)
    record_bytes: Range = Range(16, 32)
    answer_bytes: Range = Range(1, 2)


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: the name in reports.
        peak_flops: operations a second (dense, without sparsity) in bfloat16.
        bandwidth: bytes a second of its memory.
        memory: bytes of its memory.
        link: bytes a second that it receives from others of the same machine.
        network: bytes a second that it receives from other machines.
    """

    name: str
    peak_flops: float
    bandwidth: float
    memory: float
    link: float
    network: float = 50e9


CARDS = {
    "h100": Card("H100 SXM 80 GB", 989e12, 3.35e12, 80 * 2**30, 450e9),
    "h200": Card("H200 141 GB", 989e12, 4.8e12, 141e9, 450e9),
    "a100": Card("A100 SXM 80 GB", 312e12, 2.04e12, 80 * 2**30, 300e9),
    "rtx4090": Card("RTX 4090 24 GB", 165e12, 1.008e12, 24 * 2**30, 25e9, 1.25e9),
    "rtx3090": Card("RTX 3090 24 GB", 71e12, 0.936e12, 24 * 2**30, 25e9, 1.25e9),
}
"""GPUs as their maker states them: NVLink in one direction, PCIe for RTX; network: InfiniBand of 400 Gbit/s for each
GPU, and Ethernet of 10 Gbit/s for RTX."""


@dataclass(frozen=True)
class Counts:
    """Numbers of completions of one training run, and of the base once for the whole table."""

    rollouts: int
    evaluations: int
    evaluated_problems: int
    in_training: int
    validation: int
    final: int
    base: int


def count_completions(params: Params) -> Counts:
    """Returns how many responses are sampled, as the stages sample them."""
    train, evaluation = params.train, params.evaluation
    evaluations = sum(step % train.eval_every == 0 or step == train.steps for step in range(1, train.steps + 1))
    sizes = {name: benchmark_size(row.problems, row.source) for name, row in params.data.benchmarks.items()}
    problems, validation = sum(sizes.values()), params.data.validation_size
    hinted = validation + sum(
        sizes[name] for name, row in params.data.benchmarks.items()
        if not isinstance(row.source, HubSource | FileSource) or row.source.columns.solution is not None
    )  # fmt: skip
    everything = problems + validation
    final = everything * (evaluation.final_samples + 1)
    return Counts(
        rollouts=train.steps * train.prompts_per_step * train.responses_per_prompt,
        evaluations=evaluations,
        evaluated_problems=problems,
        in_training=evaluations * problems * evaluation.samples,
        validation=evaluations * validation * evaluation.samples,
        final=final,
        base=final + hinted * evaluation.final_samples,
    )


def benchmark_size(problems: int | None, source: object) -> int:
    """Returns the number of problems of a benchmark: as stated, as drawn, as limited, or else 100."""
    if problems is not None:
        return problems
    return getattr(source, "count", None) or getattr(source, "limit", None) or 100


def forward_flops(shape: Shape, tokens: float, length: float) -> float:
    """Returns the operations of ``tokens`` tokens in sequences of ``length`` through all layers.

    Causal attention computes half of all pairs.
    """
    products = 2 * shape.layer_products
    attention = 4 * shape.query * length / 2
    return tokens * shape.layers * (products + attention)


def update_flops(shape: Shape, tokens: float, length: float, adapter: Adapter | None, checkpointing: bool) -> float:
    """Returns the operations of the student's forward and backward pass without the head.

    They are three or four times those of the forward pass. With an adapter the products with frozen weights have no
    gradient of the weight to form.
    """
    forward = forward_flops(shape, tokens, length) + adapter_flops(shape, tokens, adapter)
    frozen = 0 if adapter is None else 2 * tokens * shape.layers * shape.layer_products
    return (4 if checkpointing else 3) * forward - frozen


def adapter_flops(shape: Shape, tokens: float, adapter: Adapter | None) -> float:
    """Returns the operations that an adapter adds to a forward pass."""
    return 0.0 if adapter is None else 2 * tokens * adapter.parameters(shape)


def head_flops(shape: Shape, tokens: float) -> float:
    """Returns the operations of one product of the head."""
    return 2 * tokens * shape.embedding


def decode_flops(shape: Shape, prompt: float, response: float) -> float:
    """Returns the operations of generating one response after a prompt that has been read."""
    seen = prompt + response / 2
    return response * (shape.layers * (2 * shape.layer_products + 4 * shape.query * seen) + 2 * shape.embedding)


@dataclass(frozen=True)
class RowsRead:
    """Shares of a step's rows by who reads them, and passes over all rows before the first update.

    The teacher's may pass 1: some rows it reads before the first update and in it. ``contrast`` is its share under
    wrong hints, of which a rollout may have several. Every rollout is taken to have the hints that its method names.
    """

    student: float
    reference: float
    teacher: float
    before: int
    contrast: float


def rows_read(params: Params, method: MethodParams, step: int, assumed: Assumptions) -> RowsRead:
    """Returns the shares of rows that a step's passes read, by the rules of :mod:`sdpg.objective.coefficients`."""
    train = params.train_of(method)
    at, gate = rules.coefficients(method, step, train.steps), rules.gate_of(method).row
    positive, mixed = assumed.gate_rate, max(assumed.gate_rate, assumed.mixed_rate)
    # Rules ask no more than these examples say; uniform groups are taken to be right and wrong equally often.
    shares = (positive, mixed - positive, (1.0 - mixed) / 2, (1.0 - mixed) / 2)

    def share(reads: Callable[[float, float], bool]) -> float:
        # Rounded, as a pass more must not hang on a last bit.
        parts = zip(EXAMPLES, shares, strict=True)
        return round(sum(part for row, part in parts if reads(row.advantage, gate(row))), 12)

    student = share(partial(rules.is_trained, method, at))
    teacher = share(partial(rules.reads_teacher, method, at))
    if rules.scores_teacher_first(train, at):
        teacher += share(partial(rules.reads_teacher, method, replace(at, rlsd_lambda=0.0)))
    if rules.reads_certainty(method, at):
        teacher += share(lambda advantage, gate: gate > 0)
    if method.switch is not None:
        teacher += 1.0
    # The penalty reads student and reference.
    before = int(rules.scores_old_policy(train)) + 2 * int(rules.penalizes_reward(method))
    reference = student if rules.reads_reference(method, at) else 0.0
    contrast = method.contrast_count * share(partial(rules.reads_contrast, method, at))
    return RowsRead(student, reference, teacher, before, contrast)


def teacher_prompt(params: Params, hint: str, assumed: Assumptions, response: float) -> float:
    """Returns the mean tokens of a teacher's prompt that shows a hint: a sibling's response is as long as any other.

    Siblings that would make it longer than its limit are passed over.
    """
    if hint not in ("sibling", "wrong_sibling"):
        return assumed.teacher_prompt
    return min(assumed.student_prompt + response, params.prompts.max_teacher_tokens)


@dataclass(frozen=True)
class MethodWork:
    """Operations of one method over a whole run, by the model that computes them."""

    student: float
    reference: float
    teacher: float
    head: float

    @property
    def total(self) -> float:
        """Returns the operations of all models together."""
        return self.student + self.reference + self.teacher + self.head


def method_work(
    shape: Shape,
    params: Params,
    method: MethodParams,
    assumed: Assumptions,
    response: float,
    checkpointing: bool = False,
) -> MethodWork:
    """Returns the work of the training passes of all steps, with the schedules that decide which passes are made.

    Args:
        shape: the sizes of the model.
        params: the run's parameters; batch and steps are read.
        method: the method, whose terms are read.
        assumed: the assumptions; gate rate, mixed rate and prompt lengths are read.
        response: mean tokens of a response.
        checkpointing: whether the backward pass computes the forward pass again.
    """
    train = params.train_of(method)
    rows = train.prompts_per_step * train.responses_per_prompt
    student_length = assumed.student_prompt + response
    teacher_length, contrast_length = (
        teacher_prompt(params, hint, assumed, response) + response for hint in (method.hint, method.contrast_hint)
    )
    student = forward_flops(shape, student_length, student_length)
    adapter = planned_adapter(train.lora)
    update = update_flops(shape, student_length, student_length, adapter, checkpointing)
    taught_adapter = adapter if method.teacher != "reference" else None
    taught_forward, contrast_forward = (
        forward_flops(shape, length, length) + adapter_flops(shape, length, taught_adapter)
        for length in (teacher_length, contrast_length)
    )
    one_head = head_flops(shape, response)
    again = reads_logits_again(shape, params, method, student_length, response)
    found = dict.fromkeys(("student", "reference", "teacher", "head"), 0.0)
    for step in range(1, train.steps + 1):
        read = rows_read(params, method, step, assumed)
        found["student"] += rows * read.student * update
        found["reference"] += rows * read.reference * student
        found["teacher"] += rows * (read.teacher * taught_forward + read.contrast * contrast_forward)
        forward = read.reference + read.teacher + read.contrast
        found["head"] += rows * one_head * ((3 if adapter is None else 2) * read.student + forward)
        if again:
            found["head"] += rows * one_head * (read.student + min(read.student, read.teacher))
        found["reference"] += read.before * rows * (student + one_head)
    return MethodWork(**found)


def reads_logits_again(shape: Shape, params: Params, method: MethodParams, length: float, response: float) -> bool:
    """Returns whether the head makes all logits twice, as :mod:`sdpg.models.fused_head` does for losses that need whole
    responses, where a micro-batch takes several chunks.

    Lines have ``length`` tokens, ``response`` of them in the response.
    """
    train = params.train
    tokens = max(1, train.tokens_per_micro_batch // length) * response
    return reads_whole_responses(method) and tokens > chunk_tokens(shape.vocabulary, FLOAT, train.head_megabytes << 20)


@dataclass(frozen=True)
class Disk:
    """Bytes on disk of a whole table."""

    base: float
    checkpoints: float
    policies: float
    rollouts: Range
    evaluations: Range

    @property
    def total(self) -> Range:
        """Returns the largest total; a DVC cache that cannot share files with the work tree takes as much again."""
        return (self.rollouts + self.evaluations) + Range(1, 1).scaled(self.base + self.checkpoints + self.policies)


def plan_disk(shape: Shape, params: Params, counts: Counts, runs: int, assumed: Assumptions) -> Disk:
    """Returns what the stages leave on disk.

    A checkpoint holds what is trained, its moments, and a teacher's own weights, in float32; the one before it stands
    until the next is written, and the last one of every run stays in .state until the tables are made.
    """
    lora = planned_adapter(params.train.lora)
    trained = trained_parameters(shape, lora)
    kept = [rules.keeps_teacher_weights(params.methods[name]) for name in params.run.methods]
    # All seeds of a method have checkpoints of one size, and the one that is being written may be of the largest.
    checkpoints = (3 * (runs + 1) + runs * sum(kept) / len(kept) + any(kept)) * FLOAT * trained
    tokens = assumed.response_share.scaled(params.rollout.max_tokens)
    answers = assumed.response_share.scaled(params.evaluation.max_tokens)
    completions = runs * (counts.in_training + counts.validation + counts.final) + counts.base
    records, text = assumed.record_bytes, assumed.answer_bytes
    return Disk(
        base=FLOAT * shape.parameters,
        checkpoints=checkpoints,
        policies=runs * FLOAT * (shape.parameters + (trained if lora else 0)),
        rollouts=Range(tokens.low * records.low, tokens.high * records.high).scaled(runs * counts.rollouts),
        evaluations=Range(answers.low * text.low, answers.high * text.high).scaled(completions),
    )
