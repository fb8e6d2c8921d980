"""Tests that what this machine cannot hold or does not have is reported before anything is loaded."""

from pathlib import Path

import pytest

from pipelines.check import check_inputs
from sdpg.devices import device_type
from sdpg.errors import UserError
from sdpg.params import HubModel, Params
from sdpg.planning.fits import check_device, check_gpus, check_memory
from sdpg.planning.plan import planned_params

ROOT = Path(__file__).parents[2]


def anywhere(params: Params) -> Params:
    """The same on whatever device there is: the profiles of Qwen3 ask for a GPU."""
    return params.model_copy(update={"train": params.train.model_copy(update={"device": "auto"})})


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    params = anywhere(planned_params("qwen3-4b"))
    exact = 20 * 4_022_468_096

    def with_memory(total: int) -> None:
        monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": total}))

    with_memory(exact)
    check_memory(params)
    with_memory(exact - 1)
    with pytest.raises(
        UserError, match=r"Qwen3-4B has 4\.02B parameters: .* and reference in float32 take 74\.9 GiB, but"
    ):
        check_memory(params)
    # Without a reference, four fifths of that.
    train = params.train.model_copy(update={"record_rows": 0})
    without = params.model_copy(update={"train": train, "run": params.run.model_copy(update={"methods": ["opcd"]})})
    check_memory(without)
    with_memory(exact * 4 // 5 - 1)
    with pytest.raises(
        UserError, match=r"moments in float32 take 59\.9 GiB, but there is no GPU here, and this machine"
    ):
        check_memory(without)


def test_a_teachers_own_weights_are_named_where_every_method_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    params = anywhere(planned_params("qwen3-4b"))
    method = params.methods["sdpg-ufkl"].model_copy(update={"teacher": "gated"})
    run = params.run.model_copy(update={"methods": ["sdpg-ufkl"]})
    params = params.model_copy(update={"methods": {**params.methods, "sdpg-ufkl": method}, "run": run})
    exact = 24 * 4_022_468_096
    for total, fits in ((exact, True), (exact - 1, False)):
        monkeypatch.setattr("psutil.virtual_memory", lambda total=total: type("Memory", (), {"total": total}))
        if fits:
            check_memory(params)
        else:
            with pytest.raises(
                UserError, match=r"moments, reference and the teacher's weights in float32 take 89\.9 Gi"
            ):
                check_memory(params)
    # A method without would fit.
    run = params.run.model_copy(update={"methods": ["sdpg-ufkl", "grpo"]})
    check_memory(params.model_copy(update={"run": run}))


def test_more_processes_than_gpus_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    params = anywhere(planned_params("qwen3-4b"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_gpus(params)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for found, fits in ((8, True), (7, False)):
        monkeypatch.setattr("torch.cuda.device_count", lambda found=found: found)
        if fits:
            check_gpus(params)
        else:
            with pytest.raises(UserError, match=r"is 8 on each machine .*, but this one has 7 GPUs"):
                check_gpus(params)
    monkeypatch.setattr("sdpg.models.launching.read_yaml", lambda path: {"num_machines": 2})
    check_gpus(params)
    check_gpus(anywhere(planned_params("qwen3-1.7b")))


def test_models_from_scratch_and_unknown_ones_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 1}))
    check_memory(planned_params("tiny-scratch"))
    params = anywhere(planned_params("qwen3-4b"))
    model = HubModel(kind="hub", id="other/model", revision="main")
    check_memory(params.model_copy(update={"base": params.base.model_copy(update={"model": model})}))


@pytest.mark.parametrize(("strategy", "times"), [("ddp", 8), ("fsdp2", 1)])
def test_replicas_without_gpus_lie_side_by_side_in_one_memory(
    monkeypatch: pytest.MonkeyPatch, strategy: str, times: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    params = anywhere(planned_params("qwen3-4b"))
    spread = params.train.distributed.model_copy(update={"strategy": strategy})
    params = params.model_copy(update={"train": params.train.model_copy(update={"distributed": spread})})
    for short in (0, 1):
        total = times * 20 * 4_022_468_096 - short
        monkeypatch.setattr("psutil.virtual_memory", lambda total=total: type("Memory", (), {"total": total}))
        if short:
            with pytest.raises(UserError, match=f"take {times * 74.925:.1f} GiB"):
                check_memory(params)
        else:
            check_memory(params)


def test_a_gpu_that_is_not_there_comes_before_files_that_would_have_to_be_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"^train\.device is cuda, but torch finds no GPU.*cpu or auto \(sdpg rehearse"):
        check_inputs(planned_params("qwen3-4b"))


def test_a_chosen_cpu_stays_the_device_beside_a_gpu_and_vllm_could_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert {choice: device_type(choice) for choice in ("auto", "cpu", "cuda")} == {
        "auto": "cuda", "cpu": "cpu", "cuda": "cuda",
    }  # fmt: skip
    tiny, large = planned_params("tiny"), planned_params("qwen3-4b")
    assert (tiny.train.device, large.train.device) == ("cpu", "cuda")
    check_device(tiny)
    check_device(large)
    on_cpu = large.model_copy(update={"train": large.train.model_copy(update={"device": "cpu"})})
    # Eight processes share the processors, and their memory is what counts.
    check_gpus(on_cpu)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 1 << 30}))
    with pytest.raises(UserError, match=r"but train\.device is cpu, and this machine has 1\.0 GiB"):
        check_memory(on_cpu)
    with pytest.raises(UserError, match=r"^train\.device is cpu, but vLLM in process takes the GPU.*set it to cuda"):
        check_device(on_cpu)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_device(on_cpu)
    assert device_type("auto") == device_type("cpu") == "cpu"
