"""Tests the planner's shapes, counts, operations and advice, and its answers to bad input."""

from dataclasses import replace
import json
from pathlib import Path
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipelines import plan as command
from sdpg.errors import UserError
from sdpg.objective.methods import reads_whole_responses
from sdpg.params import BaseParams, HubModel, HubSource
from sdpg.params.lora import LoraParams
from sdpg.params.method import OwnTerm
from sdpg.planning.adapter import Adapter, planned_adapter
from sdpg.planning.fits import standing_bytes
from sdpg.planning.machines import Machine, machines
from sdpg.planning.memory import Layout
from sdpg.planning.plan import (
    Plan,
    changes_to_fit,
    gpus_to_fit,
    largest_passes,
    memory_of,
    planned_params,
    planned_run,
    with_changes,
)
from sdpg.planning.report import report
from sdpg.planning.shapes import KNOWN, Shape, read_shape, shape_of
from sdpg.planning.work import (
    CARDS,
    Assumptions,
    Range,
    benchmark_size,
    count_completions,
    decode_flops,
    forward_flops,
    head_flops,
    method_work,
    plan_disk,
)

ROOT = Path(__file__).parents[2]
SMALL = Shape(64, 160, 3, 4, 2, 16, 300, True)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config_of(shape: Shape) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, tie_word_embeddings=shape.tied,
    )  # fmt: skip


# --- shapes


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        (KNOWN["Qwen/Qwen3-1.7B"], 1_720_574_976),
        (KNOWN["Qwen/Qwen3-4B"], 4_022_468_096),
        (SMALL, None),
        (replace(SMALL, tied=False), None),
    ],
)
def test_parameters_are_those_of_the_real_module(shape: Shape, count: int | None) -> None:
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config_of(shape))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert count in (None, shape.parameters)
    assert shape.layer == sum(p.numel() for p in model.model.layers[0].parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_folders_configuration_is_read(tmp_path: Path, tied: bool) -> None:
    shape = replace(SMALL, tied=tied)
    config_of(shape).save_pretrained(tmp_path)
    assert replace(read_shape(tmp_path), context=None) == shape


def test_a_hub_models_own_folder_comes_before_what_is_known(tmp_path: Path) -> None:
    base = BaseParams(folder=str(tmp_path), model=HubModel(kind="hub", id="Qwen/Qwen3-4B", revision="main"))
    assert shape_of(base) == KNOWN["Qwen/Qwen3-4B"]
    config_of(SMALL).save_pretrained(tmp_path / "Qwen/Qwen3-4B")
    assert shape_of(base).layers == SMALL.layers


# --- operations


def test_operations_are_those_that_torch_counts() -> None:
    model = Qwen3ForCausalLM(config_of(SMALL))
    tokens = 50
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    counted = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counted.items() if "attention" not in str(operation))
    attention = tokens * SMALL.layers * 4 * SMALL.query * tokens / 2
    assert forward_flops(SMALL, tokens, tokens) - attention + head_flops(SMALL, tokens) == products


def test_decoding_token_by_token_is_a_forward_pass() -> None:
    # Without a prompt, response tokens see half of the response on average.
    assert decode_flops(SMALL, 0, 80) == forward_flops(SMALL, 80, 80) + head_flops(SMALL, 80)


def test_which_passes_a_method_makes() -> None:
    params = planned_params("qwen3-4b")
    shape, assumed = KNOWN["Qwen/Qwen3-4B"], Assumptions(gate_rate=0.25, mixed_rate=0.5)
    work = {n: method_work(shape, params, params.methods[n], assumed, 1000) for n in params.methods}
    rows = 400 * 128 * 8
    student = rows * forward_flops(shape, 1200, 1200)
    taught = rows * forward_flops(shape, 1900, 1900)
    head = rows * head_flops(shape, 1000)
    grpo, ufkl, opcd, rlsd = (work[name] for name in ("grpo", "sdpg-ufkl", "opcd", "rlsd"))
    assert (grpo.student, grpo.reference, grpo.teacher) == pytest.approx((3 * student, student, 0))
    assert grpo.head == pytest.approx(4 * head)
    # β(400) = 0: the last step asks no teacher.
    assert ufkl.teacher == pytest.approx(0.25 * taught * 399 / 400)
    assert ufkl.head == pytest.approx((4 + 0.25 * 399 / 400) * head)
    assert (opcd.student, opcd.reference, opcd.teacher) == pytest.approx((3 * student, 0, taught))
    # λ(k) > 0 in the first 49 steps.
    assert rlsd.teacher == pytest.approx(0.5 * taught * 49 / 400)
    # Without a reference term only rows with an outcome or an open gate are read.
    assert work["alpha0"].student == pytest.approx(0.5 * 3 * student)
    assert work["beta0"].teacher == 0
    more = method_work(shape, params, params.methods["grpo"], assumed, 1000, checkpointing=True)
    assert more.student == pytest.approx(4 * student)


def test_losses_over_whole_responses_read_all_logits_twice() -> None:
    params = planned_params("qwen3-4b")
    shape, assumed = KNOWN["Qwen/Qwen3-4B"], Assumptions(gate_rate=0.25, mixed_rate=0.5)
    plain = params.methods["sdpg-ufkl"]
    term = OwnTerm(kind="import", path="own:length", coefficient=1.0, whole_responses=True)
    whole = plain.model_copy(update={"terms": {"length": term}})
    assert reads_whole_responses(whole) and not reads_whole_responses(plain)
    once, twice = (method_work(shape, params, one, assumed, 1000) for one in (plain, whole))
    rows, head = 400 * 128 * 8, head_flops(shape, 1000)
    gate = 0.25 * 399 / 400
    assert once.head == pytest.approx(rows * head * (4 + gate))
    assert twice.head == pytest.approx(rows * head * (5 + 2 * gate))
    assert (twice.student, twice.teacher, twice.reference) == (once.student, once.teacher, once.reference)
    # All response tokens of a micro-batch, six lines of 1,200, in one chunk: read once.
    large = params.train.model_copy(update={"head_megabytes": -(-6000 * 2 * 4 * 151_936 >> 20)})
    assert method_work(shape, params.model_copy(update={"train": large}), whole, assumed, 1000).head == once.head


def test_an_adapter_saves_the_weights_gradients() -> None:
    params, lora = planned_params("qwen3-4b"), LoraParams(rank=32, alpha=32)
    shape, assumed = KNOWN["Qwen/Qwen3-4B"], Assumptions(gate_rate=0.25, mixed_rate=0.5)
    params = params.model_copy(update={"train": params.train.model_copy(update={"lora": lora})})
    # By hand: 2560 to 4096, 1024, 1024 and back from 4096; 2560 to 9728, twice, and back; 36 layers.
    ends = (2560 + 4096) + 2 * (2560 + 1024) + (4096 + 2560) + 3 * (2560 + 9728)
    count = 36 * 32 * ends
    assert planned_adapter(lora) == Adapter(32) and Adapter(32).parameters(shape) == count
    rows, tokens = 400 * 128 * 8, 1200
    forward = forward_flops(shape, tokens, tokens)
    frozen = 2 * tokens * 36 * shape.layer_products
    for checkpointing, times in ((False, 3), (True, 4)):
        work = method_work(shape, params, params.methods["grpo"], assumed, 1000, checkpointing)
        assert work.student == pytest.approx(rows * (times * (forward + 2 * tokens * count) - frozen))
        assert work.head == pytest.approx(3 * rows * head_flops(shape, 1000))
    ufkl = method_work(shape, params, params.methods["sdpg-ufkl"], assumed, 1000)
    taught = forward_flops(shape, 1900, 1900) + 2 * 1900 * count
    assert ufkl.teacher == pytest.approx(0.25 * rows * taught * 399 / 400)
    disk = plan_disk(shape, params, count_completions(params), 5, assumed)
    assert (disk.checkpoints, disk.policies) == (6 * 12 * count, 5 * 4 * (shape.parameters + count))
    plan = memory_of(shape, params, Layout())
    assert sum(plan.stays.values()) - plan.stays["vLLM's CUDA graphs"] == 4 * shape.parameters + 16 * count
    assert standing_bytes(shape, False, Adapter(32)) == 4 * shape.parameters + 16 * count


@pytest.mark.parametrize(("target", "found"), [("mlp.up_proj", "up_proj"), ("fc1", None)])
def test_an_adapters_targets_are_those_of_a_qwen3(target: str, found: str | None) -> None:
    lora = LoraParams(rank=2, alpha=2, target_modules=[target])
    if found is None:
        with pytest.raises(UserError, match=r"train\.lora\.target_modules has 'fc1', .*there are q_proj, k_proj"):
            planned_adapter(lora)
    else:
        assert planned_adapter(lora) == Adapter(2, frozenset([found]))


# --- counts


def test_completions_of_the_papers_run() -> None:
    counts = count_completions(planned_params("qwen3-4b"))
    assert (counts.rollouts, counts.evaluations, counts.in_training) == (409_600, 40, 40 * 100 * 32)
    assert (counts.validation, counts.final) == (40 * 32 * 32, 132 * 33)
    # As teacher: those with a solution, AIME24's 30 and the validation set's 32.
    assert counts.base == 132 * 33 + 62 * 32


def test_the_last_step_is_evaluated_whatever_its_number() -> None:
    params = planned_params("qwen3-4b")
    train = params.train.model_copy(update={"steps": 405})
    assert count_completions(params.model_copy(update={"train": train})).evaluations == 41


def test_sizes_of_benchmarks() -> None:
    hub = HubSource(kind="hub", id="a/b", revision="main")
    assert (benchmark_size(30, hub), benchmark_size(None, hub)) == (30, 100)
    assert benchmark_size(None, hub.model_copy(update={"limit": 7})) == 7
    assert [count_completions(planned_params("tiny")).evaluated_problems] == [180]


def test_disk_holds_checkpoints_of_all_runs() -> None:
    params, shape = planned_params("qwen3-4b"), KNOWN["Qwen/Qwen3-4B"]
    assumed = Assumptions(response_share=Range(0.5, 0.5), record_bytes=Range(10, 20), answer_bytes=Range(1, 1))
    disk = plan_disk(shape, params, count_completions(params), 5, assumed)
    assert (disk.checkpoints, disk.policies) == (6 * 12 * shape.parameters, 5 * 4 * shape.parameters)
    assert (disk.rollouts.low, disk.rollouts.high) == (5 * 409_600 * 2048 * 10, 5 * 409_600 * 2048 * 20)
    assert disk.evaluations.low == 2048 * (5 * (128_000 + 40_960 + 4_356) + 6_340)


# --- whether it fits


def test_the_largest_micro_batch_holds_the_longest_line() -> None:
    params = planned_params("qwen3-4b")
    passes = largest_passes(params, False)
    assert (passes.tokens, passes.teacher_tokens, passes.half) == (8192, 8192, True)
    train = params.train.model_copy(update={"tokens_per_micro_batch": 1000})
    passes = largest_passes(params.model_copy(update={"train": train}), False)
    assert (passes.tokens, passes.teacher_tokens) == (2048 + 4096, 4096 + 4096)


def test_changes_make_it_fit_and_are_needed() -> None:
    params, shape = planned_params("qwen3-1.7b"), KNOWN["Qwen/Qwen3-1.7B"]
    before = memory_of(shape, params, Layout()).peak
    assert changes_to_fit(shape, params, Layout(), before) == []
    assert changes_to_fit(shape, params, Layout(), before - 1)
    usable = before - 8 * 2**30
    changes = changes_to_fit(shape, params, Layout(), usable)
    assert changes
    assert memory_of(shape, with_changes(params, changes), Layout()).peak <= usable
    for change in changes:
        fewer = [other for other in changes if other != change]
        assert memory_of(shape, with_changes(params, fewer), Layout()).peak > usable
    assert changes_to_fit(shape, params, Layout(), 20 * shape.parameters) is None


def test_rollouts_that_are_too_many_at_once_are_named() -> None:
    params, shape = planned_params("qwen3-1.7b"), KNOWN["Qwen/Qwen3-1.7B"]
    # With transformers, whose keys and values are as many as sequences are generated at once.
    rollout = params.rollout.model_copy(update={"engine": "transformers", "vllm": None, "batch": 128})
    changes = changes_to_fit(shape, params.model_copy(update={"rollout": rollout}), Layout(), 75 * 2**30)
    assert changes is not None and [change.key for change in changes] == ["rollout.batch"]
    assert str(changes[0]) == "rollout.batch: 128 → 32"


def test_how_many_gpus_it_takes() -> None:
    params, shape = planned_params("qwen3-4b"), KNOWN["Qwen/Qwen3-4B"]
    count = gpus_to_fit(shape, params, 75 * 2**30)
    assert count is not None and count > 1
    assert memory_of(shape, params, Layout(count, "fsdp2", True)).peak <= 75 * 2**30
    assert memory_of(shape, params, Layout(count // 2, "fsdp2", True)).peak > 75 * 2**30
    assert gpus_to_fit(shape, params, 2**30) is None


# --- machines and the command


def test_without_a_gpu_one_and_eight_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = machines()
    assert [(one.gpus, one.card.memory, one.source) for one in found] == [
        (1, 80 * 2**30, "no GPU here: assumed"), (8, 80 * 2**30, "no GPU here: assumed"),
    ]  # fmt: skip
    # As many as a run has processes.
    assert [one.gpus for one in machines(processes=2)] == [1, 2]
    [given] = machines("4", "40", "a100", "300", "1.5")
    assert (given.gpus, given.card.memory, given.card.peak_flops, given.card.bandwidth) == (4, 40 * 2**30, 3e14, 1.5e12)
    assert given.card.name == "A100 SXM 80 GB with 40 GiB, 300 TFLOP/s, 1.5 TB/s"


def test_detected_gpus_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 85_000_000_000

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: Properties)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "NVIDIA A100-SXM4-80GB")
    [found] = machines()
    assert (found.gpus, found.card.memory, found.card.peak_flops, found.source) == (2, 85e9, 312e12, "detected")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "NVIDIA Z1")
    assert "NVIDIA Z1 (speed unknown: that of H100" in machines()[0].card.name


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    command.main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "huge"), r"there is no profile 'huge'; there are: .*qwen3-4b"),
        (("--model", "nowhere"), r"nowhere/config\.json does not exist: name a model folder"),
        (("--memory", "lots"), r"--memory lots: give a number of GiB above 0"),
        (("--memory", "-3"), r"--memory -3: give a number"),
        (("--memory", "0.001"), r"--memory 0\.001: no GPU has that"),
        (("--memory", "nan"), r"--memory nan: give a number"),
        (("--gpus", "0"), r"--gpus 0: give a number"),
        (("--lora", "0.5"), r"--lora 0\.5: give the adapter's rank"),
        (("--gpus", "1.5"), r"--gpus 1\.5: give a whole number"),
        (("--link-bandwidth", "0"), r"--link-bandwidth 0: give a number of GB/s that a GPU receives"),
        (("--card", "abacus"), r"--card abacus is not known; there are: h100, h200, a100"),
        (("--peak-flops", "fast"), r"--peak-flops fast"),
        (("--gate-rate", "1.5"), r"--gate-rate 1\.5: a share lies between 0 and 1"),
        (("--response-share", "0.2-x"), r"--response-share x: give a number"),
    ],
)
def test_bad_input_is_one_message(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(monkeypatch, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ('{"model_type": "llama"}', "model_type is 'llama'; only a qwen3"),
        ("[]", "model_type is None"),
        ('{"model_type": "qwen3", "hidden_size": -1}', "hidden_size is -1, where a size is expected"),
    ],
)
def test_a_configuration_that_cannot_be_planned_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_shape(tmp_path)


def test_an_unknown_hub_model_needs_its_configuration() -> None:
    base = BaseParams(model=HubModel(kind="hub", id="Qwen/Qwen3-99B", revision="main"))
    with pytest.raises(UserError, match=r"Qwen3-99B, whose shape is not known .* inputs/models/Qwen/Qwen3-99B"):
        shape_of(base)


def test_the_report_says_what_it_assumed_and_leaves_params_yaml_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = (ROOT / "params.yaml").read_bytes()
    run(monkeypatch, "--profile", "qwen3-4b", "--gate-rate", "0.2")
    text = capsys.readouterr().out
    assert (ROOT / "params.yaml").read_bytes() == before
    for part in (
        "4.02B parameters", "1 × H100 SXM 80 GB", "8 × H100 SXM 80 GB", "no value of params.yaml makes it fit",
        "409,600", "40 evaluations × 100 problems × 32", "128,000", "Assumptions, none of them measured",
        "gate open for 20% of the rollouts (--gate-rate)", "nothing of it was measured", "as params.yaml says",
        "params.yaml says FSDP2 × 8, checkpointing*, which is more GPUs than these.", "vLLM's KV cache",
        "Hours of one run as FSDP2 × 8, checkpointing*", "88 sequences in flight", "verifying,",
        "sleep has\nnot been tested", "a seed for each response costs vLLM nothing", "adds 0.6–1.1 s per million",
    ):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= 145


def test_a_model_folder_takes_the_place_of_the_profiles_model(tmp_path: Path) -> None:
    config_of(SMALL).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3"
    plan = Plan(*planned_run("qwen3-4b", str(tmp_path)), [Machine(1, CARDS["h100"], "given")], Assumptions())
    assert plan.shape.layers == SMALL.layers
    assert "All of these fit as they are." in report(plan)


@pytest.mark.parametrize("profile", ["tiny", "micro", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"])
def test_every_profile_can_be_planned(profile: str) -> None:
    assert f"profile {profile}" in report(Plan(*planned_run(profile), machines("1"), Assumptions()))
