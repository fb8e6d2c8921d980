"""Computes the bytes of a training process on one GPU, part by part.

The formulas follow the code: what autograd keeps of transformers' Qwen3 under :mod:`sdpg.training.update`, what
:mod:`sdpg.models.fused_head` allocates, what AdamW holds. tests/planning/test_plan_memory.py checks them against
tensors counted one by one at several sizes. What only a GPU or several processes would show is named an assumption
where it is used.

Axes: T padded tokens of a micro-batch, N response tokens of it, M of them scored by the teacher; the sizes are those
of :mod:`sdpg.planning.shapes`. "Half" is a forward pass under autocast to bfloat16; otherwise everything is float32.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from sdpg.planning.adapter import FLOAT, HALF, Adapter
from sdpg.planning.shapes import Shape

Sharding = Literal["none", "ddp", "fsdp2"]


@dataclass(frozen=True)
class Passes:
    """The largest micro-batch of an update.

    Attributes:
        tokens: T of the student's pass.
        teacher_tokens: T of one of the teacher's passes; 0 without a teacher.
        responses: N response tokens.
        scored: M response tokens that the teacher scores.
        half: whether the passes compute in bfloat16.
        head_bytes: bytes for the logits of a chunk.
        checkpointing: whether activations are computed again in the backward pass, layer by layer.
        reference: whether a frozen copy is read.
        on_gpu: whether the passes run on a GPU, where the head's products and blocks differ from those on a CPU.
        lora: the adapter that is trained alone; None where all weights are trained.
        teacher_weights: whether a teacher has weights of its own, beside student and frozen copy.
        teacher_head: whether a teacher's head is another one than the student's.
    """

    tokens: int
    teacher_tokens: int
    responses: int
    scored: int
    half: bool
    head_bytes: int
    checkpointing: bool = False
    reference: bool = True
    on_gpu: bool = False
    lora: Adapter | None = None
    teacher_weights: bool = False
    teacher_head: bool = False


def trained_parameters(shape: Shape, lora: Adapter | None) -> int:
    """Returns the number of parameters that have gradients and moments."""
    return shape.parameters if lora is None else lora.parameters(shape)


def weight_copies(shape: Shape) -> int:
    """Returns the bytes of bfloat16 copies of all products' weights.

    Autocast makes them and the backward pass reads them.
    """
    return HALF * shape.layers * shape.layer_products


def held_copies(shape: Shape, passes: Passes) -> int:
    """Returns the bytes of weight copies that stay until autocast ends.

    Copies of frozen weights stay only as long as the graph reads them.
    """
    if not passes.half:
        return 0
    if passes.lora is None:
        return weight_copies(shape)
    return HALF * passes.lora.parameters(shape) + (0 if passes.checkpointing else weight_copies(shape))


def kept_per_layer(shape: Shape, half: bool, lora: Adapter | None = None) -> int:
    """Returns the bytes per token that autograd keeps of one layer.

    In float32 these are the residual stream twice, each norm's factor and result (6 D); queries and keys as projected,
    normalised and rotated, values, attention's output (4 Q + 4 K); gate, its activation, up, and their product (4 I);
    and a few numbers per head. With ``half`` norms stay float32, and each linear layer keeps a bfloat16 copy of its
    input of its own.
    """
    heads = FLOAT * (2 * shape.heads + shape.kv_heads + 2)
    if lora is not None:
        return lora.kept_per_layer(shape, half) + heads
    shape_part = (
        26 * shape.hidden_size + 10 * (shape.query + shape.key) + 8 * shape.intermediate_size
        if half
        else 24 * shape.hidden_size + 16 * (shape.query + shape.key) + 16 * shape.intermediate_size
    )
    return shape_part + heads


def kept(shape: Shape, passes: Passes) -> int:
    """Returns the bytes that the student's forward pass keeps until its backward pass, without the head."""
    size = shape.hidden_size
    layer = FLOAT * size if passes.checkpointing else kept_per_layer(shape, passes.half, passes.lora)
    # The last norm keeps its input and its factor, and its result is what the head selects from.
    ends = passes.tokens * (3 * FLOAT * size + 16) + passes.responses * (FLOAT * size + 40)
    if passes.lora is not None:
        # A frozen last norm keeps no factor, and the first layer's input has no gradient.
        ends -= passes.tokens * FLOAT * size * (1 if passes.checkpointing else 2)
    # Until autocast ends, the copies are there even where the layers keep nothing.
    return passes.tokens * shape.layers * layer + ends + held_copies(shape, passes)


def head(shape: Shape, passes: Passes, gradients: bool = True) -> int:
    """Returns the peak bytes of the head's pass over N tokens.

    With ``gradients`` the gradients with respect to weight and hidden states are included.
    """
    row = FLOAT * shape.vocabulary
    # The sizes stand beside the code that allocates by them, which imports torch; `check` need not wait for it.
    from sdpg.models.fused_head import BLOCK_BYTES, chunk_tokens

    chunk = max(1, min(passes.responses, chunk_tokens(shape.vocabulary, FLOAT, passes.head_bytes)))
    scored = min(chunk, passes.scored) if gradients else 0
    # Assumption: on a GPU Triton does the row-wise work, without scratch rows (without Triton: 128 MiB more).
    block = 0 if passes.on_gpu else max(1, min(chunk, BLOCK_BYTES // row))
    product = HALF if passes.half and passes.on_gpu else FLOAT
    # What a chunk is worked on with, and gives back before the values of all tokens are put in order.
    work = (chunk + scored + 2 * block) * row + FLOAT * (2 if gradients else 1) * chunk * shape.hidden_size
    # A byte a word tells which of them have no probability.
    work += block * shape.vocabulary
    if gradients and product == HALF:
        work += HALF * chunk * shape.vocabulary
    # Seven numbers a token and its place; the update keeps eight of its terms and a flag.
    stays = passes.responses * (69 if gradients else 36)
    if product == HALF:
        stays += HALF * shape.embedding
    if gradients:
        weight = shape.embedding if passes.lora is None else 0
        stays += FLOAT * (weight + passes.responses * shape.hidden_size)
    return stays + max(work, 5 * FLOAT * passes.responses)


def forward_only(shape: Shape, tokens: int, half: bool, cached: bool, lora: Adapter | None = None) -> int:
    """Returns the peak bytes of a forward pass without gradient: the MLP's three widths beside four residual streams.

    ``cached`` means that autocast keeps copies of trainable weights also where nothing is differentiated; copies of a
    frozen model's weights come and go. ``lora`` is the adapter that is on: a module's result has the adapter's result
    beside it.
    """
    widths = 3 if lora is None or not lora.count("up_proj") else 4
    width = (HALF if half else FLOAT) * widths * shape.intermediate_size
    attention = FLOAT * (4 * shape.query + 3 * shape.key)
    # At that moment the last product's weight has not been copied yet.
    last = HALF * shape.hidden_size * shape.intermediate_size
    copies = weight_copies(shape) - last if cached and lora is None else last
    return tokens * (max(width, attention) + 4 * FLOAT * shape.hidden_size) + (copies if half else 0)


def backward(shape: Shape, passes: Passes) -> int:
    """Returns the peak bytes of the backward pass beyond what is kept: head gradients and one layer's temporaries.

    The last norm's tensors (12 D) are gone before the last layer's MLP holds two gradients of width I. With
    checkpointing that layer is first computed again, except for its input, which is kept.
    """
    size, itemsize = shape.hidden_size, HALF if passes.half else FLOAT
    frozen = passes.lora is not None
    # The product that a trained down projection keeps is gone when the third gradient comes.
    gradients = 2 if passes.lora is None or passes.lora.count("down_proj") else 3
    head_gradients = FLOAT * ((0 if frozen else shape.embedding) + passes.responses * size)
    mlp = gradients * itemsize * shape.intermediate_size - (2 if frozen else 3) * FLOAT * size
    if passes.checkpointing:
        layer = passes.tokens * (kept_per_layer(shape, passes.half, passes.lora) - FLOAT * size + mlp)
        layer += HALF * shape.layer_products if passes.half else 0
    else:
        layer = passes.tokens * max(6 * size, mlp)
    return head_gradients + layer + (0 if frozen else FLOAT * size * shape.intermediate_size)


def embedding_gradients(shape: Shape) -> int:
    """Returns the bytes of a tied embedding's gradients when the backward pass ends.

    It then has two gradients, as head and as embedding, and their sum.
    """
    return (3 if shape.tied else 2) * FLOAT * shape.embedding


def optimiser_step(shape: Shape, foreach: bool, lora: Adapter | None = None) -> int:
    """Returns the bytes of AdamW's temporaries: one per parameter where it works on all at once, as on GPUs.

    Where it works one by one, there are two for the current parameter and one for the parameter before it.
    """
    if foreach:
        return FLOAT * trained_parameters(shape, lora)
    if lora is not None:
        return 3 * FLOAT * lora.largest(shape)
    query, mlp = (shape.hidden_size * width for width in (shape.query, shape.intermediate_size))
    return FLOAT * max(2 * shape.embedding, shape.embedding + 2 * query, 3 * mlp)


def passes_peak(shape: Shape, passes: Passes) -> int:
    """Returns the peak bytes of an update's passes, beyond weights, gradients and optimiser."""
    teacher_states = passes.scored * FLOAT * shape.hidden_size
    taught = forward_only(shape, passes.teacher_tokens, passes.half, True, passes.lora) if passes.teacher_tokens else 0
    referred = 0
    if passes.reference:
        referred = max(
            forward_only(shape, passes.tokens, passes.half, False),
            2 * passes.tokens * FLOAT * shape.hidden_size + head(shape, passes, gradients=False),
        )
    saved = kept(shape, passes)
    # The copies end with autocast; without checkpointing the backward pass needs them.
    in_backward = saved - (held_copies(shape, passes) if passes.checkpointing else 0)
    at_end = embedding_gradients(shape) if passes.lora is None else 0
    return max(
        taught,
        teacher_states + max(referred, saved + head(shape, passes), in_backward + backward(shape, passes), at_end),
    )


class Generator(Protocol):
    """What generating takes on a GPU of a layout; :mod:`sdpg.planning.generation` has the estimates for vLLM."""

    def stays(self, shape: Shape, layout: "Layout") -> dict[str, int]:
        """Returns part → bytes that are there in every phase."""
        ...

    def working(self, shape: Shape, layout: "Layout") -> dict[str, int]:
        """Returns part → bytes of rollouts and evaluations beyond those of every phase."""
        ...


@dataclass(frozen=True)
class Generation:
    """The largest batch that transformers generates at once, in the weights' float32."""

    sequences: int
    tokens: int

    def stays(self, shape: Shape, layout: "Layout") -> dict[str, int]:
        """Returns the whole copy of the model that each process has beside its shards, as shards cannot generate."""
        return {"the engine's own weights (float32)": FLOAT * shape.parameters} if layout.sharding == "fsdp2" else {}

    def working(self, shape: Shape, layout: "Layout") -> dict[str, int]:
        """See :class:`Generator`."""
        return {"keys and values": self.cache(shape), "their copy, logits": self.extra(shape)}

    def cache(self, shape: Shape) -> int:
        """Returns the bytes of keys and values."""
        return self.sequences * self.tokens * kv_per_token(shape, FLOAT)

    def extra(self, shape: Shape) -> int:
        """Returns the bytes beside the cache: a layer's copied keys and values, logits and log-softmax."""
        return self.cache(shape) // shape.layers + 4 * FLOAT * self.sequences * shape.vocabulary


def gathered(shape: Shape, half: bool) -> int:
    """Returns the bytes of weights that are whole for a moment under FSDP2.

    Assumption: weights are gathered layer by layer, the next layer is under way, and embedding and head stay whole
    through a pass.
    """
    return (HALF if half else FLOAT) * (2 * shape.layer + shape.embedding)


def kv_per_token(shape: Shape, itemsize: int) -> int:
    """Returns the bytes of keys and values of one token in all layers."""
    return 2 * shape.layers * shape.key * itemsize


@dataclass(frozen=True)
class Layout:
    """How a training process lies on its GPUs; see ``train.distributed``."""

    gpus: int = 1
    sharding: Sharding = "none"
    checkpointing: bool = False

    @property
    def label(self) -> str:
        """Returns the layout's name for tables."""
        how = {"none": "one process", "ddp": "DDP", "fsdp2": "FSDP2"}[self.sharding]
        return f"{how}{f' × {self.gpus}' if self.gpus > 1 else ''}{', checkpointing' if self.checkpointing else ''}"


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a training process on one GPU.

    Attributes:
        layout: the number of GPUs and how they share the work.
        stays: part → bytes that are there in every phase.
        update: part → bytes of the update beyond that.
        generation: part → bytes of rollouts and evaluations beyond that.
        step: part → bytes of the optimiser's step beyond that.
    """

    layout: Layout
    stays: dict[str, int]
    update: dict[str, int]
    generation: dict[str, int]
    step: dict[str, int]

    @property
    def phases(self) -> dict[str, int]:
        """Returns the peak bytes of each phase."""
        persistent = sum(self.stays.values())
        parts = {"update": self.update, "generation": self.generation, "optimiser step": self.step}
        return {name: persistent + sum(part.values()) for name, part in parts.items()}

    @property
    def peak(self) -> int:
        """Returns the largest of the phases' peaks."""
        return max(self.phases.values())


def plan_memory(shape: Shape, passes: Passes, generation: Generator, layout: Layout) -> MemoryPlan:
    """Returns the memory of one GPU of a layout, with all its parts."""
    count, share = trained_parameters(shape, passes.lora), layout.gpus if layout.sharding == "fsdp2" else 1
    stays = {"weights (float32 masters)": FLOAT * shape.parameters // share}
    if passes.lora is not None:
        # With the adapter off the weights are the reference.
        stays["adapter"] = FLOAT * count // share
    stays |= {"gradients": FLOAT * count // share, "optimiser (two moments)": 2 * FLOAT * count // share}
    if passes.reference and passes.lora is None:
        stays["reference, also the frozen teacher"] = FLOAT * count // share
    if passes.teacher_weights:
        # Those of all trained weights; frozen ones are the student's own.
        stays["the teacher's own weights"] = FLOAT * count // share
    if layout.sharding == "ddp":
        # Assumption: torch's default, where buckets are no views of the gradients.
        stays["DDP's buckets"] = FLOAT * count
    stays |= generation.stays(shape, layout)
    unsharded = 0
    if layout.sharding == "fsdp2":
        # With a layer's gradients before they are spread.
        unsharded = gathered(shape, passes.half)
        unsharded += FLOAT * (shape.layer if passes.lora is None else passes.lora.layer(shape))
    whole = held_copies(shape, passes)
    copies = 0 if layout.sharding == "fsdp2" else whole
    peak = passes_peak(shape, passes) - whole
    at_head = min(head(shape, passes), peak)
    update = {"autocast's bfloat16 weights": copies} if copies else {}
    if unsharded:
        update["layers that are whole for a moment"] = unsharded
    if passes.teacher_head and (layout.sharding == "fsdp2" or (passes.half and passes.on_gpu)):
        # Whole on each rank while the losses are computed, or copied for its products.
        update["the teacher's head"] = (HALF if passes.half else FLOAT) * shape.embedding
    update |= {"head: a chunk's logits and gradients": at_head, "activations": max(0, peak - at_head)}
    step = {"AdamW's temporaries": optimiser_step(shape, passes.on_gpu, passes.lora) // share}
    return MemoryPlan(layout, stays, update, generation.working(shape, layout), step)
