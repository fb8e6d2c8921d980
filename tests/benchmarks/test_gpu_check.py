"""The GPU check on a CPU: its parts at toy sizes, and what its runner makes of parts that fail, hang or die."""

import json
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest
import torch

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import large, methods, runner, shards
from benchmarks.gpu_check.checks import FAILED, MISSED, OK, SKIPPED, Answer, Row, Run
from benchmarks.gpu_check.runner import Part, Report, run_parts
from sdpg.errors import UserError
from sdpg.params import load_params

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def report_of(parts: list[Part], out: Path) -> Report:
    states = {part.number: {"title": part.title, "state": "waiting", "seconds": None} for part in parts}
    return Report(out, {"machine": {}}, states)


def run_made(tmp_path: Path, numbers: list[int], minutes: float = 5.0, seconds: float = 1.0) -> tuple[Report, Any]:
    """Runs parts of tests.helpers.gpu_parts; the report, and what its file holds."""
    parts = [Part(number, f"part {number}", "tests.helpers.gpu_parts", seconds) for number in numbers]
    report = report_of(parts, tmp_path / "out.json")
    run_parts(parts, "cpu", True, minutes, report, lambda row: None)
    return report, json.loads(report.out.read_text())


def in_process(module: Any) -> list[Row]:
    """The rows of one part at toy size."""
    rows: list[Row] = []
    module.check(Run(0, CPU, True, time.monotonic() + 600, rows.append))
    return rows


# --- the runner


def test_a_part_that_fails_leaves_the_others_their_turn(tmp_path: Path) -> None:
    report, body = run_made(tmp_path, [2, 5, 1])
    states = [(row["part"], row["check"], row["state"]) for row in body["rows"]]
    assert states == [
        (2, "wrong", FAILED), (2, "error", FAILED), (2, "missed goal", MISSED), (2, "skipped", SKIPPED),
        (2, "not finite", "measured"), (5, "the part as a whole", FAILED), (1, "sum", OK),
    ]  # fmt: skip
    error = body["rows"][1]
    assert error["found"].startswith("ZeroDivisionError: integer division or modulo by zero (tests/helpers/gpu_parts")
    assert "Traceback" in error["values"]["traceback"]
    assert body["rows"][4]["values"] == {"numbers": ["nan", 1.0]}
    assert "no such function" in body["rows"][5]["found"]
    assert body["failed"] == report.failed == 3
    assert body["machine"]["torch"] == torch.__version__


def test_a_process_that_dies_costs_its_own_part_alone(tmp_path: Path) -> None:
    _, body = run_made(tmp_path, [3, 6, 1])
    assert [(row["part"], row["state"]) for row in body["rows"]] == [(3, "measured"), (3, FAILED), (1, OK)]
    assert body["rows"][1]["found"] == "its process ended with status 7"
    assert {number: part["state"] for number, part in body["parts"].items()} == {
        "3": FAILED, "6": "the GPU was lost", "1": "done",
    }  # fmt: skip


def test_a_part_that_hangs_is_stopped_when_the_time_is_up_and_the_rest_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.5)
    _, body = run_made(tmp_path, [4, 1], minutes=0.25)
    assert [(row["part"], row["state"]) for row in body["rows"]] == [(4, "measured"), (4, FAILED), (1, SKIPPED)]
    assert "it was stopped after" in body["rows"][1]["found"]
    assert "left" in body["rows"][2]["found"]


def test_what_does_not_fit_the_time_is_skipped_with_the_reason() -> None:
    rows: list[Row] = []
    run = Run(1, CPU, False, time.monotonic() + 5, rows.append)
    assert run.check("long", "", lambda: Answer("done", True), seconds=20) is None
    assert run.check("short", "", lambda: Answer("done", True), seconds=1) is not None
    assert [(row.state, row.found) for row in rows] == [
        (SKIPPED, "it takes about 20 s, and 5 s are left"), (OK, "done"),
    ]  # fmt: skip


# --- the command


def gpu_check(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_check", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so() -> None:
    process = gpu_check()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert errors.startswith("error: there is no GPU here")


def test_killed_it_leaves_the_rows_of_finished_parts_in_its_file(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    process = gpu_check("--device", "cpu", "--size", "toy", "--parts", "1,2", "--out", str(out))
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        if out.exists() and json.loads(out.read_text())["parts"]["1"]["state"] == "done":
            break
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    # The pipes close when nothing of the check runs any more.
    process.communicate(timeout=60)
    psutil.wait_procs(family, timeout=60)
    assert not any(member.is_running() for member in family)
    body = json.loads(out.read_text())
    assert body["finished"] is False
    assert len([row for row in body["rows"] if row["part"] == 1]) == 4
    assert body["parts"]["2"]["state"] != "done"


@pytest.mark.parametrize(("failing", "status"), [(False, 0), (True, 1)])
def test_the_status_says_whether_all_checks_held(
    failing: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [Part(number, "made", "tests.helpers.gpu_parts", 1) for number in ([2, 1] if failing else [1])]
    monkeypatch.setattr(command, "PARTS", parts)
    with pytest.raises(SystemExit) as exit:
        command.main(["--device", "cpu", "--size", "toy", "--out", str(tmp_path / "out.json")])
    assert exit.value.code == status
    assert json.loads((tmp_path / "out.json").read_text())["finished"] is True


def test_parts_are_chosen_by_number() -> None:
    assert [part.number for part in command.chosen("3, 1")] == [1, 3]
    assert len(command.chosen("")) == 9
    with pytest.raises(UserError, match="--parts has '10'; there are the parts 1 to 9"):
        command.chosen("1,10")


def test_full_sizes_are_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match="toy"):
        command.main(["--device", "cpu"])


# --- the parts at toy sizes


def test_every_part_gives_rows_on_a_cpu_and_none_fails(tmp_path: Path) -> None:
    """All in one go, as importing the trainer takes longer than most of them; 2 and 7 have tests of their own."""
    parts = command.chosen("1,3,4,5,6,8,9")
    report = report_of(parts, tmp_path / "out.json")
    run_parts(parts, "cpu", True, 10, report, lambda row: None)
    assert {part["state"] for part in report.parts.values()} == {"done"}
    assert [row for row in report.rows if row.state == FAILED] == []
    held = {row.part for row in report.rows if row.state in (OK, "measured")}
    assert held >= {1, 3, 4, 5, 6, 8}


def test_every_method_of_params_is_checked_and_holds() -> None:
    assert set(methods.METHODS) <= set(load_params(ROOT / "params.yaml").methods)
    rows = in_process(methods)
    assert {row.check.split(",")[0] for row in rows} == set(methods.METHODS)
    assert [row for row in rows if row.state != OK] == []
    losses = [tuple(row.values["losses"]) for row in rows if "float32" in row.check]
    assert len(set(losses)) == len(methods.METHODS)


def test_other_gradients_than_the_cpus_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = methods._updates

    def off(device: torch.device, *arguments: Any) -> dict[str, Any]:
        found = updates(device, *arguments)
        off.calls += 1
        if off.calls % 2:
            found["gradients"][-1] = found["gradients"][-1] * 1.001
        return found

    off.calls = 0
    monkeypatch.setattr(methods, "_updates", off)
    run = Run(0, CPU, True, time.monotonic() + 600, lambda row: None)
    answer = methods.two_updates(run, "sdpg-ufkl", "paper", "float32")
    assert answer.state == FAILED
    assert answer.values["difference"] == pytest.approx(1e-3, rel=1e-6)


def test_another_peak_than_the_plans_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = large.Case.plan

    def smaller(case: large.Case, run: Run) -> Any:
        found = plan(case, run)
        found.stays["optimiser (two moments)"] = 0
        return found

    monkeypatch.setattr(large.Case, "plan", smaller)
    rows = [row for row in in_process(large) if row.check == "all weights, plain lines"]
    assert [row.state for row in rows] == [FAILED]


def test_a_checkpoint_that_loses_the_moments_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu_check import steps

    whole = steps.save_checkpoint

    def without_moments(folder: Path, step: int, model: Any, optimizer: torch.optim.Optimizer, ranks: Any) -> None:
        whole(folder, step, model, torch.optim.AdamW(list(model.parameters())), ranks)

    monkeypatch.setattr(shards, "save_checkpoint", without_moments)
    states = {row.check: row.state for row in in_process(shards)}
    assert states == {
        "process group": OK, "two steps, float32": OK, "two steps, bfloat16": OK, "checkpoint": FAILED,
    }  # fmt: skip


@pytest.mark.slow
def test_the_pipeline_is_killed_and_resumed(tmp_path: Path) -> None:
    parts = command.chosen("7")
    report = report_of(parts, tmp_path / "out.json")
    run_parts(parts, "cpu", True, 10, report, lambda row: None)
    assert [(row.check, row.state) for row in report.rows] == [
        ("prepare", OK), ("base", OK), ("train, killed", OK), ("train, resumed", OK),
    ]  # fmt: skip
