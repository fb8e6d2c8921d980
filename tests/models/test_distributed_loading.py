"""Tests that two gloo ranks load the parts of a model that they hold, to the last bit, and never the whole."""

import gc
from pathlib import Path
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


def parts(ranks: Ranks, folder: Path) -> None:
    # First, so that what is imported and set up at the first call is no part of the memory.
    same(ranks, folder)
    memory(ranks, folder, empty_model)


def whole(ranks: Ranks, folder: Path) -> None:
    sharded(load_model, folder / "tied", None, False)
    memory(ranks, folder, load_model)


def memory(ranks: Ranks, folder: Path, load: Any) -> None:
    """Writes how far student and reference raise the resident size at its highest, in MiB."""
    gc.collect()
    # The highest size so far may be that of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    models = [sharded(load, folder / "large", None, frozen) for frozen in (False, True)]
    assert len(models) == 2
    (folder / f"{load.__name__}-{ranks.rank}").write_text(str(resident("VmHWM") - before))


def resident(name: str) -> float:
    """A size of this process in MiB, by its name in Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each rank's peak grew by, and the models that it loaded."""
    folder = tmp_path_factory.mktemp("loading")
    for name, tied in (("tied", True), ("untied", False), ("half", True)):
        kind = torch.bfloat16 if name == "half" else torch.float32
        model(tied, 3, torch.float32).to(kind).save_pretrained(folder / name, max_shard_size="20KB")
    # As models of the hub are: their weights are made float32 when they are loaded.
    large = Qwen3ForCausalLM(LARGE).to(torch.bfloat16)
    large.save_pretrained(folder / "large", max_shard_size="10MB")
    del large
    for function in (parts, whole):
        on_two_ranks(function, folder)
    return folder


def test_each_rank_holds_its_parts_of_student_and_reference_alone(folder: Path) -> None:
    for rank in (0, 1):
        in_parts, in_whole = (float((folder / f"{name}-{rank}").read_text()) for name in ("empty_model", "load_model"))
        # Whole, the second model stands in float32 beside the first one's half, with the pages of its file.
        assert in_parts < 0.75 * in_whole, (in_parts, in_whole)
