"""Tests that two gloo ranks load the parts of a model that they hold, to the last bit, and never the whole."""

import json
from pathlib import Path
import resource
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from sdpg.errors import UserError
from sdpg.models.adapters import add_adapter
from sdpg.models.distribution import fill_shards, shard
from sdpg.models.loading import empty_model, load_model
from sdpg.models.ranks import Ranks
from sdpg.params.lora import LoraParams
from tests.helpers.two_ranks import model, on_two_ranks, plugin

LORA = LoraParams(rank=3, alpha=6, target_modules=["q_proj", "down_proj"])
CPU = torch.device("cpu")
LARGE = Qwen3Config(
    vocab_size=50_001, hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=4,
    num_key_value_heads=2, head_dim=64, tie_word_embeddings=True, dtype="float32",
)  # fmt: skip
"""About 26 million parameters: 100 MiB in float32."""


def sharded(load: Any, folder: Path, lora: LoraParams | None, frozen: bool) -> Any:
    found = load(folder).requires_grad_(not frozen)
    if lora:
        add_adapter(found, lora, 5)
    shard(found, CPU, torch.float32, plugin())
    if load is empty_model:
        fill_shards(found, folder)
    return found


def everything(ranks: Ranks, folder: Path) -> None:
    memory(ranks, folder)
    same(ranks, folder)


def memory(ranks: Ranks, folder: Path) -> None:
    """The growth of the peak by student and reference: first in parts, as a peak never falls."""
    found = {}
    for name, load in (("parts", empty_model), ("whole", load_model)):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        models = [sharded(load, folder / "large", None, frozen) for frozen in (False, True)]
        found[name] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        del models
    (folder / f"memory-{ranks.rank}.json").write_text(json.dumps(found))


def same(ranks: Ranks, folder: Path) -> None:
    """Every part, buffer and setting is that of a model that was loaded whole, also of types and rows that are odd."""
    for name, lora, frozen in (("tied", None, False), ("half", None, True), ("untied", LORA, False)):
        whole, parts = (sharded(load, folder / name, lora, frozen) for load in (load_model, empty_model))
        one, other = whole.state_dict(keep_vars=True), parts.state_dict(keep_vars=True)
        assert one.keys() == other.keys()
        for key, value in one.items():
            mine = other[key]
            assert type(value) is type(mine) and isinstance(mine, DTensor), key
            assert mine.dtype == torch.float32 and mine.requires_grad == value.requires_grad, key
            assert mine.placements == value.placements and mine.shape == value.shape, key
            assert torch.equal(mine.to_local(), value.to_local()), key
        buffers = dict(parts.named_buffers())
        assert all(torch.equal(buffers[key], value) for key, value in whole.named_buffers()) and buffers
        tied = [found.lm_head.weight is found.model.embed_tokens.weight for found in (whole, parts)]
        assert tied == [name != "untied"] * 2 and parts.training == whole.training
        assert parts.config.to_dict() == whole.config.to_dict()
        assert parts.generation_config.to_dict() == whole.generation_config.to_dict()
        ids = torch.arange(12).view(2, 6)
        logits = [found(input_ids=ids).logits for found in (whole, parts)]
        assert torch.equal(*logits)
        if frozen:
            continue
        for found, each in zip((whole, parts), logits, strict=True):
            each.square().sum().backward()
            assert any(parameter.grad is not None for parameter in found.parameters())
        for (key, a), (_, b) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), key
            assert a.grad is None or torch.equal(a.grad.to_local(), b.grad.to_local()), key
    broken = empty_model(folder / "untied")
    shard(broken, CPU, torch.float32, plugin())
    with pytest.raises(UserError, match=r"has no weight 'lm_head.weight'"):
        fill_shards(broken, folder / "tied")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What each rank's peak grew by, in MiB."""
    folder = tmp_path_factory.mktemp("loading")
    for name, tied in (("tied", True), ("untied", False), ("half", True)):
        kind = torch.bfloat16 if name == "half" else torch.float32
        model(tied, 3, torch.float32).to(kind).save_pretrained(folder / name, max_shard_size="20KB")
    with torch.device("meta"):
        large = Qwen3ForCausalLM(LARGE)
    large.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in large.parameters():
            parameter.fill_(0.01)
    large.save_pretrained(folder / "large", max_shard_size="10MB")
    del large
    on_two_ranks(everything, folder)
    return [json.loads((folder / f"memory-{rank}.json").read_text()) for rank in (0, 1)]


def test_each_rank_holds_its_parts_of_student_and_reference_alone(found: list[dict[str, float]]) -> None:
    size = sum(parameter.numel() for parameter in _shape().parameters()) * 4 / (1 << 20)
    for rank in found:
        # Two halves in memory, and the same bytes of the mapped files, where the pages are the system's to take back.
        assert rank["parts"] < 2.3 * size, rank
        assert rank["parts"] + size * 0.8 < rank["parts"] + rank["whole"], rank


def _shape() -> Any:
    with torch.device("meta"):
        return Qwen3ForCausalLM(LARGE)
