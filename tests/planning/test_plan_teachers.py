"""Tests that the planner counts the weights of a teacher of its own, and its passes."""

import pytest

from sdpg.params.lora import LoraParams
from sdpg.planning.adapter import Adapter
from sdpg.planning.memory import Layout
from sdpg.planning.plan import memory_of, planned_params
from sdpg.planning.shapes import KNOWN
from sdpg.planning.work import Assumptions, count_completions, method_work, plan_disk


@pytest.mark.parametrize("adapted", [False, True])
def test_a_teachers_own_weights_are_counted_in_memory_and_on_disk(adapted: bool) -> None:
    params, shape = planned_params("qwen3-4b"), KNOWN["Qwen/Qwen3-4B"]
    lora = LoraParams(rank=32, alpha=32) if adapted else None
    method = params.methods["sdpg-ufkl"].model_copy(update={"teacher": "ema"})
    plain = params.model_copy(update={"train": params.train.model_copy(update={"lora": lora, "record_rows": 0})})
    kept = plain.model_copy(update={"methods": {**params.methods, "sdpg-ufkl": method}})
    count = Adapter(32).parameters(shape) if adapted else shape.parameters
    for layout, share in ((Layout(), 1), (Layout(8, "ddp"), 1), (Layout(8, "fsdp2"), 8)):
        stays = [memory_of(shape, one, layout).stays for one in (plain, kept)]
        assert sum(stays[1].values()) - sum(stays[0].values()) == 4 * count // share
        assert stays[1]["the teacher's own weights"] == 4 * count // share
    assumed = Assumptions()
    # Two seeds of each of five methods, of which one keeps a teacher; and the largest once more while it is written.
    run = params.run.model_copy(update={"seeds": [0, 1]})
    disks = [
        plan_disk(shape, one.model_copy(update={"run": run}), count_completions(params), 10, assumed).checkpoints
        for one in (plain, kept)
    ]
    assert disks == [11 * 12 * count, 11 * 12 * count + (2 + 1) * 4 * count]
    # Whichever the teacher is, its pass has the same size; with an adapter, all but the reference have it on.
    work = {
        teacher: method_work(shape, plain, method.model_copy(update={"teacher": teacher}), assumed, 1000).teacher
        for teacher in ("current", "reference", "ema", "snapshot", "gated")
    }
    assert work["ema"] == work["snapshot"] == work["gated"] == work["current"]
    assert (work["reference"] < work["current"]) == adapted
