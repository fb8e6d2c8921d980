"""Tests the planner's memory of generation by hand-worked numbers: vLLM in process, asleep and awake, and a server."""

from dataclasses import replace
from pathlib import Path
import random
from typing import Any

import pytest

from sdpg.params import Params
from sdpg.params.vllm import VllmInProcess, VllmServer
from sdpg.planning.generation import (
    GRAPHS,
    ServedMemory,
    VllmMemory,
    canary_pass,
    full_length,
    largest_generation,
    longest_in_cache,
)
from sdpg.planning.machines import machines
from sdpg.planning.memory import Generation, Layout, forward_only, plan_memory
from sdpg.planning.plan import (
    Plan,
    assumed_card,
    cache_room,
    changes_to_fit,
    largest_passes,
    layouts,
    memory_of,
    own_layout,
    planned_params,
    planned_run,
)
from sdpg.planning.report import report
from sdpg.planning.shapes import KNOWN, shape_of
from sdpg.planning.work import Assumptions
from sdpg.rollouts import canary

ROOT = Path(__file__).parents[2]
SHAPE = KNOWN["Qwen/Qwen3-4B"]
GIB = 2**30
SHARDS = Layout(8, "fsdp2", True)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(**settings: Any) -> Params:
    """qwen3-4b with other settings of vLLM; ``mode: server`` takes the place of all."""
    params = planned_params("qwen3-4b")
    if settings.get("mode") == "server":
        vllm: Any = VllmServer(**settings)
    else:
        assert isinstance(params.rollout.vllm, VllmInProcess)
        vllm = params.rollout.vllm.model_copy(update=settings)
    return params.model_copy(update={"rollout": params.rollout.model_copy(update={"vllm": vllm})})


def test_the_profiles_vllm_by_hand() -> None:
    found = largest_generation(planned(), 80 * GIB)
    assert isinstance(found, VllmMemory)
    assert found.weights(SHAPE) == 2 * 4_022_468_096
    assert found.cache(SHAPE) == 56_320 * 2**20
    # 16,384 tokens through the MLP's gate, up and their product beside two residual streams, bfloat16; four float32
    # tensors of 88 rows of logits.
    assert found.workspace(SHAPE) == 2 * 16_384 * (3 * 9728 + 2 * 2560) + 4 * 4 * 88 * 151_936
    assert replace(found, itemsize=4).weights(SHAPE) == 4 * 4_022_468_096


def test_asleep_vllm_keeps_its_graphs_alone_and_awake_all_of_it() -> None:
    asleep, awake = (memory_of(SHAPE, planned(sleep=sleep), SHARDS) for sleep in (True, False))
    own = 2 * SHAPE.parameters + 55 * GIB
    none = memory_of(SHAPE, planned(mode="server"), SHARDS)
    for phase in ("update", "optimiser step"):
        assert asleep.phases[phase] == none.phases[phase] + GRAPHS
        assert awake.phases[phase] == none.phases[phase] + GRAPHS + own
    # While it generates there is no difference, but for the largest weight, handed over whole beside the cache.
    passing = canary_pass(SHAPE, SHARDS, True, None)
    assert passing > largest_generation(planned(), 80 * GIB).workspace(SHAPE)  # type: ignore[attr-defined]
    stays = sum(none.stays.values())
    assert asleep.phases["generation"] == stays + GRAPHS + own + passing
    assert awake.phases["generation"] == stays + GRAPHS + own + max(passing, 4 * SHAPE.embedding)
    assert "vLLM's CUDA graphs" not in memory_of(SHAPE, planned(eager=True), SHARDS).stays


def test_a_server_takes_nothing_but_the_pass_that_checks_it() -> None:
    params = planned(mode="server")
    assert isinstance(largest_generation(params, 80 * GIB), ServedMemory)
    alone, sharded = memory_of(SHAPE, params, Layout()), memory_of(SHAPE, params, SHARDS)
    # bfloat16 copies of all weights on one GPU; under FSDP2 two layers and the embedding.
    tokens = canary.PROMPTS * (canary.LONGEST_PROMPT + canary.TOKENS)
    whole = forward_only(SHAPE, tokens, True, True) + canary.HEAD_BYTES
    assert alone.generation == {"the canary's pass": whole}
    assert whole > 2 * 35 * SHAPE.layer_products
    parts = 2 * (2 * SHAPE.layer + SHAPE.embedding) + canary.HEAD_BYTES
    assert sharded.generation == {"the canary's pass": parts + forward_only(SHAPE, tokens, True, False)}
    assert sum(alone.stays.values()) == 20 * SHAPE.parameters


def test_on_one_gpu_the_canarys_copies_are_more_than_vllms_own_workspace() -> None:
    one = memory_of(SHAPE, planned(), Layout(checkpointing=True))
    passing = canary_pass(SHAPE, Layout(), True, None)
    assert one.generation["its activations and logits, or the canary's pass"] == passing


def test_a_share_of_the_gpu_is_vllms_as_a_whole() -> None:
    params = planned(kv_cache_megabytes=None, gpu_memory_share=0.5, sleep=False)
    for device in (80 * GIB, 141 * 10**9):
        plan = memory_of(SHAPE, params, SHARDS, device)
        vllm = [size for name, size in (plan.stays | plan.generation).items() if "vLLM" in name]
        workspace = largest_generation(params, device).workspace(SHAPE)  # type: ignore[attr-defined]
        assert sum(vllm) + workspace == int(device / 2)
    tiny = largest_generation(planned(kv_cache_megabytes=None, gpu_memory_share=0.1), 80 * GIB)
    assert isinstance(tiny, VllmMemory) and tiny.cache(SHAPE) == 0


def test_transformers_generates_in_float32_and_beside_shards_with_a_model_of_its_own() -> None:
    params = planned()
    rollout = params.rollout.model_copy(update={"engine": "transformers", "vllm": None, "batch": 3})
    params = params.model_copy(update={"rollout": rollout})
    assert largest_generation(params, 80 * GIB) == Generation(3, 2048 + 4096)
    sharded = memory_of(SHAPE, params, SHARDS)
    assert sharded.stays["the engine's own weights (float32)"] == 4 * SHAPE.parameters
    assert sum(memory_of(SHAPE, params, Layout(8, "ddp")).stays.values()) == 24 * SHAPE.parameters
    passes = largest_passes(params, True)
    assert sum(plan_memory(SHAPE, passes, Generation(3, 1), SHARDS).stays.values()) == pytest.approx(
        (20 / 8 + 4) * SHAPE.parameters, rel=1e-6
    )


def test_the_layout_of_params_yaml_comes_first() -> None:
    large, small = planned_params("qwen3-4b"), planned_params("qwen3-1.7b")
    assert own_layout(large) == SHARDS
    found = layouts(large, 8)
    assert found[0] == SHARDS and len(found) == len(set(found)) == 4
    # More GPUs than there are.
    assert layouts(large, 1) == [Layout(), Layout(checkpointing=True)]
    # One process beside what eight could do.
    assert layouts(small, 8)[0] == layouts(small, 1)[0] == Layout()
    assert len(layouts(small, 8)) == 5


def test_a_kv_cache_that_is_too_large_is_named() -> None:
    params = planned(kv_cache_megabytes=64 * 1024)
    [change] = changes_to_fit(SHAPE, params, SHARDS, 75 * GIB) or []
    # What the plan leaves of 75 GiB, and no more.
    left = cache_room(SHAPE, params, SHARDS, 75 * GIB, 80 * GIB)
    assert left is not None and (change.key, change.after) == ("rollout.vllm.kv_cache_megabytes", left >> 20)
    for more, fits in ((0, True), (1, False)):
        peak = memory_of(SHAPE, planned(kv_cache_megabytes=(left >> 20) + more), SHARDS).peak
        assert (peak <= 75 * GIB) is fits
    # Never below the longest sequence: a teacher's prompt and a response, in whole blocks of 16 and one more.
    needed = (4096 + 4096 + 16) * 2 * 36 * 8 * 128 * 2
    assert longest_in_cache(params, SHAPE) == needed
    least = memory_of(SHAPE, planned(kv_cache_megabytes=-(-needed // 2**20)), SHARDS).phases["generation"]
    found = changes_to_fit(SHAPE, planned(), SHARDS, least) or []
    assert {change.key: change.after for change in found}["rollout.vllm.kv_cache_megabytes"] == -(-needed // 2**20)


def test_a_share_that_is_too_large_is_named_and_keeps_room_for_a_sequence() -> None:
    params = planned(kv_cache_megabytes=None, gpu_memory_share=0.9, sleep=False)
    found = changes_to_fit(SHAPE, params, SHARDS, 75 * GIB) or []
    assert any(change.key == "rollout.vllm.gpu_memory_share" and change.after < 0.9 for change in found)
    # Weights, graphs and a step's work take a seventh: a twentieth less leaves no sequence.
    small = planned(kv_cache_megabytes=None, gpu_memory_share=0.15)
    keys = {change.key for change in changes_to_fit(SHAPE, small, SHARDS, 20 * GIB) or []}
    assert "rollout.vllm.gpu_memory_share" not in keys


def test_a_small_model_with_vllm_on_two_processes_is_planned() -> None:
    params = planned_params("micro")
    vllm = VllmInProcess(mode="in_process", dtype="float32", kv_cache_megabytes=1, eager=True)
    spread = params.train.distributed.model_copy(update={"processes": 2, "strategy": "fsdp2"})
    params = params.model_copy(update={
        "rollout": params.rollout.model_copy(update={"engine": "vllm", "vllm": vllm}),
        "train": params.train.model_copy(update={"distributed": spread}),
    })  # fmt: skip
    text = report(Plan(params, shape_of(params.base), machines(processes=2), Assumptions()))
    for part in (
        "params.yaml says FSDP2 × 2*, which is more GPUs than these.", "Hours of one run as FSDP2 × 2* on 2 ×",
    ):  # fmt: skip
        assert part in text
    assert "Asleep" not in text and "CUDA graphs  " not in text


def test_the_report_names_the_engine_that_params_yaml_names() -> None:
    def text(params: Params) -> str:
        return report(Plan(params, SHAPE, machines("8"), Assumptions()))

    own = text(planned())
    assert "does not hold the longest sequence" in text(planned(kv_cache_megabytes=1024)) and "not hold" not in own
    assert "rollouts," in own and "transformers: " not in own and "instead" not in own
    served = text(planned(mode="server"))
    assert "it needs GPUs of its own" in served and "in a server with one such GPU of its own" in served
    params = planned()
    rollout = params.rollout.model_copy(update={"engine": "transformers", "vllm": None, "batch": 8})
    slow = text(params.model_copy(update={"rollout": rollout}))
    assert "8 sequences at once (rollout.batch)" in slow and "vLLM* instead" in slow and "KV cache" not in slow


# --- the KV cache is what is left


def most_blocks(params: Params, lengths: list[int], prompt: int, block: int = 16) -> int:
    """Blocks of a KV cache at the fullest moment of a call, counted block by block as vLLM fills them.

    Siblings come one after another and share their prompt's full blocks, and a place that falls free is taken at once.
    """
    siblings, batch, waiting = params.train.responses_per_prompt, params.rollout.batch, list(enumerate(lengths))
    shared, most = prompt // block, 0
    active: list[tuple[int, int, int]] = []
    while waiting or active:
        while waiting and len(active) < batch:
            row, length = waiting.pop(0)
            active.append((row // siblings, length, 0))
        groups = len({group for group, _, _ in active})
        own = sum(-(-(prompt + done + block) // block) - shared for _, _, done in active)
        most = max(most, groups * shared + own)
        active = [(group, length, done + block) for group, length, done in active if done + block < length]
    return most


@pytest.mark.parametrize("profile", ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"])
def test_a_profiles_kv_cache_is_what_its_plan_leaves_and_preempts_nothing(profile: str) -> None:
    params, shape = planned_run(profile)
    settings, layout = params.rollout.vllm, own_layout(params)
    assert isinstance(settings, VllmInProcess) and settings.kv_cache_megabytes is not None
    [machine] = machines(str(layout.gpus), assumed=assumed_card(shape, params))
    given, left = settings.kv_cache_megabytes << 20, cache_room(shape, params, layout, machine.usable, 0)
    assert left is not None and 0 <= left - given < 3 * GIB
    assert memory_of(shape, params, layout).peak <= machine.usable
    block = 16 * 2 * shape.layers * shape.key * 2
    assert given // block * block >= params.rollout.batch * full_length(params, shape)
    limit, prompt = params.rollout.max_tokens, params.prompts.max_student_tokens
    rows = params.train.prompts_per_step * params.train.responses_per_prompt // layout.gpus
    source = random.Random(0)
    for lengths in ([limit] * rows, [source.randint(limit // 8, limit) for _ in range(rows)]):
        assert most_blocks(params, lengths, prompt) <= given // block
    assert params.evaluation.batch == params.rollout.batch
    assert f"{params.rollout.batch} are in flight\n(rollout.batch): none is ever preempted" in report(
        Plan(params, shape, [machine], Assumptions())
    )
    # One group more in flight could be too many.
    crowded = params.model_copy(update={"rollout": params.rollout.model_copy(update={"batch": 4 * rows})})
    assert "long ones may be preempted" in report(Plan(crowded, shape, [machine], Assumptions()))


def test_the_cache_of_a_finished_policys_evaluation_may_be_the_smaller_one() -> None:
    # Sixteen GPUs hold little of what trains; the policy is whole on each of them.
    sixteen, usable = Layout(16, "fsdp2", True), 75 * GIB
    params = planned()
    alone = usable - 2 * 2 * SHAPE.parameters - GRAPHS - 2 * 16_384 * (3 * 9728 + 2 * 2560) - 4 * 4 * 88 * 151_936
    assert cache_room(SHAPE, params, sixteen, usable, 80 * GIB) == alone
    awake = cache_room(SHAPE, planned(sleep=False), SHARDS, usable, 80 * GIB)
    none = memory_of(SHAPE, planned(sleep=False, kv_cache_megabytes=0), SHARDS)
    assert none.peak == none.phases["update"] and awake == usable - none.peak
    assert cache_room(SHAPE, planned(mode="server"), SHARDS, usable, 80 * GIB) is None
    assert cache_room(SHAPE, params, Layout(), usable, 80 * GIB) == 0


def test_one_small_gpu_holds_qwen3_0_6b_within_22_gigabytes() -> None:
    params, shape = planned_run("qwen3-0.6b")
    assert shape.parameters == 596_049_920 and params.train.lora is None
    assert memory_of(shape, params, own_layout(params)).peak <= 22e9
    assert assumed_card(shape, params) == "rtx4090"
    assert assumed_card(*reversed(planned_run("qwen3-1.7b"))) == "h100"
