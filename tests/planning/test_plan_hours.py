"""Tests the planner's hours and traffic by hand-worked numbers: engines, tails, several GPUs."""

from dataclasses import replace
import math
from pathlib import Path
from typing import Any

import pytest

from sdpg.params import Params
from sdpg.params.lora import LoraParams
from sdpg.params.vllm import VllmServer
from sdpg.planning.hours import (
    Sampler,
    around_hours,
    compute_hours,
    generation_hours,
    samplers,
    sampling_hours,
    training_hours,
    vllm_instead,
)
from sdpg.planning.machines import Machine, machines
from sdpg.planning.memory import Layout
from sdpg.planning.plan import planned_params
from sdpg.planning.shapes import KNOWN
from sdpg.planning.traffic import micro_batch_rounds, run_traffic
from sdpg.planning.work import CARDS, Assumptions, Range, count_completions, forward_flops, method_work

ROOT = Path(__file__).parents[2]
SHAPE = KNOWN["Qwen/Qwen3-4B"]
H100 = CARDS["h100"]
ONE, EIGHT = Machine(1, H100, "given"), Machine(8, H100, "given")
SHARDS = Layout(8, "fsdp2", True)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def changed(params: Params, section: str, **values: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def with_transformers(profile: str, batch: int = 16) -> Params:
    return changed(planned_params(profile), "rollout", engine="transformers", vllm=None, batch=batch)


# --- operations


def test_hours_follow_speed_and_utilisation() -> None:
    card = replace(H100, peak_flops=1e15)
    assumed = Assumptions(training_mfu=Range(0.5, 0.25), balance=Range(1.0, 0.5))
    hours = compute_hours(Range(3.6e18, 7.2e18), card, 1, True, assumed)
    assert (hours.low, hours.high) == pytest.approx((2.0, 8.0))
    eight = compute_hours(Range(3.6e18, 7.2e18), card, 8, True, assumed)
    assert (eight.low, eight.high) == pytest.approx((0.25, 2.0))
    assert compute_hours(Range(3.6e18, 7.2e18), card, 1, False, assumed).low == pytest.approx(4.0)


# --- traffic


def test_rounds_hold_whole_lines() -> None:
    # 4 lines of 1,838 tokens fit 8,192; 1,024 rows on 8 GPUs are 32 rounds of 4.
    assert micro_batch_rounds(1024, 1838, 8192, 8) == 32
    assert micro_batch_rounds(1025, 1838, 8192, 8) == 33
    assert micro_batch_rounds(10, 9000, 8192, 1) == 10
    assert micro_batch_rounds(0, 100, 8192, 8) == 0


def test_shards_are_gathered_for_each_pass_of_each_round() -> None:
    params = planned_params("qwen3-4b")
    steps = 400
    # A response of 1,800 with 200 before it: 4 lines of 2,000 in 8,192, 32 rounds; taught, 3 of 2,700: 2 passes.
    assumed = Assumptions(student_prompt=200, teacher_prompt=900, gate_rate=0.25, mixed_rate=0.5)
    part = 7 / 8 * SHAPE.parameters
    grpo = run_traffic(SHAPE, params, params.methods["grpo"], SHARDS, assumed, 1800)
    # Student twice, reference once, bfloat16; gradients float32; the engine's weights float32.
    assert (grpo.rounds, grpo.gathers) == (steps * 32, steps * 32 * 3)
    assert grpo.received == pytest.approx(steps * part * (32 * (3 * 2 + 4) + 4))
    # β of the last step is 0: no teacher.
    ufkl = run_traffic(SHAPE, params, params.methods["sdpg-ufkl"], SHARDS, assumed, 1800)
    assert ufkl.gathers == steps * 32 * 3 + (steps - 1) * 32 * 2
    # Without a reference, half of the rows are trained: 16 rounds.
    alpha0 = run_traffic(SHAPE, params, params.methods["alpha0"], SHARDS, assumed, 1800)
    assert (alpha0.rounds, alpha0.gathers) == (steps * 16, steps * 16 * 2 + (steps - 1) * 16 * 2)
    # Computing layers again gathers nothing again.
    assert run_traffic(SHAPE, params, params.methods["grpo"], Layout(8, "fsdp2"), assumed, 1800) == grpo
    single = changed(params, "train", dtype="float32")
    whole = run_traffic(SHAPE, single, params.methods["grpo"], SHARDS, assumed, 1800)
    assert whole.received == pytest.approx(steps * part * (32 * (3 * 4 + 4) + 4))


def test_several_updates_read_everything_once_more_and_sync_once() -> None:
    params = changed(planned_params("qwen3-4b"), "train", updates_per_batch=8)
    found = run_traffic(SHAPE, params, params.methods["grpo"], SHARDS, Assumptions(), 1800)
    # 128 rows an update, 16 for each GPU, in 4 rounds; π_old before them, 32 rounds.
    assert (found.rounds, found.gathers) == (400 * 32, 400 * (32 * 3 + 32))
    part = 7 / 8 * SHAPE.parameters
    assert found.received == pytest.approx(found.gathers * 2 * part + 400 * (32 + 1) * 4 * part)
    # Two rows for each GPU: one pass of the teacher has room for both.
    params = changed(params, "train", updates_per_batch=64)
    few = run_traffic(SHAPE, params, params.methods["sdpg-ufkl"], SHARDS, Assumptions(), 1800)
    assert few.gathers == 400 * (64 * 3 + 32) + 399 * 64


def test_gradients_of_an_adapter_are_all_that_is_sent_of_gradients() -> None:
    params = planned_params("qwen3-4b")
    whole = run_traffic(SHAPE, params, params.methods["grpo"], SHARDS, Assumptions(), 1800)
    params = changed(params, "train", lora=LoraParams(rank=32, alpha=32))
    found = run_traffic(SHAPE, params, params.methods["grpo"], SHARDS, Assumptions(), 1800)
    assert (found.rounds, found.gathers) == (whole.rounds, whole.gathers)
    trained = 66_060_288
    assert whole.received - found.received == pytest.approx(found.rounds * 4 * 7 / 8 * (SHAPE.parameters - trained))
    replicas = run_traffic(SHAPE, params, params.methods["grpo"], Layout(8, "ddp"), Assumptions(), 1800)
    assert replicas.received == pytest.approx(400 * 2 * 7 / 8 * 4 * trained)


def test_replicas_sum_gradients_once_an_update() -> None:
    params = planned_params("qwen3-4b")
    found = run_traffic(SHAPE, params, params.methods["grpo"], Layout(8, "ddp"), Assumptions(), 1800)
    assert (found.gathers, found.received) == (0, pytest.approx(400 * 2 * 7 / 8 * 4 * SHAPE.parameters))
    assert run_traffic(SHAPE, params, params.methods["grpo"], Layout(), Assumptions(), 1800).received == 0


def test_traffic_hides_behind_operations_or_does_not() -> None:
    params = planned_params("qwen3-4b")
    method, assumed = params.methods["grpo"], Assumptions(response_share=Range(0.5, 0.5), link_share=Range(1.0, 0.5))
    found = training_hours(SHAPE, params, method, SHARDS, EIGHT, assumed)
    traffic = run_traffic(SHAPE, params, method, SHARDS, assumed, 2048)
    assert found.traffic.low * 3600 == pytest.approx(traffic.received / 450e9)
    assert found.traffic.high == pytest.approx(2 * found.traffic.low)
    assert found.compute.low > found.traffic.low
    # Of it, what checkpointing computes again is the student's forward pass.
    plain = training_hours(SHAPE, params, method, Layout(8, "fsdp2"), EIGHT, assumed)
    work = [method_work(SHAPE, params, method, assumed, 2048, again).total for again in (False, True)]
    assert found.compute.low / plain.compute.low == pytest.approx(work[1] / work[0])
    assert work[1] > 1.1 * work[0]
    assert found.together == Range(found.compute.low, found.compute.high + found.traffic.high)
    # Over a slow link the traffic decides.
    [slow] = machines("8", link="1")
    slowly = training_hours(SHAPE, params, method, SHARDS, slow, assumed)
    assert slowly.traffic.low == pytest.approx(450 * found.traffic.low)
    assert slowly.together.low == slowly.traffic.low


def test_more_than_a_machines_gpus_have_a_network_between_them() -> None:
    assert [Machine(16, H100, "given").link(gpus) for gpus in (8, 16)] == [450e9, 50e9]
    [given] = machines("16", link="200")
    assert (given.link(8), given.link(16)) == (200e9, 200e9)


# --- generation


def test_generation_reads_weights_and_cache_once_a_token() -> None:
    assumed = Assumptions(response_share=Range(0.5, 0.5), bandwidth_share=Range(1.0, 1.0), student_prompt=0)
    hours = generation_hours(SHAPE, 640, 1, 1000, H100, assumed, Sampler(True, 2, 64))
    weights = 2 * (36 * SHAPE.layer_products + 151_936 * 2560)
    cache = 250 * 2 * 36 * 8 * 128 * 2
    # Ten fillings of mean length; then the longest goes on to the limit alone.
    expected = 10 * 500 * (weights + 64 * cache) + 500 * (weights + cache)
    assert hours.low * 3600 == pytest.approx(expected / 3.35e12)
    # Twice the calls with the same responses: the tail twice, and batches as before.
    twice = generation_hours(SHAPE, 640, 2, 1000, H100, assumed, Sampler(True, 2, 64))
    assert twice.low * 3600 == pytest.approx((expected + 500 * (weights + cache)) / 3.35e12)
    # transformers: float32, all the way to the limit, and no faster than its launches.
    slow = generation_hours(SHAPE, 640, 1, 1000, H100, assumed, Sampler(False, 4, 64))
    assert slow.high * 3600 == pytest.approx(10 * 1000 * 36 * 1e-3)


def test_what_the_cache_does_not_hold_waits() -> None:
    assert [Sampler(True, 2, 128, room).in_flight(1000) for room in (64_500, 1e6, 10)] == [64, 128, 1]
    assumed = Assumptions(response_share=Range(0.5, 0.5), student_prompt=500)
    arguments = (SHAPE, 640, 1, 1000, H100, assumed)
    assert generation_hours(*arguments, Sampler(True, 2, 128, room=64_000)) == generation_hours(
        *arguments, Sampler(True, 2, 64)
    )


def test_engines_share_the_responses_of_a_call() -> None:
    assumed = Assumptions(response_share=Range(0.5, 0.5), balance=Range(1.0, 0.5))
    one = generation_hours(SHAPE, 640, 5, 1000, H100, assumed, Sampler(True, 2, 64))
    eight = generation_hours(SHAPE, 8 * 640, 5, 1000, H100, assumed, Sampler(True, 2, 64, engines=8))
    assert (eight.low, eight.high) == pytest.approx((one.low, 2 * one.high))


def test_who_generates_is_what_params_yaml_says() -> None:
    params = changed(planned_params("qwen3-4b"), "evaluation", batch=96)
    training, alone = samplers(SHAPE, params, SHARDS, EIGHT)
    # 56,320 MiB of 144 KiB a token.
    assert (training.vllm, training.itemsize, training.batch, training.engines) == (True, 2, 88, 8)
    assert training.room == 56_320 * 1024 / 144
    assert (alone.batch, alone.engines, alone.room) == (96, 8, training.room)
    training, alone = samplers(SHAPE, with_transformers("qwen3-4b"), SHARDS, EIGHT)
    assert (training.vllm, training.itemsize, training.batch, training.engines) == (False, 4, 16, 8)
    assert (alone.batch, alone.engines, alone.room) == (88, 8, math.inf)
    served = changed(params, "rollout", vllm=VllmServer(mode="server", request_seeds=False))
    training, _ = samplers(SHAPE, served, SHARDS, EIGHT)
    assert training.engines == 1
    assert training.room == pytest.approx((EIGHT.usable - 2 * SHAPE.parameters) / (144 * 1024))


def test_vllm_instead_takes_the_place_of_transformers_own_weights() -> None:
    params = with_transformers("qwen3-4b")
    room = vllm_instead(SHAPE, params, SHARDS, EIGHT).room * 144 * 1024
    # Beside an eighth of what trains; on one GPU the trainer's state is elsewhere meanwhile.
    assert room == pytest.approx(EIGHT.usable - 20 / 8 * SHAPE.parameters - 2 * SHAPE.parameters)
    assert vllm_instead(SHAPE, params, Layout(), ONE).room * 144 * 1024 == pytest.approx(
        ONE.usable - 2 * SHAPE.parameters
    )


def test_a_finished_policy_is_asked_by_all_processes_in_portions() -> None:
    params, assumed = planned_params("qwen3-4b"), Assumptions()
    counts = count_completions(params)

    def hours(layout: Layout, machine: Machine) -> Any:
        return sampling_hours(SHAPE, params, counts, H100, assumed, *samplers(SHAPE, params, layout, machine))

    one, eight = hours(Layout(), ONE), hours(SHARDS, EIGHT)
    # Eight portions one after the other, or side by side.
    assert one.final.low > 4 * eight.final.low and one.base.low > 4 * eight.base.low
    assert one.rollouts.low > 4 * eight.rollouts.low and one.in_training.low > 4 * eight.in_training.low
    assert eight.evaluation == eight.in_training + eight.final
    assert one.rollouts == generation_hours(
        SHAPE, 409_600, 400, 4096, H100, assumed, samplers(SHAPE, params, Layout(), ONE)[0], 8
    )
    # 40 evaluations of 132 problems, 32 samples each; of the policy, those 32 and a greedy one, in two calls.
    training, alone = samplers(SHAPE, params, SHARDS, EIGHT)
    assert eight.in_training == generation_hours(SHAPE, 40 * 132 * 32, 40, 4096, H100, assumed, training, 32)
    assert eight.final == generation_hours(SHAPE, 132 * 33, 2, 4096, H100, assumed, alone, 33 / 2)
    assert eight.base == generation_hours(SHAPE, 132 * 33 + 62 * 32, 3, 4096, H100, assumed, alone, 65 / 3)
    single = samplers(SHAPE, params, Layout(), ONE)[1]
    assert one.final == generation_hours(SHAPE, 132 * 33, 16, 4096, H100, assumed, single, 33 / 2)


def test_siblings_prompt_is_read_once_and_takes_room_once() -> None:
    assumed = Assumptions(response_share=Range(0.5, 0.5), student_prompt=800, training_mfu=Range(0.5, 0.25))
    arguments = (SHAPE, 640, 1, 1000, H100, assumed)
    wide = Sampler(True, 2, 64)
    alone, eight = generation_hours(*arguments, wide), generation_hours(*arguments, wide, 8)
    # 640 prompts of 800 tokens, or 80 of them.
    saved = 560 * forward_flops(SHAPE, 800, 800) / 989e12
    assert (alone.low - eight.low) * 3600 == pytest.approx(saved / 0.5)
    assert (alone.high - eight.high) * 3600 == pytest.approx(saved / 0.25)
    # 600 tokens each where eight share 800, instead of 1,300.
    tight = generation_hours(*arguments, Sampler(True, 2, 64, room=38_400), 8)
    assert tight == eight
    assert generation_hours(*arguments, Sampler(True, 2, 64, room=38_400)).low > alone.low
    # transformers copies keys and values to each sibling.
    slow = Sampler(False, 4, 64, room=83_200)
    assert generation_hours(*arguments, slow, 8).low == generation_hours(*arguments, replace(slow, room=1e9), 8).low


def test_what_the_trainer_does_around_generation_and_update() -> None:
    params = planned_params("qwen3-4b")
    assumed = Assumptions(response_share=Range(0.5, 1.0), around_seconds=Range(2, 3), wake_seconds=Range(1, 2))
    found = around_hours(SHAPE, params, SHARDS, H100, assumed)
    # 400 steps of 1,024 responses of 2,048 or 4,096 tokens.
    millions = 400 * 1024 * 2048 / 1e6
    assert (found.records.low, found.records.high) == pytest.approx((2 * millions / 3600, 2 * 3 * millions / 3600))
    # Float32 is read and bfloat16 written, once a step.
    moved = 6 * SHAPE.parameters / 3.35e12
    assert found.handover.low == pytest.approx(400 * (moved / 0.7 + 1) / 3600)
    assert found.handover.high == pytest.approx(400 * (moved / 0.35 + 2) / 3600)
    assert found.together.low == found.records.low + found.handover.low
    served = changed(params, "rollout", vllm=VllmServer(mode="server"))
    by_files = around_hours(SHAPE, served, SHARDS, H100, assumed).handover
    assert by_files.low == pytest.approx(400 * 4 * SHAPE.parameters / 2e9 / 3600)
    # The trained module itself generates, or beside shards a copy of it.
    assert around_hours(SHAPE, with_transformers("qwen3-4b"), Layout(), H100, assumed).handover == Range(0, 0)
    copied = around_hours(SHAPE, with_transformers("qwen3-4b"), SHARDS, H100, assumed).handover
    assert copied.low == pytest.approx(400 * 8 * SHAPE.parameters / (0.7 * 3.35e12) / 3600)
