"""Chooses the kernels of the default profile for all tests, and makes one project that several files go on from."""

from sdpg.records.cpu_kernels import fix_cpu_kernels

# Before any test imports torch: commands that a test runs in this process or another set the same.
fix_cpu_kernels("avx2")

from collections.abc import Iterator  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402

from filelock import FileLock  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _stays_here() -> Iterator[None]:
    """Refuses a file of tests that leaves its process in another working folder, where later files would fail.

    Streamlit makes each page that it runs the main module, which a process that another file starts would then run.
    """
    here, main = os.getcwd(), sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
    left = os.getcwd()
    os.chdir(here)
    assert left == here, f"the tests of this file have left the working folder at {left}"


@pytest.fixture(scope="session")
def _with_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that :func:`with_base` copies; made once, also where several processes run the tests."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "with-base"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            from tests.helpers.micro import make_base

            made = folder.with_name("with-base-in-the-making")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            make_base(made)
            made.rename(folder)
    return folder


@pytest.fixture(scope="module")
def with_base(_with_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree on the micro profile for GRPO and SDPG, up to its base, which DVC has recorded."""
    folder = tmp_path_factory.mktemp("micro") / "project"
    shutil.copytree(_with_base, folder, symlinks=True)
    return folder
