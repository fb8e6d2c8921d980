"""Whether the modules that ``train.lora`` names are there to get an adapter; said before any weight is loaded."""

import torch
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from sdpg.models.adapters import adapter_targets
from sdpg.models.loading import scratch_config
from sdpg.params import Params, ScratchModel
from sdpg.problems.context import model_config


def check_adapter(params: Params) -> None:
    """Looks the targets up in the base's architecture.

    Raises:
        UserError: naming a target that cannot have an adapter, and those that can.
    """
    base, lora = params.base, params.train.lora
    assert lora is not None
    # No tensor of the meta device takes memory.
    with torch.device("meta"):
        if isinstance(base.model, ScratchModel):
            model = Qwen3ForCausalLM(scratch_config(base.model, base.model.vocab_size, 0, 1))
        else:
            model = AutoModelForCausalLM.from_config(model_config(base), trust_remote_code=False)
    adapter_targets(model, lora)
