"""Tests that what blocks a project is named and set aside, and that all else stays as it is."""

from contextlib import closing
from importlib import metadata
import os
from pathlib import Path
import platform
import sqlite3
import subprocess
import sys

import pytest

from pipelines import doctor, installed
from sdpg.locks import exclusive
from sdpg.params import Params, load_params
from sdpg.training.saved_files import note_files, run_files, write_state

ROOT = Path(__file__).parents[2]
STATE = Path(".state/0123456789abcdef")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a run in progress and nothing wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDPG_TUNE_STORAGE", raising=False)
    (STATE / "checkpoint-000003").mkdir(parents=True)
    (STATE / "checkpoint-000003" / "state.json").write_text('{"step": 3, "param_groups": []}')
    (STATE / "config.yaml").write_text("run: grpo-0\nfingerprint: 0123456789abcdef\n")
    (STATE / "metrics.csv").write_text("step,reward\n1,0.5\n2,0.5\n3,0.")
    return tmp_path


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def everything(project: Path) -> dict[str, bytes]:
    files = [path for path in project.rglob("*") if path.is_file() and ".lock" not in path.name]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in files}


def gone() -> int:
    """The number of a process that has ended."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(ended.stdout)


def test_a_healthy_project_is_left_alone(project: Path, params: Params) -> None:
    before = everything(project)
    assert list(doctor.examine(params)) == []
    assert everything(project) == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.csv", b"", "metrics.csv is damaged"),
        ("metrics.csv", b"\xff\xfe\x00", "metrics.csv is damaged"),
        ("metrics.csv", b"step,reward\n1,0.5\nx,0.5\n", "metrics.csv is damaged"),
        ("config.yaml", b"run: [", "config.yaml cannot be read"),
        ("config.yaml", b"", "config.yaml says nothing"),
        ("checkpoint-000003/state.json", b'{"step"', "checkpoint-000003 is damaged"),
        ("checkpoint-000003/model-00000.safetensors", b"\0" * 30, "checkpoint-000003 is damaged"),
    ],
)
def test_work_that_cannot_be_resumed_is_set_aside_whole(
    project: Path, params: Params, name: str, content: bytes, said: str
) -> None:
    (STATE / name).write_bytes(content)
    before = sorted(everything(project).values())
    with exclusive(STATE):
        assert list(doctor.examine(params)) == [], "it is in use, and stays"
    (line,) = doctor.examine(params)
    assert said in line and str(STATE) in line
    assert not STATE.exists() and sorted(everything(project).values()) == before, "nothing is lost"
    assert list(doctor.examine(params)) == []


def test_a_table_that_is_not_what_the_checkpoint_was_saved_with_is_set_aside(params: Params) -> None:
    files = note_files(STATE, run_files(STATE, 3), {})
    values = {"step": 3, "param_groups": [], "tensors": {}, "files": files, "times": None}
    write_state(STATE / "checkpoint-000003", values)
    assert list(doctor.examine(params)) == []
    (STATE / "metrics.csv").write_text("step,reward\n1,0.5\n2,0.7\n3,0.")
    (line,) = doctor.examine(params)
    assert f"{STATE}/metrics.csv is missing or damaged" in line and not STATE.exists()


@pytest.mark.parametrize("damage", ["empty", "text", "half made", "truncated"])
def test_a_damaged_database_of_studies_is_set_aside(project: Path, params: Params, damage: str) -> None:
    file = project / "tune.db"
    if damage == "half made":
        with closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE studies (x)")
    elif damage == "truncated":
        with closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE studies (x)")
            database.executemany("INSERT INTO studies VALUES (?)", [("y" * 5000,)] * 20)
            database.commit()
        os.truncate(file, 30_000)
    else:
        file.write_text("" if damage == "empty" else "no database " * 500)
    before = file.read_bytes()
    (line,) = doctor.examine(params)
    assert "tune.db.damaged-1" in line and (project / "tune.db.damaged-1").read_bytes() == before
    assert not file.exists() and list(doctor.examine(params)) == []


def test_a_whole_database_of_studies_stays(project: Path, params: Params) -> None:
    from optuna.storages import RDBStorage

    RDBStorage("sqlite:///tune.db")
    assert list(doctor.examine(params)) == [] and (project / "tune.db").is_file()


def test_remains_go_and_an_output_that_stepped_aside_comes_back(project: Path, params: Params) -> None:
    pid = gone()
    written = f"""
        runs/.grpo-0.partial-{pid}/x  models/.base.outgoing-{pid}/weights  reports/.a.md.partial-{pid}
        runs/.rlsd-0.outgoing-{pid}/old  runs/rlsd-0/new  runs/.kept.partial-{os.getpid()}/x  reports/.mine"""
    for name in written.split():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (project / "precious").mkdir()
    (project / f"runs/.link.partial-{pid}").symlink_to(project / "precious")
    said = list(doctor.examine(params))
    assert len(said) == 4 and sum("again" in line for line in said) == 1
    left = {name for name in everything(project) if not name.startswith(".state")}
    assert left == {"models/base/weights", "runs/rlsd-0/new", f"runs/.kept.partial-{os.getpid()}/x", "reports/.mine"}
    assert (project / "precious").is_dir()


def test_what_is_in_use_is_named(project: Path, params: Params) -> None:
    program = "from sdpg.locks import exclusive\nwith exclusive('runs/grpo-0'): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as owner:  # fmt: skip
        assert owner.stdout is not None and owner.stdout.readline()
        (line,) = doctor.examine(params)
        assert line.startswith("in use, left alone: runs/grpo-0: process ") and str(owner.pid) in line
        owner.communicate("\n")


@pytest.mark.parametrize("damaged", ["events.jsonl", "delivered.json"])
def test_events_that_wait_are_named_and_unreadable_ones_set_aside(project: Path, params: Params, damaged: str) -> None:
    from sdpg.records.delivery import waiting
    from sdpg.records.event_queue import EventQueue

    queue = EventQueue("train-x")
    for step in range(3):
        queue.append({"kind": "step", "step": step})
    queue.close()
    (line,) = doctor.examine(params)
    assert "3 events wait for MLflow; sdpg deliver" in line
    (queue.start if damaged == "events.jsonl" else queue.folder).joinpath(damaged).write_bytes(b'{"kind": \xff\n[\n')
    assert waiting(queue.folder) == 1, "no stage ends in a traceback for it"
    (line,) = doctor.examine(params)
    assert "train-x.damaged-1" in line and not queue.folder.exists()
    assert list(doctor.examine(params)) == []


def test_what_is_installed_is_said_with_what_to_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("[core]\n    remote = disk\n['remote \"disk\"']\n    url = /r\n")
    (project / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (project / "tests").mkdir()
    monkeypatch.setenv("PATH", str(project))
    lines = {line.name: line for line in installed.look_around(load_params())}
    assert [*lines] == ["Python", "sdpg", "torch", "GPU", "vLLM", "browser", "git", "DVC", "MLflow", "disk", "lock"]
    assert platform.python_version() in lines["Python"].found and str(ROOT / "docs") in lines["sdpg"].found
    assert metadata.version("torch") in lines["torch"].found
    assert lines["GPU"].found.startswith("no NVIDIA GPU") and not lines["GPU"].remedy
    assert lines["browser"].remedy == "make browser" and "install it" in lines["git"].remedy
    assert "remote disk" in lines["DVC"].found and "mlflow.db (made by the first run)" in lines["MLflow"].found
    assert str(lines["git"]).startswith("! git ") and str(lines["disk"]).startswith("  disk ")


def test_a_gpu_asks_for_a_torch_that_can_use_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = project / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB'\necho 'NVIDIA H100 80GB HBM3, 81559 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{project}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(installed, "installed_versions", lambda: {"torch": "2.13.0+cpu"})
    lines = {line.name: line for line in installed.look_around(None)}
    assert lines["GPU"].found.count("H100") == 2 and "built for CPUs alone" in lines["GPU"].remedy
    monkeypatch.setattr(installed, "installed_versions", lambda: {"torch": "2.13.0+cu130"})
    lines = {line.name: line for line in installed.look_around(None)}
    assert not lines["GPU"].remedy and "sdpg gpu-check" in lines["GPU"].found
    assert "sdpg[workbench]" in lines["DVC"].remedy and "sdpg[workbench]" in lines["MLflow"].remedy


def test_the_environment_is_compared_with_the_lock(project: Path) -> None:
    lock = project / "requirements.lock"
    lock.write_text(
        "# Made\nnumpy==2.1 \\\n    --hash=sha256:0\nruamel-yaml==0.18 \\\n    --hash=sha256:1\ntorch==2.13.0\n"
    )
    same = {"numpy": "2.1", "ruamel-yaml": "0.18", "torch": "2.13.0+cpu", "other": "1"}
    assert installed.lock_line(same, lock, whole=True) == installed.Line(
        "lock", "all 3 packages are as in requirements.lock"
    )
    other = installed.lock_line({"numpy": "2.2", "torch": "2.13.0"}, lock, whole=True)
    assert "2 of 3 packages differ: numpy 2.2 (lock: 2.1), ruamel-yaml missing (lock: 0.18)" in other.found
    # Without tests and linters, an installation need not have all of them.
    assert (
        "1 of 2 packages differ: numpy" in installed.lock_line({"numpy": "2.2", "torch": "2.13.0"}, lock, False).found
    )


def test_doctor_outside_a_project_looks_at_the_machine_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["doctor"])
    doctor.main()
    said = capsys.readouterr().out
    assert said.startswith("  Python ") and said.endswith("There is no project here: sdpg new my-project makes one.\n")
    assert STATE.is_dir()
