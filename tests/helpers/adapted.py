"""Makes tiny policies with an adapter, and the same policy written down without peft: W + s·B·A by hand."""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from sdpg.models.adapters import WithoutAdapter, add_adapter
from sdpg.models.loading import trainable
from sdpg.models.passes import Policies
from sdpg.params.lora import LoraParams
from tests.helpers.tiny import PAD, tiny_model

LORA = LoraParams(rank=3, alpha=6)
SCALE = 2.0
"""The adapter's scale, alpha / rank."""


def adapted_model(dtype: torch.dtype = torch.float64, moved: bool = True, lora: LoraParams = LORA) -> Any:
    """A tiny model with an adapter; ``moved``: B is not 0 any more, so that the policy is not its base."""
    model = tiny_model(0, dtype)
    add_adapter(model, lora, 5)
    if moved:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in trainable(model):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return model


def adapted_policies(dtype: torch.dtype = torch.float64, moved: bool = True, lora: LoraParams = LORA) -> Policies:
    """Student, and the reference inside it."""
    student = adapted_model(dtype, moved, lora)
    return Policies(student, WithoutAdapter(student), PAD, 1.0)


class ByHand:
    """The policy of an adapted model as a function of its A and B, by autograd through W + s·B·A.

    Attributes:
        leaves: the values of A and B by their names in the adapted model; gradients end up here.
    """

    def __init__(self, adapted: Any, scale: float = SCALE) -> None:
        self.leaves = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
        }
        self.scale, self.plain = scale, tiny_model(0, adapted.dtype).requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """Returns the weights of the plain model by name."""
        found: dict[str, Tensor] = dict(self.plain.named_parameters())
        for name, a in self.leaves.items():
            if ".lora_A." in name:
                b = self.leaves[name.replace(".lora_A.", ".lora_B.")]
                key = name.split(".lora_A.")[0] + ".weight"
                found[key] = found[key] + self.scale * (b @ a)
        return found

    def __call__(self, **inputs: Any) -> Any:
        return functional_call(self.plain, self.weights(), (), inputs)
