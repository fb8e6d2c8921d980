"""Tests the launch of several processes by one command: what is refused before any work, and a real run with a kill."""

from datetime import timedelta
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from accelerate import FullyShardedDataParallelPlugin
import pytest
from ruamel.yaml import YAML

from sdpg.errors import UserError
from sdpg.models import distribution, launching
from sdpg.models.distribution import check_sharded, joined
from sdpg.models.launching import check_launch, launch
from sdpg.params import load_params, parse_params, read_yaml
from sdpg.params.train import DistributedParams
from sdpg.records.schemas import read_rollouts
from tests.helpers.tiny import tiny_model
from tests.helpers.two_ranks import plugin

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's folder, and no launcher around this process."""
    monkeypatch.chdir(ROOT)
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)


# --- params.yaml


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"prompts_per_step": 16, "distributed": {"processes": 3, "strategy": "ddp"}}, "which does not divide"),
        ({"distributed": {"processes": 2, "strategy": "none"}}, "use ddp or fsdp2"),
        ({"distributed": {"processes": 2, "strategy": "fsdp"}}, "train.distributed.strategy"),
    ],
)
def test_numbers_of_processes_that_cannot_be_are_refused(train: dict[str, Any], words: str) -> None:
    tree = read_yaml(ROOT / "params.yaml")
    tree["train"] |= train
    with pytest.raises(UserError, match=words):
        parse_params(tree)


def test_the_default_is_one_process_in_the_same_code() -> None:
    assert load_params(ROOT / "params.yaml").train.distributed == DistributedParams()


# --- accelerate's configuration


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_the_configurations_given_are_accepted(strategy: Any) -> None:
    check_launch(DistributedParams(processes=2, strategy=strategy))


def config(folder: Path, changes: dict[str, Any], strategy: str = "fsdp2") -> str:
    tree = read_yaml(ROOT / f"configs/accelerate/{strategy}.yaml")
    for key, value in changes.items():
        (tree["fsdp_config"] if key.startswith("fsdp_") else tree)[key] = value
    path = folder / "accelerate.yaml"
    with path.open("w") as file:
        YAML().dump(tree, file)
    return str(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fsdp_version": 1}, r"fsdp_config.fsdp_version is 1, but must be 2"),
        ({"fsdp_reshard_after_forward": False}, r"fsdp_reshard_after_forward is False, but must be true"),
        ({"fsdp_auto_wrap_policy": "NO_WRAP"}, r"must be TRANSFORMER_BASED_WRAP"),
        ({"fsdp_activation_checkpointing": True}, r"train.activation_checkpointing decides"),
        ({"fsdp_offload_params": True}, r"set it to false"),
        ({"mixed_precision": "bf16"}, r"train.dtype decides"),
        ({"distributed_type": "MULTI_GPU"}, r"distributed_type is MULTI_GPU.*strategy is fsdp2"),
    ],
)
def test_a_configuration_that_gives_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check_launch(DistributedParams(processes=2, strategy="fsdp2", config=config(tmp_path, changes)))


def test_a_sharding_configuration_is_no_configuration_of_replicas(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distributed_type is FSDP, but train.distributed.strategy is ddp"):
        check_launch(DistributedParams(processes=2, strategy="ddp", config=config(tmp_path, {})))


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.yaml does not exist: put accelerate's configuration there"):
        check_launch(DistributedParams(processes=2, strategy="fsdp2", config=str(tmp_path / "none.yaml")))


def test_the_tests_shard_as_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's launcher hands the configuration on by these variables."""
    for key, value in read_yaml(ROOT / "configs/accelerate/fsdp2.yaml")["fsdp_config"].items():
        monkeypatch.setenv(key.upper(), str(value))
    ours = FullyShardedDataParallelPlugin()
    for name in ("fsdp_version", "auto_wrap_policy", "reshard_after_forward", "activation_checkpointing"):
        assert getattr(ours, name) == getattr(plugin(), name), name
    assert "transformer" in str(ours.auto_wrap_policy) and ours.reshard_after_forward is True


# --- launching


def test_a_launch_replaces_the_process_by_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(launching.os, "execv", lambda path, command: commands.append(command))
    launch(DistributedParams(processes=4, strategy="fsdp2"), "pipelines.train", ["grpo", "0"])
    text = " ".join(commands[0])
    assert (
        "-m sdpg.models.launching --config_file configs/accelerate/fsdp2.yaml --num_processes 4 --machine_rank 0"
        in text
    )
    assert text.endswith("--module pipelines.train grpo 0")
    launch(DistributedParams(), "pipelines.train", ["grpo", "0"])
    monkeypatch.setenv("LOCAL_RANK", "0")
    launch(DistributedParams(processes=4, strategy="fsdp2"), "pipelines.train", ["grpo", "0"])
    assert len(commands) == 1


def test_processes_that_would_each_train_the_whole_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes were launched, but train.distributed.strategy is none"):
        launch(DistributedParams(), "pipelines.train", [])


@pytest.mark.parametrize(
    ("params", "sharding", "words"),
    [
        (
            {"processes": 2, "strategy": "ddp"},
            "false",
            "processes is 2, but 1 were launched: start the stage by dvc",
        ),
        ({"processes": 1, "strategy": "fsdp2"}, "false", "strategy is fsdp2, but accelerate was launched without FSDP"),
        ({"processes": 1, "strategy": "ddp"}, "true", "strategy is ddp, but accelerate was launched with FSDP"),
    ],
)
def test_a_strategy_that_was_not_given_is_refused(
    params: dict[str, Any], sharding: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "_die_with", lambda parent: None)
    monkeypatch.setattr(distribution, "PartialState", lambda **options: None)
    monkeypatch.setattr(distribution.distributed, "get_world_size", lambda: 1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", sharding)
    with pytest.raises(UserError, match=words), joined(DistributedParams(**params)):
        pass


@pytest.mark.parametrize(("device", "default"), [("cuda", distribution.NCCL_WAIT), ("cpu", distribution.WAIT)])
def test_collectives_of_gpus_have_a_shorter_time_out_than_exchanges_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, device: str, default: timedelta
) -> None:
    found: dict[str, Any] = {}
    monkeypatch.setattr(distribution, "_die_with", lambda parent: None)
    monkeypatch.setattr(distribution, "device_type", lambda choice: choice)
    monkeypatch.setattr(distribution.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distribution, "PartialState", lambda **options: found.update(options))
    monkeypatch.setattr(distribution.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(distribution.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distribution.distributed, "new_group", lambda **options: options)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    with joined(DistributedParams(processes=1, strategy="ddp"), device) as ranks:
        assert ranks.group == {"backend": "gloo", "timeout": distribution.WAIT}
    assert found == {"cpu": device == "cpu", "timeout": default}
    assert distribution.NCCL_WAIT < distribution.WAIT


def test_a_model_that_was_not_sharded_is_refused() -> None:
    with pytest.raises(UserError, match=r"strategy is fsdp2, but model.embed_tokens.weight is not sharded over the 2"):
        check_sharded(tiny_model(), 2)


# --- the real command


ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE", "FSDP"))},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": "",
}
TRAIN = ["python", "-m", "pipelines.train", "sdpg-ufkl", "0"]
STEPS = 16


def stage(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["python", "-m", *command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def project(with_base: Path) -> Path:
    """The micro profile up to its base, with a longer training."""
    path = with_base / "params.yaml"
    tree = YAML().load(path)
    # Time enough for a signal between the first checkpoint and the last.
    tree["train"]["steps"] = STEPS
    with path.open("w") as file:
        YAML().dump(tree, file)
    return with_base


def distribute(folder: Path, **values: Any) -> None:
    path = folder / "params.yaml"
    tree = YAML().load(path)
    tree["train"]["distributed"] |= values
    with path.open("w") as file:
        YAML().dump(tree, file)


def processes_of(folder: Path) -> list[int]:
    """Those that run in the project's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def started(project: Path) -> subprocess.Popen[bytes]:
    """A launched run that has written a checkpoint which was not there before."""
    before = set(project.glob(".state/*/checkpoint-*"))
    with (project / "first.log").open("w") as log:
        first = subprocess.Popen(TRAIN, cwd=project, env=ENVIRONMENT, stdout=log, stderr=log)
    deadline = time.monotonic() + 240
    while not set(project.glob(".state/*/checkpoint-*")) - before:
        assert time.monotonic() < deadline and first.poll() is None, (project / "first.log").read_text()[-3000:]
        time.sleep(0.05)
    return first


def nothing_left(project: Path) -> None:
    deadline = time.monotonic() + 120
    while processes_of(project):
        assert time.monotonic() < deadline, "processes of the run outlive their launcher"
        time.sleep(0.5)


@pytest.mark.slow
def test_a_launched_run_survives_each_way_to_end_it(project: Path) -> None:
    distribute(project, processes=2, strategy="fsdp2")
    # One rank dies: the launcher ends the other, and says which it was.
    first = started(project)
    [rank_1] = [number for number in processes_of(project) if b"\0RANK=1\0" in environment_of(number)]
    os.kill(rank_1, signal.SIGKILL)
    assert first.wait(240) == 2
    said = (project / "first.log").read_text()
    assert f"error: rank 1 (process {rank_1}) was killed by SIGKILL (often the kernel, when memory is short" in said
    assert said.rstrip().endswith("run the same command again, and it goes on from there")
    nothing_left(project)
    # A scheduler takes the machine away.
    first = started(project)
    first.terminate()
    assert first.wait(240) == 75, (project / "first.log").read_text()[-3000:]
    said = (project / "first.log").read_text()
    assert "steps done, which are kept: run the same command again" in said and "Traceback" not in said
    nothing_left(project)
    # The launcher alone dies: its processes must notice and end.
    first = started(project)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    nothing_left(project)
    # The same command ends the run.
    again = stage(project, *TRAIN[2:])
    assert again.returncode == 0, again.stderr[-3000:]
    folder = project / "runs/sdpg-ufkl-0"
    assert (folder / "COMPLETE").is_file() and again.stdout.count("holds metrics.csv") == 1
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", *map(str, range(1, STEPS + 1))]
    assert len(read_rollouts(folder / "rollouts/step-000004-rank-0.parquet")) == 8
    assert (folder / "policy/model.safetensors").is_file()
    architecture = YAML(typ="safe").load((folder / "policy/config.json").read_text())["architectures"]
    assert architecture == ["Qwen3ForCausalLM"]
    config = YAML(typ="safe").load((folder / "config.yaml").read_text())
    assert (config["params"]["train"]["device"], config["hardware"]["device"]) == ("cpu", "cpu")


def environment_of(number: int) -> bytes:
    try:
        return b"\0" + Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_a_strategy_that_does_not_fit_stops_the_command_with_one_message(project: Path) -> None:
    distribute(project, processes=2, strategy="fsdp2", config="configs/accelerate/ddp.yaml")
    stopped = stage(project, "pipelines.train", "sdpg-ufkl", "0")
    distribute(project, config=None)
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("error: configs/accelerate/ddp.yaml: distributed_type is MULTI_GPU")
