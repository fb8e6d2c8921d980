"""Holds the sizes of a Qwen3, from which all else follows: known by id, read from a folder, or of a model from scratch.

Axes: D hidden size, Q and K widths of queries and keys, I width of the MLP, V vocabulary.
"""

from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from sdpg.errors import UserError
from sdpg.params import BaseParams, HubModel, ScratchModel


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen3.

    Attributes:
        hidden_size: the width D of the residual stream.
        intermediate_size: the width I of the MLP.
        layers: number of layers.
        heads: number of query heads.
        kv_heads: number of key heads, which is also that of value heads.
        head_dim: width of one head.
        vocabulary: the number V of tokens.
        tied: whether the head is the embedding.
        context: tokens of the longest sequence; None where it is not known.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    context: int | None = None

    @property
    def query(self) -> int:
        """Returns Q, the width of all queries."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Returns K, the width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def layer_products(self) -> int:
        """Returns the parameters of one layer that are factors of matrix products: q, k, v, o, gate, up, down."""
        return self.hidden_size * (2 * self.query + 2 * self.key + 3 * self.intermediate_size)

    @property
    def layer(self) -> int:
        """Returns the parameters of one layer with its two norms and those of queries and keys."""
        return self.layer_products + 2 * self.hidden_size + 2 * self.head_dim

    @property
    def embedding(self) -> int:
        """Returns the parameters of the embedding; the head has as many."""
        return self.vocabulary * self.hidden_size

    @property
    def parameters(self) -> int:
        """Returns the number of all parameters; a tied head counts once."""
        return self.layers * self.layer + self.embedding * (1 if self.tied else 2) + self.hidden_size


KNOWN = {
    "Qwen/Qwen3-0.6B": Shape(1024, 3072, 28, 16, 8, 128, 151_936, True, 40_960),
    "Qwen/Qwen3-1.7B": Shape(2048, 6144, 28, 16, 8, 128, 151_936, True, 40_960),
    "Qwen/Qwen3-4B": Shape(2560, 9728, 36, 32, 8, 128, 151_936, True, 40_960),
}
"""Shapes by the hub's ids, so that planning needs no hub."""

_FIELDS = {
    "hidden_size": "hidden_size", "intermediate_size": "intermediate_size", "layers": "num_hidden_layers",
    "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "vocabulary": "vocab_size",
}  # fmt: skip


def shape_of(base: BaseParams) -> Shape:
    """Returns the shape of the initial policy: from its folder where there is one, else by its id.

    Raises:
        UserError: if neither is known.
    """
    model = base.model
    if isinstance(model, ScratchModel):
        return Shape(
            model.hidden_size, model.intermediate_size, model.layers, model.heads, model.kv_heads, model.head_dim,
            model.vocab_size, model.tie_embeddings, model.context,
        )  # fmt: skip
    if (folder := base.local_folder) is not None:
        return read_shape(folder)
    assert isinstance(model, HubModel), "a local model has a folder"
    if model.id not in KNOWN:
        raise UserError(
            f"base.model.id is {model.id}, whose shape is not known here ({', '.join(KNOWN)} are): put its config.json "
            f"into {Path(base.folder) / model.id}, or name a folder that has it with --model"
        )
    return KNOWN[model.id]


def read_shape(folder: Path) -> Shape:
    """Returns the shape that a model folder's config.json states.

    Raises:
        UserError: if there is none, it cannot be read, or it is not a Qwen3's.
    """
    path = folder / "config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist: name a model folder, which holds config.json") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}): copy it again") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "qwen3":
        raise UserError(
            f"{path}: model_type is {kind!r}; only a qwen3 can be planned, as others keep other activations"
        )
    sizes = {name: _size(config, key, path) for name, key in _FIELDS.items()}
    # Where a configuration leaves them out, the defaults of transformers' Qwen3Config apply.
    return Shape(
        **sizes,
        head_dim=_size(config, "head_dim", path) if "head_dim" in config else 128,
        tied=bool(config.get("tie_word_embeddings", False)),
        context=config.get("max_position_embeddings"),
    )


def _size(config: dict[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise UserError(f"{path}: {key} is {value!r}, where a size is expected: restore the file")
    return value
