"""Tests the planner's bytes against tensors counted one by one in a real update, at several sizes, part by part.

Each size runs in a process of its own: benchmarks/update_memory.py makes a random Qwen3 and gives it to the pipeline's
own update.
"""

import dataclasses
from functools import cache
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.update_memory import Setting
from sdpg.planning import memory
from sdpg.planning.adapter import Adapter
from sdpg.planning.memory import Generation, Layout, Passes, plan_memory
from sdpg.planning.shapes import Shape

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.15
WITH_ADAPTER = 0.05
"""What an adapter saves is no larger part of a layer than the other tolerance."""
SIZES = {
    "small": Setting(),
    "bf16": Setting(dtype="bfloat16", foreach=True),
    "wide and deep": Setting(
        hidden_size=256, intermediate_size=768, layers=6, head_dim=64, response=225, tokens_per_micro_batch=1024
    ),
    "bf16, checkpointing": Setting(dtype="bfloat16", checkpointing=True, response=225, tokens_per_micro_batch=1024),
    "large vocabulary": Setting(
        vocabulary=16384, hidden_size=256, layers=2, tokens_per_micro_batch=256, head_bytes=1 << 20
    ),
    "own head": Setting(tied=False, dtype="bfloat16"),
    "wide MLP, small head, checkpointing": Setting(
        hidden_size=64, intermediate_size=512, layers=3, vocabulary=64, head_dim=16, rows=4, response=225,
        tokens_per_micro_batch=1024, head_bytes=1 << 14, checkpointing=True,
    ),
    "adapter, large vocabulary": Setting(
        vocabulary=16384, hidden_size=256, layers=2, tokens_per_micro_batch=256, head_bytes=1 << 20, lora_rank=8
    ),
    "adapter, bf16": Setting(lora_rank=8, dtype="bfloat16", foreach=True),
    "adapter, bf16, checkpointing": Setting(
        lora_rank=8, dtype="bfloat16", checkpointing=True, response=225, tokens_per_micro_batch=1024
    ),
    "adapter on some modules": Setting(
        hidden_size=64, intermediate_size=512, layers=3, vocabulary=64, head_dim=16, rows=4, response=225,
        tokens_per_micro_batch=1024, head_bytes=1 << 14, checkpointing=True, lora_rank=16,
        lora_targets=("q_proj", "v_proj"),
    ),
    "teacher of its own": Setting(teacher="ema"),
    "adapter, teacher of its own": Setting(lora_rank=8, teacher="ema"),
}  # fmt: skip


@cache
def measurements() -> dict[str, dict[str, int]]:
    settings = [json.dumps(dataclasses.asdict(setting)) for setting in SIZES.values()]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.update_memory", *settings],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [json.loads(line)["bytes"] for line in result.stdout.splitlines()]
    return dict(zip(SIZES, lines, strict=True))


def shape_of(setting: Setting) -> Shape:
    return Shape(
        setting.hidden_size, setting.intermediate_size, setting.layers, setting.heads, setting.kv_heads,
        setting.head_dim, setting.vocabulary, setting.tied,
    )  # fmt: skip


def adapter_of(setting: Setting) -> Adapter | None:
    chosen = {"targets": frozenset(setting.lora_targets)} if setting.lora_targets else {}
    return Adapter(setting.lora_rank, **chosen) if setting.lora_rank else None


def passes_of(setting: Setting) -> Passes:
    """The micro-batches that the update makes of rows of one length: whole lines within the budget."""
    length = setting.prompt + setting.response - 1
    lines = min(setting.rows, max(1, setting.tokens_per_micro_batch // length))
    taught = lines // 2
    at_once = min(taught, max(1, setting.tokens_per_micro_batch // (length + setting.hint)))
    return Passes(
        tokens=lines * length, teacher_tokens=at_once * (length + setting.hint), responses=lines * setting.response,
        scored=taught * setting.response, half=setting.dtype == "bfloat16", head_bytes=setting.head_bytes,
        checkpointing=setting.checkpointing, lora=adapter_of(setting), teacher_weights=setting.teacher == "ema",
        teacher_head=setting.teacher == "ema" and not setting.lora_rank,
    )  # fmt: skip


def planned(setting: Setting) -> dict[str, int]:
    shape, passes = shape_of(setting), passes_of(setting)
    teacher = memory.forward_only(shape, passes.teacher_tokens, passes.half, cached=True, lora=passes.lora)
    trained = memory.trained_parameters(shape, passes.lora)
    return {
        "weights": 4 * shape.parameters + (4 * trained if passes.lora else 0),
        "reference": 0 if passes.lora else 4 * shape.parameters,
        "teacher_weights": 4 * trained if passes.teacher_weights else 0,
        "gradients": 4 * trained,
        "optimiser": 8 * trained,
        "kept": memory.kept(shape, passes),
        "head": memory.head(shape, passes),
        "reference_head": memory.head(shape, passes, gradients=False),
        "teacher": teacher + passes.scored * 4 * shape.hidden_size,
        "passes": memory.passes_peak(shape, passes),
        "step": memory.optimiser_step(shape, setting.foreach, passes.lora),
    }


@pytest.mark.parametrize("name", SIZES)
def test_each_part_is_what_was_counted(name: str) -> None:
    found, expected = measurements()[name], planned(SIZES[name])
    assert found.keys() == expected.keys()
    ratios = {part: expected[part] / found[part] if found[part] else 1 + expected[part] for part in found}
    tolerance = WITH_ADAPTER if SIZES[name].lora_rank else TOLERANCE
    assert {part: round(r, 3) for part, r in ratios.items() if abs(r - 1) > tolerance} == {}


@pytest.mark.parametrize("name", SIZES)
def test_the_peak_of_a_whole_training_process_is_what_was_counted(name: str) -> None:
    found, setting = measurements()[name], SIZES[name]
    stays = sum(found[part] for part in ("weights", "reference", "teacher_weights", "gradients", "optimiser"))
    plan = plan_memory(
        shape_of(setting), passes_of(setting), Generation(1, 1), Layout(1, "none", setting.checkpointing)
    )
    assert sum(plan.stays.values()) == pytest.approx(stays, rel=0.001)
    assert plan.phases["update"] == pytest.approx(stays + found["passes"], rel=TOLERANCE)


def test_the_sizes_tell_the_parts_apart() -> None:
    # Each way to the peak decides at one of them, so that an error in it shows.
    shares: dict[str, set[str]] = {}
    for name, setting in SIZES.items():
        shape, passes = shape_of(setting), passes_of(setting)
        states = passes.scored * 4 * shape.hidden_size
        in_backward = memory.kept(shape, passes)
        in_backward -= memory.held_copies(shape, passes) if passes.checkpointing else 0
        ways = {
            "head": memory.kept(shape, passes) + memory.head(shape, passes),
            "backward": in_backward + memory.backward(shape, passes),
            "embedding": 0 if passes.lora else memory.embedding_gradients(shape),
        }
        way = max(ways, key=lambda key: ways[key])
        assert ways[way] + states == memory.passes_peak(shape, passes)
        shares.setdefault(way, set()).add(name)
    assert shares.keys() == {"head", "backward", "embedding"}


def test_sharding_divides_what_stays() -> None:
    shape = shape_of(SIZES["small"])
    passes = passes_of(SIZES["small"])

    def stays(layout: Layout, **changes: Any) -> int:
        plan = plan_memory(shape, dataclasses.replace(passes, **changes), Generation(1, 1), layout)
        return sum(plan.stays.values())

    one = stays(Layout())
    assert one == 20 * shape.parameters
    assert stays(Layout(), reference=False) == 16 * shape.parameters
    assert stays(Layout(), teacher_weights=True) == 24 * shape.parameters
    assert stays(Layout(8, "fsdp2"), teacher_weights=True) == stays(Layout(8, "fsdp2")) + 4 * shape.parameters // 8
    # Transformers' generate cannot read shards and has a whole model beside them.
    assert stays(Layout(8, "fsdp2")) == pytest.approx(one / 8 + 4 * shape.parameters, rel=1e-5)
    assert stays(Layout(8, "ddp")) == one + 4 * shape.parameters


def test_a_teachers_own_head_is_whole_where_it_is_sharded_or_copied_for_its_products() -> None:
    shape = shape_of(SIZES["small"])
    passes = dataclasses.replace(passes_of(SIZES["small"]), teacher_head=True)

    def head(layout: Layout, **changes: Any) -> int:
        plan = plan_memory(shape, dataclasses.replace(passes, **changes), Generation(1, 1), layout)
        return plan.update.get("the teacher's head", 0)

    assert head(Layout(), half=True) == head(Layout(), on_gpu=True) == head(Layout(2, "ddp")) == 0
    assert head(Layout(), half=True, on_gpu=True) == head(Layout(2, "fsdp2"), half=True) == 2 * 4096 * 128
    assert head(Layout(2, "fsdp2")) == 4 * 4096 * 128
    assert head(Layout(2, "fsdp2"), teacher_head=False) == 0


def test_keys_and_values_of_generation() -> None:
    # Two tensors of 2 heads × 32 in 4 layers, float32, for 3 sequences of 100 tokens.
    assert Generation(3, 100).cache(shape_of(SIZES["small"])) == 2 * 2 * 32 * 4 * 4 * 3 * 100
