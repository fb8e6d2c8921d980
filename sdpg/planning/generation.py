"""Estimates the bytes that vLLM takes beside a training process.

Weights and KV cache follow from the settings. Everything else is an assumption, and so is sleep: none of it has been
tried on a GPU. With ``sleep``, weights and KV cache are on the GPU only from the hand-over of the weights to the end
of a generation, see :mod:`sdpg.rollouts.vllm_engine`.
"""

from dataclasses import dataclass

from sdpg.params import Params
from sdpg.params.vllm import VllmInProcess, VllmServer
from sdpg.planning.adapter import Adapter, planned_adapter
from sdpg.planning.memory import FLOAT, HALF, Generation, Generator, Layout, forward_only, gathered, kv_per_token
from sdpg.planning.shapes import Shape

BATCHED_TOKENS = 16384
"""Assumption: prompt tokens that vLLM reads at once; vLLM's own choice for a card of this size."""
GRAPHS = 2**30
"""Assumption: bytes that CUDA graphs take, also while vLLM sleeps."""
LOGITS = 4
"""Assumption: float32 tensors of a step's logits: the logits, probabilities, log-probs and random numbers."""
CANARY_TOKENS = 4 * (256 + 64)
"""Tokens of the pass in which the trainer checks vLLM's log-probs, at the most; see :mod:`sdpg.rollouts.canary`."""
CANARY_HEAD = 64 << 20
"""Bytes of the logits of that pass."""
BLOCK = 16
"""Assumption: tokens per block of the KV cache."""


def canary_pass(shape: Shape, layout: Layout, half: bool, lora: Adapter | None) -> int:
    """Returns the bytes of the trainer's own pass after each hand-over of the weights, while vLLM is awake."""
    sharded = layout.sharding == "fsdp2"
    passing = forward_only(shape, CANARY_TOKENS, half, cached=not sharded, lora=lora)
    return passing + CANARY_HEAD + (gathered(shape, half) if sharded else 0)


@dataclass(frozen=True)
class VllmMemory:
    """Memory of vLLM that runs in the training process.

    Attributes:
        sequences: the largest number of sequences in flight.
        itemsize: bytes of one number, in the weights and in keys and values.
        kv_bytes: bytes of the KV cache; None where ``total`` decides.
        total: bytes of vLLM as a whole; None where ``kv_bytes`` decides.
        sleep: whether weights and KV cache are released between two generations.
        eager: whether vLLM runs without CUDA graphs.
        half: whether the trainer's passes are bfloat16.
        lora: the adapter that is on in the trainer's passes.
    """

    sequences: int
    itemsize: int
    kv_bytes: int | None
    total: int | None
    sleep: bool
    eager: bool
    half: bool
    lora: Adapter | None = None

    def weights(self, shape: Shape) -> int:
        """Returns the bytes of vLLM's own copy of the weights, which is whole on each GPU."""
        return self.itemsize * shape.parameters

    def graphs(self) -> int:
        """Returns the bytes of the CUDA graphs."""
        return 0 if self.eager else GRAPHS

    def workspace(self, shape: Shape) -> int:
        """Returns the bytes that one step of vLLM works with.

        These are the activations of the prompts that are read at once, in the widest place of a layer, and the logits.
        """
        width = max(3 * shape.intermediate_size, 2 * (shape.query + shape.key)) + 2 * shape.hidden_size
        return self.itemsize * BATCHED_TOKENS * width + LOGITS * FLOAT * self.sequences * shape.vocabulary

    def cache(self, shape: Shape) -> int:
        """Returns the bytes of the KV cache: as given, or what is left of vLLM's share."""
        if self.kv_bytes is not None:
            return self.kv_bytes
        assert self.total is not None, "one of the two is given"
        return max(0, self.total - self.weights(shape) - self.graphs() - self.workspace(shape))

    def _own(self, shape: Shape) -> dict[str, int]:
        return {"vLLM's weights": self.weights(shape), "vLLM's KV cache": self.cache(shape)}

    def stays(self, shape: Shape, layout: Layout) -> dict[str, int]:
        """See :class:`~sdpg.planning.memory.Generator`."""
        graphs = {"vLLM's CUDA graphs": self.graphs()} if self.graphs() else {}
        return graphs if self.sleep else self._own(shape) | graphs

    def working(self, shape: Shape, layout: Layout) -> dict[str, int]:
        """See :class:`~sdpg.planning.memory.Generator`."""
        # Each weight is handed over whole, in float32; with sleep, before the KV cache is there.
        whole = FLOAT * shape.embedding if layout.sharding == "fsdp2" and not self.sleep else 0
        passing = max(self.workspace(shape), canary_pass(shape, layout, self.half, self.lora), whole)
        return (self._own(shape) if self.sleep else {}) | {"its activations and logits, or the canary's pass": passing}


@dataclass(frozen=True)
class ServedMemory:
    """Memory of the trainer's own passes that check a vLLM server; the server itself is on GPUs of its own."""

    half: bool
    lora: Adapter | None = None

    def stays(self, shape: Shape, layout: Layout) -> dict[str, int]:
        """See :class:`~sdpg.planning.memory.Generator`."""
        return {}

    def working(self, shape: Shape, layout: Layout) -> dict[str, int]:
        """See :class:`~sdpg.planning.memory.Generator`."""
        return {"the canary's pass": canary_pass(shape, layout, self.half, self.lora)}


def largest_generation(params: Params, device: float) -> Generator:
    """Returns what generation takes at most, for the engine that the parameters name.

    Args:
        params: the run's parameters; the engine, the batch and the token limits are read.
        device: bytes of the whole GPU, of which ``gpu_memory_share`` is a share.
    """
    rollout, half, lora = params.rollout, params.train.dtype == "bfloat16", planned_adapter(params.train.lora)
    # The trainer's engine has rollout.batch also where it evaluates; evaluation.batch is that of a policy alone.
    match rollout.vllm:
        case VllmServer():
            return ServedMemory(half, lora)
        case VllmInProcess(dtype=dtype, kv_cache_megabytes=megabytes, gpu_memory_share=share) as settings:
            return VllmMemory(
                sequences=rollout.batch,
                itemsize=HALF if dtype == "bfloat16" else FLOAT,
                kv_bytes=None if megabytes is None else megabytes << 20,
                total=None if share is None else int(share * device),
                sleep=settings.sleep,
                eager=settings.eager,
                half=half,
                lora=lora,
            )
    longest = params.prompts.max_student_tokens + max(rollout.max_tokens, params.evaluation.max_tokens)
    return Generation(rollout.batch, longest)


def full_length(params: Params, shape: Shape, itemsize: int = HALF) -> int:
    """Returns the bytes of KV cache for one of a prompt's rollouts that runs to its limit.

    The prefix cache holds the longest prompt once for its siblings, which stay on one engine; each has a block of its
    own that is not full.
    """
    rollout, siblings = params.rollout, params.train.responses_per_prompt
    tokens = rollout.max_tokens + -(-params.prompts.max_student_tokens // siblings) + BLOCK
    return tokens * kv_per_token(shape, itemsize)


def policy_bytes(shape: Shape, generation: VllmMemory) -> int:
    """Returns what a finished policy's evaluation takes: the policy, in vLLM's type, beside vLLM and its work."""
    own = generation.itemsize * shape.parameters
    return own + generation.weights(shape) + generation.cache(shape) + generation.graphs() + generation.workspace(shape)


def longest_in_cache(params: Params, shape: Shape) -> int:
    """Returns the bytes of KV cache for the longest sequence: the teacher's prompt, when the base is evaluated."""
    tokens = params.prompts.max_teacher_tokens + max(params.rollout.max_tokens, params.evaluation.max_tokens)
    settings = params.rollout.vllm
    itemsize = FLOAT if isinstance(settings, VllmInProcess) and settings.dtype == "float32" else HALF
    return (-(-tokens // BLOCK) + 1) * BLOCK * kv_per_token(shape, itemsize)
