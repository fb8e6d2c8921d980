"""Computes what LoRA changes in a plan: sizes of an adapter, and what autograd keeps where the weights are frozen.

The axes are those of :mod:`sdpg.planning.shapes`: D hidden size, Q and K widths of queries and keys, I width of the
MLP.
"""

from dataclasses import dataclass

from sdpg.errors import UserError
from sdpg.params.lora import LoraParams
from sdpg.planning.shapes import Shape

FLOAT, HALF = 4, 2
ATTENTION_INPUTS, MLP_INPUTS = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
MODULES = (*ATTENTION_INPUTS, "o_proj", *MLP_INPUTS, "down_proj")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on a Qwen3.

    Attributes:
        rank: the rank R of each pair of matrices.
        targets: the linear modules of a layer that have a pair.
    """

    rank: int
    targets: frozenset[str] = frozenset(MODULES)

    def layer(self, shape: Shape) -> int:
        """Returns the adapter's parameters in one layer: R·(inputs + outputs) of each target."""
        size, query, key, width = shape.hidden_size, shape.query, shape.key, shape.intermediate_size
        sides = dict(zip(MODULES, (size + query, size + key, size + key, query + size), strict=False))
        sides |= dict.fromkeys((*MLP_INPUTS, "down_proj"), size + width)
        return self.rank * sum(sides[target] for target in self.targets)

    def parameters(self, shape: Shape) -> int:
        """Returns the adapter's parameters in all layers."""
        return shape.layers * self.layer(shape)

    def largest(self, shape: Shape) -> int:
        """Returns the parameters of the largest A or B matrix."""
        wide = bool(self.targets & {*MLP_INPUTS, "down_proj"})
        return self.rank * max(shape.hidden_size, shape.query, shape.intermediate_size if wide else 0)

    def count(self, *modules: str) -> int:
        """Returns how many of the named modules are targets."""
        return len(self.targets & set(modules))

    def kept_per_layer(self, shape: Shape, half: bool) -> int:
        """Returns the bytes per token that autograd keeps of one layer.

        They are those of a layer that is trained whole, less what only the gradient of a weight reads: a norm's
        normalised input (a factor of its weight's gradient), and the inputs of frozen products, unless an adapter
        reads them. An adapter keeps these inputs and its own R numbers. With ``half`` each adapter makes a bfloat16
        copy of a norm's result.
        """
        size, heads, width = shape.hidden_size, shape.query + shape.key, shape.intermediate_size
        down, targets = self.count("down_proj"), len(self.targets)
        attention, mlp = self.count(*ATTENTION_INPUTS), self.count(*MLP_INPUTS)
        if half:
            part = (8 + HALF * (attention + mlp)) * size + 8 * heads + HALF * (3 + down) * width
            return part + HALF * self.rank * targets
        results = min(1, attention) + min(1, mlp)
        return FLOAT * ((2 + results) * size + 3 * heads + (3 + down) * width + self.rank * targets)


def planned_adapter(params: LoraParams | None) -> Adapter | None:
    """Returns the adapter that ``train.lora`` asks for; a target that is only in some layers is counted in all of them.

    Raises:
        UserError: if a Qwen3 has no such module.
    """
    if params is None:
        return None
    if params.target_modules == "all-linear":
        return Adapter(params.rank)
    targets = {target.rpartition(".")[2] for target in params.target_modules}
    if unknown := sorted(targets - set(MODULES)):
        raise UserError(
            f"train.lora.target_modules has {unknown[0]!r}, which no Qwen3 layer has: there are {', '.join(MODULES)}"
        )
    return Adapter(params.rank, frozenset(targets))
