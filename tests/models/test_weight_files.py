"""Tests that a damaged model folder is refused with the names of what is wrong, before any of it is used."""

from collections.abc import Callable
import json
from pathlib import Path
import shutil
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sdpg.errors import UserError
from sdpg.models.loading import load_model
from sdpg.models.weight_files import check_model, check_weights

SIZES: dict[str, Any] = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
                         "head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
NORM, DOWN = "model.layers.2.input_layernorm.weight", "model.layers.1.mlp.down_proj.weight"
QUERY, UP = "model.layers.2.self_attn.q_proj.weight", "model.layers.3.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders as save_pretrained writes them: with tied embeddings, with a head of its own, and in four files."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, tied, size in (("tied", True, "1GB"), ("untied", False, "1GB"), ("parts", False, "6KB")):
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=tied))
        model.save_pretrained(root / name, max_shard_size=size)
    assert len(list((root / "parts").glob("*.safetensors"))) > 2
    return root


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(saved / name, tmp_path / name))


def change(folder: Path, **changes: Any) -> None:
    """Changes tensors of the folder's only weight file; None removes one, and a function makes it anew."""
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        before = weights.pop(name, None)
        if value is not None:
            weights[name] = value(before) if callable(value) else value
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def configure(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def with_one(value: float, row: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.clone()
        made[row] = value
        return made

    return make


@pytest.mark.parametrize("name", ["tied", "untied", "parts"])
def test_a_whole_folder_loads_to_its_numbers(name: str, saved: Path, folder: Callable[[str], Path]) -> None:
    assert ("lm_head.weight" in load_file(saved / "untied" / "model.safetensors")) and (
        "lm_head.weight" not in load_file(saved / "tied" / "model.safetensors")
    )
    check_model(saved / name)
    model = load_model(saved / name, torch.device("cpu"))
    stored = {key: value for file in (saved / name).glob("*.safetensors") for key, value in load_file(file).items()}
    own = dict(model.named_parameters())
    assert all(torch.equal(own[key], value) for key, value in stored.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({DOWN: None}, rf"are not those of its config.json: it lacks {DOWN}\. Copy"),
        ({"lm_head.weight": None}, r"it lacks lm_head\.weight\. Copy"),
        ({UP: torch.ones(2)}, rf"the model has not, {UP}"),
        ({QUERY: torch.ones(4, 16)}, rf"of another shape are {QUERY} \(4, 16\) and not \(16, 16\)"),
        ({DOWN: None, "x": torch.ones(2), QUERY: torch.ones(3)},
         rf"it lacks {DOWN}; it has.*x; of another shape are {QUERY}"),
        ({DOWN: with_one(float("nan"), -1)}, rf"numbers that are not finite .* in {DOWN}: take"),
        ({NORM: with_one(float("-inf"), 3)}, rf"numbers that are not finite .* in {NORM}: take"),
        ({QUERY: lambda t: with_one(float("inf"), 2)(t.bfloat16())},
         rf"numbers that are not finite .* in {QUERY}: take"),
    ],
)  # fmt: skip
def test_damaged_tensors_are_named(changes: dict[str, Any], said: str, folder: Callable[[str], Path]) -> None:
    path = folder("untied")
    change(path, **changes)
    with pytest.raises(UserError, match=rf"^base\.model\.path: the weights in .*untied.*{said}"):
        check_model(path, "base.model.path")
    with pytest.raises(UserError, match=said):
        load_model(path)


def test_many_names_are_counted(folder: Callable[[str], Path]) -> None:
    path = folder("tied")
    change(
        path,
        **{
            name: torch.full_like(tensor, float("nan"))
            for name, tensor in load_file(path / "model.safetensors").items()
        },
    )
    with pytest.raises(UserError, match=r"not finite.* in [^,]+(, [^,]+){4} and \d+ more: take"):
        check_model(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "has a quantization_config: quantised weights"),
        ({"text_config": {"quantization_config": {}}}, "has a quantization_config"),
        ({"auto_map": {"AutoModelForCausalLM": "own--modeling.Own"}}, r"has an auto_map .*never run"),
        ({"attn_implementation": "kernels-community/flash"}, r"has attn_implementation 'kernels-community/flash', a"),
        ({"_attn_implementation": "a/kernel@main:f"}, r"has _attn_implementation 'a/kernel@main:f', a kernel"),
        ({"attn_implementation": {"": "a/b"}}, r"has attn_implementation \{'': 'a/b'\}, a kernel"),
        ({"model_type": "nosuch"}, "does not load as a causal language model"),
        ({"hidden_size": 15}, r"of another shape are .* and 2\d more"),
        ({"num_attention_heads": 0}, "does not load as a causal language model|of another shape"),
        ({"hidden_size": -8}, "does not load as a causal language model"),
        ({"num_hidden_layers": "three"}, "does not load as a causal language model"),
        ({"num_hidden_layers": 4, "layer_types": 4 * ["full_attention"]}, r"it lacks model\.layers\.3\."),
        ({"num_hidden_layers": 2, "layer_types": 2 * ["full_attention"]}, r"the model has not, model\.layers\.2\."),
        ({"vocab_size": 31}, r"of another shape are lm_head.weight \(30, 16\) and not \(31, 16\)"),
    ],
)  # fmt: skip
def test_configurations_that_are_not_loaded(values: dict[str, Any], said: str, folder: Callable[[str], Path]) -> None:
    path = folder("untied")
    configure(path, **values)
    with pytest.raises(UserError, match=said):
        load_model(path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "nul", '{"model_type": "qwen3"', "\udcff"])
def test_a_damaged_configuration_is_no_traceback(text: str, folder: Callable[[str], Path]) -> None:
    path = folder("tied")
    (path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"config\.json (is no JSON|holds no mapping).*copy it again"):
        check_weights(path, "MODEL")


def test_pickled_weights_are_not_loaded(folder: Callable[[str], Path]) -> None:
    path = folder("tied")
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    load_model(path)  # they are not looked at where others are
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no \*\.safetensors weights but pytorch_model\.bin: .*can hold code"):
        load_model(path)


def test_an_index_names_files_beside_it_alone(folder: Callable[[str], Path]) -> None:
    path = folder("parts")
    index = path / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    third = sorted(set(whole["weight_map"].values()))[2]
    for name in ("pytorch_model.bin", "../tied/model.safetensors", "/etc/passwd"):
        changed = {key: name if file == third else file for key, file in whole["weight_map"].items()}
        index.write_text(json.dumps(whole | {"weight_map": changed}))
        with pytest.raises(UserError, match=rf"names {name}: only"):
            load_model(path)
    index.write_text(json.dumps(whole))
    (path / third).rename(path / "elsewhere")
    with pytest.raises(UserError, match=rf"lacks {third}, which .*index\.json names"):
        load_model(path)
    (path / third).write_bytes((path / "elsewhere").read_bytes()[:-8])
    with pytest.raises(UserError, match=rf"{third} is damaged .*copy it again"):
        load_model(path)
    index.write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        load_model(path)
