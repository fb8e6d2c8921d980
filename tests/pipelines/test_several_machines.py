"""Tests a run on two machines, which are two commands here: machine 0's is the stage of DVC, and DVC has the run."""

import json
from pathlib import Path
import socket
import subprocess
from typing import Any

import pytest
from ruamel.yaml import YAML

from sdpg.errors import UserError
from sdpg.models import launching
from sdpg.models.launching import check_launch, launch
from sdpg.params import read_yaml
from sdpg.params.train import DistributedParams
from tests.helpers.clones import ENVIRONMENT, ROOT, run


def configuration(folder: Path, **values: Any) -> Path:
    tree = read_yaml(ROOT / "configs/accelerate/ddp.yaml") | values
    path = folder / "two-machines.yaml"
    with path.open("w") as file:
        YAML().dump(tree, file)
    return path


TWO = {"num_machines": 2, "main_process_ip": "127.0.0.1", "main_process_port": 1}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (TWO | {"num_machines": 3}, r"num_machines is 3, which does not divide train.distributed.processes \(4\)"),
        (TWO | {"main_process_ip": None}, "main_process_ip or main_process_port is missing: name machine 0"),
        (TWO | {"main_process_port": 0}, "main_process_ip or main_process_port is missing"),
    ],
)
def test_machines_that_could_not_meet_are_refused(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    config = configuration(tmp_path, **values)
    with pytest.raises(UserError, match=words):
        check_launch(DistributedParams(processes=4, strategy="ddp", config=str(config)))


def test_each_machine_launches_its_share_under_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    commands: list[list[str]] = []
    monkeypatch.setattr(launching.os, "execv", lambda path, command: commands.append(command))
    params = DistributedParams(processes=4, strategy="ddp", config=str(configuration(tmp_path, **TWO)))
    for machine in (0, 1):
        launch(params, "pipelines.train", ["grpo", "0"], machine)
    assert [" --machine_rank 0 " in " ".join(command) for command in commands] == [True, False]
    assert " --num_processes 4 --machine_rank 1 --mixed_precision no --module pipelines.train grpo 0" in " ".join(
        commands[1]
    )
    for wrong in (2, -1):
        with pytest.raises(UserError, match=f"--machine-rank is {wrong}, but the run is on 2 machines"):
            launch(params, "pipelines.train", ["grpo", "0"], wrong)
    with pytest.raises(UserError, match="--machine-rank is 1, but the run is on 1 machine: "):
        launch(DistributedParams(), "pipelines.train", ["grpo", "0"], 1)


@pytest.mark.slow
def test_the_run_of_two_machines_is_a_stage_that_dvc_has(with_base: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = configuration(with_base, **(TWO | {"main_process_port": port}))
    path = with_base / "params.yaml"
    tree = YAML().load(path)
    tree["train"]["distributed"] |= {"processes": 2, "strategy": "ddp", "config": config.name}
    tree["train"]["steps"] = 2
    with path.open("w") as file:
        YAML().dump(tree, file)
    other = subprocess.Popen(
        ["python", "-m", "pipelines.train", "grpo", "0", "--machine-rank", "1"],
        cwd=with_base, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        said = run(with_base, "dvc", "repro", "train@grpo-0").stdout
        assert other.communicate(timeout=240)[0] is not None and other.returncode == 0
    finally:
        other.kill()
    assert "Running stage 'train@grpo-0'" in said
    assert json.loads((with_base / "runs/grpo-0/summary.json").read_text())["steps"] == 2
    # The stage's outputs are in the cache and in dvc.lock: nothing is left to commit, and nothing runs again.
    assert "Running stage 'train" not in run(with_base, "dvc", "repro", "train@grpo-0").stdout
    assert "runs/grpo-0/policy" in (with_base / "dvc.lock").read_text()
