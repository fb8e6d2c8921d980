"""LoRA by peft: an adapter is trained on frozen weights, which are the reference when it is switched off.

A linear module with weight W becomes x ↦ x Wᵀ + s·x Aᵀ Bᵀ. Axes: R rank, I and O the module's inputs and outputs;
W (O, I), A (R, I), B (O, R); s = alpha / R. B starts at 0, so that the policy starts as the base.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
import torch
from torch import Tensor

from sdpg.errors import UserError
from sdpg.models.loading import unloaded_model
from sdpg.models.ranks import whole
from sdpg.params import Params
from sdpg.params.lora import LoraParams
from sdpg.seeds import derive_seed

NAME = "default"
"""The name that peft gives to the only adapter."""


def add_adapter(model: Any, params: LoraParams, seed: int) -> None:
    """Puts an adapter into a model, in place, and freezes all other weights.

    Args:
        model: a transformers model, before it is sharded or replicated.
        params: the adapter's size, and the modules that get it.
        seed: the seed of A, equal on all ranks.

    Raises:
        UserError: if a target is not a linear module that may have an adapter.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=params.rank, lora_alpha=params.alpha, target_modules=adapter_targets(model, params), lora_dropout=0.0,
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _shapes_on_cpu(model):
        torch.manual_seed(derive_seed(seed, "adapter"))
        inject_adapter_in_model(config, model, NAME)
    for layer in _layers(model).values():
        # Autocast decides on types; peft would first make a float32 copy of every input.
        layer.cast_input_dtype_enabled = False


@contextmanager
def _shapes_on_cpu(model: Any) -> Iterator[None]:
    """Puts a single number, expanded to the shape, in the place of each parameter on the meta device.

    peft makes an adapter on the device of the weights that it adapts, and on the meta device it would have no values.
    """
    meta = [parameter for parameter in model.parameters() if parameter.is_meta]
    shapes = [torch.nn.Parameter(torch.zeros((), dtype=each.dtype).expand(each.shape)) for each in meta]
    _replace(model, dict(zip(map(id, meta), shapes, strict=True)))
    try:
        yield
    finally:
        _replace(model, dict(zip(map(id, shapes), meta, strict=True)))


def _replace(model: Any, others: dict[int, torch.nn.Parameter]) -> None:
    """Puts other parameters in the place of some, by the id of these; whether they are trained stays as it is."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in others:
                setattr(module, name, others[id(parameter)].requires_grad_(parameter.requires_grad))


def check_adapter(params: Params) -> None:
    """Checks the adapter's targets against the base's architecture, before any weight is loaded.

    Raises:
        UserError: if a target cannot have an adapter; the message names it, and those that can.
    """
    base, lora = params.base, params.train.lora
    assert lora is not None
    adapter_targets(unloaded_model(base), lora)


def adapter_targets(model: Any, params: LoraParams) -> list[str]:
    """Returns the ends of the names of the modules that get an adapter.

    Raises:
        UserError: if the model lacks a target, or a target may not have an adapter; the message names it, and those
            that may.
    """
    head = model.get_output_embeddings()
    kinds = dict(model.named_modules())
    linear = {name for name, module in kinds.items() if isinstance(module, torch.nn.Linear) and module is not head}
    known = sorted({name.rpartition(".")[2] for name in linear})
    targets = known if params.target_modules == "all-linear" else params.target_modules
    for target in targets:
        named = {name for name in kinds if name == target or name.endswith(f".{target}")}
        if not named or not named <= linear:
            raise UserError(
                f"train.lora.target_modules has {target!r}, "
                f"{'which this model does not have' if not named else f'which is {min(named - linear)}'}: an adapter "
                "goes on a linear module that is neither the head nor an embedding (the losses read the head's weight, "
                f"and a tied head is the embedding). There are: {', '.join(known) or 'none'}; or all-linear"
            )
    return targets


def _layers(model: Any) -> dict[str, Any]:
    """Returns the adapted modules by name."""
    return {name: module for name, module in model.named_modules() if _is_adapted(module)}


def _is_adapted(module: Any) -> bool:
    # Importing peft for its class takes longer than importing torch; runs without an adapter do not need it.
    return hasattr(module, "lora_A")


def has_adapter(model: Any) -> bool:
    """Says whether the model has an adapter, which :func:`add_adapter` put into it."""
    return any(_is_adapted(module) for module in model.modules())


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Makes passes inside the ``with`` block those of the base, to the last bit."""
    layers = _layers(model).values()
    try:
        for layer in layers:
            layer.enable_adapters(False)
            # peft freezes what it switches off, and the first pass of a shard decides whether its weights ever get a
            # gradient.
            layer.set_requires_grad(NAME, True)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class _Inside(ABC):
    """A model of its own, without gradient, that shares the base with an adapted model.

    The adapted model is in another state during its passes alone. As these keep nothing for a backward pass, activation
    checkpointing cannot compute a layer again in another state than it was first computed in.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def state(self) -> AbstractContextManager[None]:
        """Returns the context in which the adapted model computes what this one is."""

    @torch.no_grad()
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the adapted model in this one's state."""
        with self.state():
            return self.model(*arguments, **options)

    def get_output_embeddings(self) -> Any:
        """Returns the head, which has no adapter."""
        return self.model.get_output_embeddings()

    def parameters(self) -> Iterator[Tensor]:
        """Returns the adapted model's parameters."""
        return self.model.parameters()


class WithoutAdapter(_Inside):
    """The base inside an adapted model: reference and frozen teacher. The adapter is off during its passes."""

    def state(self) -> AbstractContextManager[None]:
        """See :class:`_Inside`."""
        return adapter_off(self.model)


class OtherAdapter(_Inside):
    """The base with other values of the adapter, which take the places of the adapter's during its passes.

    Attributes:
        weights: the values by name, at first those that the adapter has.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.adapter = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = {name: weight.detach().clone() for name, weight in self.adapter.items()}

    @contextmanager
    def state(self) -> Iterator[None]:
        """See :class:`_Inside`."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # In place and one by one: shards are gathered from these very tensors, and no third adapter is in memory.
        for name, weight in self.adapter.items():
            before = weight.detach().clone()
            weight.copy_(self.weights[name])
            self.weights[name].copy_(before)


def full_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields name and whole value of each weight of the policy, W + s·B·A where it has an adapter, under the base's
    names.

    Values come one at a time, and the model's own weights stay as they are. Sharded weights are gathered from all
    ranks, so all ranks must go through all weights. A tied head comes once, under the name of the input embedding.
    """
    layers = _layers(model)
    for name, parameter in model.named_parameters():
        if name.partition(".lora_")[0] in layers:
            continue
        owner, _, own = name.partition(".base_layer.")
        tensor = whole(parameter.detach())
        if owner in layers and own == "weight":
            layer = layers[owner]
            a, b = (whole(part[NAME].weight.detach()) for part in (layer.lora_A, layer.lora_B))
            tensor = torch.addmm(tensor, b, a, alpha=layer.scaling[NAME])
        yield f"{owner}.{own}" if own else name, tensor


def save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapter alone, in peft's format for ``PeftModel.from_pretrained``; its weights must be whole."""
    from peft import get_peft_model_state_dict

    folder.mkdir()
    weights = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    # The names in peft's files contain peft's wrapper around a model, which this model does not have.
    named = {f"base_model.model.{name}": tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    # peft's own adapters are frozen when they are loaded, and so is this one.
    config = replace(model.peft_config[NAME], inference_mode=True)
    # peft makes a set of any value given, which each process would write in another order.
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(folder)
