"""Makes Qwen3-architecture policies from scratch, loads policies from a folder, and computes response logits."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from safetensors import SafetensorError
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sdpg.errors import UserError
from sdpg.files import replaced_folder
from sdpg.models.batches import TokenBatch
from sdpg.models.weight_files import check_model, check_weights
from sdpg.params import BaseParams, Params, ScratchModel
from sdpg.problems.context import model_config
from sdpg.problems.tokenizer import pad_and_eos

CPU = torch.device("cpu")


def set_threads(count: int) -> None:
    """Fixes the CPU threads of this process; a small model is slower, not faster, with more than it can use."""
    torch.set_num_threads(count)


def scratch_model(params: ScratchModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Returns a randomly initialised Qwen3 of the given size, in float32; call ``torch.manual_seed`` before it."""
    return Qwen3ForCausalLM(scratch_config(params, len(tokenizer), *pad_and_eos(tokenizer)))


def scratch_config(params: ScratchModel, vocabulary: int, pad_id: int, eos_id: int) -> Qwen3Config:
    """Returns the configuration of :func:`scratch_model`'s architecture."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        num_key_value_heads=params.kv_heads,
        head_dim=params.head_dim,
        max_position_embeddings=params.context,
        tie_word_embeddings=params.tie_embeddings,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=None,
        # The usual 0.02 suits widths of thousands; at a width of 100 it leaves attention flat for hundreds of steps.
        initializer_range=params.hidden_size**-0.5,
        dtype="float32",
    )


def load_model(folder: Path, device: torch.device | str = CPU) -> Any:
    """Loads a policy with float32 master weights onto ``device``.

    Raises:
        UserError: if the folder is no model folder, or not whole; see :func:`sdpg.models.weight_files.check_model`.
    """
    check_model(folder)
    return _from_folder(folder).to(device)


def empty_model(folder: Path) -> Any:
    """Returns the model of a folder with parameters that have no memory yet, on the meta device.

    The buffers are there. :func:`sdpg.models.distribution.fill_shards` reads the parameters once they are sharded.

    Raises:
        UserError: as :func:`load_model` does, but for numbers that are not finite: reading all of them once more on
            every rank would take as long as loading them, and stage base has done it.
    """
    check_weights(folder, "")
    model = _from_folder(folder, device_map="meta")
    # What no file holds, such as the frequencies of rotary embeddings, has been left without values too.
    with init_empty_weights(include_buffers=False):
        made = dict(AutoModelForCausalLM.from_config(model.config, dtype=torch.float32).named_buffers())
    for name, buffer in list(model.named_buffers()):
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, made[name].to(buffer.dtype))
    return model


def unloaded_model(base: BaseParams) -> Any:
    """Returns the base's architecture with parameters that have no memory and no values.

    Raises:
        UserError: if a model's configuration cannot be read.
    """
    with torch.device("meta"):
        if isinstance(base.model, ScratchModel):
            return Qwen3ForCausalLM(scratch_config(base.model, base.model.vocab_size, 0, 1))
        return AutoModelForCausalLM.from_config(model_config(base), trust_remote_code=False)


def check_policy(params: Params) -> None:
    """Checks early that the base's architecture can be trained as params.yaml says, before any weight is loaded.

    Raises:
        UserError: see :func:`check_logits` and :func:`check_lines`.
    """
    model = unloaded_model(params.base)
    check_logits(model, f"base.model {params.base.name}")
    check_lines(model, params.train.line_tokens)


def check_logits(model: Any, name: str) -> None:
    """Refuses a model that changes its logits after the head.

    Raises:
        UserError: if so; the message begins with ``name``, and has the settings by which it does.
    """
    scaled = {
        name: getattr(model.config.get_text_config(), name, None)
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
    }
    if any(value not in (None, 1, 1.0) for value in scaled.values()):
        raise UserError(
            f"{name} changes its logits after the head ({scaled}), which the losses here do not: "
            "use a model without, such as Qwen3"
        )


def check_lines(model: Any, line_tokens: int) -> None:
    """Refuses lines that siblings share where the model's attention would not keep them apart.

    Raises:
        UserError: if so.
    """
    if line_tokens and not can_share_lines(model):
        raise UserError(
            f"train.line_tokens is {line_tokens}, but the base's attention is not plain full attention by "
            "sdpa in every layer, so that siblings on one line would see each other: set it to 0"
        )


def _from_folder(folder: Path, **options: Any) -> Any:
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} does not load as a causal language model: {error}") from None
    check_logits(model, str(folder))
    return model


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """Returns the parameters that an optimiser updates: all of them, or those of an adapter alone."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def take_over(model: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copies values, by name, into a model's own weights."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights:
            own[name].copy_(tensor)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes weights (safetensors) and tokenizer; the folder appears whole or not at all."""
    with replaced_folder(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)


def can_share_lines(model: Any) -> bool:
    """Says whether the model's attention obeys the mask of shared lines (:mod:`sdpg.models.batches`) in every layer.

    Other attention implementations read a boolean mask in another way, layers with a sliding window drop the window
    when they are given a mask, and recurrent layers have no mask at all.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    full = set(kinds) == {"full_attention"} if kinds else getattr(config, "sliding_window", None) is None
    return config._attn_implementation == "sdpa" and full


def with_head(model: Any, batch: TokenBatch, function: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Tensor:
    """Makes one forward pass in which ``function`` replaces the forward of the output embedding.

    The function gets the hidden states (N, D) that predict the response tokens, and the head's weight (V, D) and bias;
    no logits are made for prompt positions. Because it runs inside the model's own forward, sharded or tied weights are
    whole while it runs, and the gradients that it gives them are reduced like any others.
    """
    # A wrapper for data parallelism lacks the model's own methods.
    head = getattr(model, "module", model).get_output_embeddings()

    def forward(states: Tensor) -> Tensor:
        return function(states[batch.rows, batch.positions], head.weight, head.bias)

    # An instance may have a forward of its own, such as one with accelerate's hooks.
    before = vars(head).get("forward")
    head.forward = forward
    try:
        return model(
            input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False
        ).logits
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def response_hidden(model: Any, batch: TokenBatch) -> Tensor:
    """Returns hidden states (N, D) that predict the response tokens."""
    return with_head(model, batch, lambda hidden, weight, bias: hidden)


def hidden_and_head(model: Any, batch: TokenBatch) -> tuple[Tensor, Any]:
    """Returns the hidden states of :func:`response_hidden`, with an output embedding that can be called on its own.

    Sharded weights are whole only within the model's own pass, and calling their module elsewhere would gather them
    from all ranks at each call; so a head with a copy of the weights is returned, which lives as long as it is kept.
    """
    head = model.get_output_embeddings()
    if not isinstance(head.weight, DTensor):
        return response_hidden(model, batch), head
    copy = torch.nn.Linear(1, 1, device="meta")

    def function(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        copy.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
        own = None if bias is None else torch.nn.Parameter(bias.detach().clone(), requires_grad=False)
        copy.register_parameter("bias", own)
        return hidden

    return with_head(model, batch, function), copy


def response_logits(model: Any, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """Returns the logits (N, V) of the response tokens divided by the sampling temperature, in float32 or better."""
    logits = with_head(model, batch, torch.nn.functional.linear)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
