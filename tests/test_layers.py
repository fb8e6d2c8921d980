"""What imports what, and how large things get: the package has layers without cycles, and files stay short."""

from graphlib import TopologicalSorter
from pathlib import Path
import subprocess
import sys

import pytest

from sdpg.records.code import parse_module, read_code

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "sdpg").rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


IMPORTS = read_code(*map(dotted, MODULES)).imports


def unit(path: str) -> str:
    """A package below sdpg, or a module that lies there flat; of sdpg/params/tree.py, params."""
    return path.split("/")[1].removesuffix(".py")


ORDER = (
    "errors", "files", "paths", "sqlite_uri", "locks", "seeds", "colours", "devices", "interruption", "params",
    "records", "rewards", "problems", "objective", "models", "rollouts", "solutions", "evaluation", "training",
    "results", "replication", "planning", "tuning", "reproduction", "commands",
)  # fmt: skip
"""The order of the data, as docs/architecture.md shows it."""


def test_packages_import_only_those_above_them() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    listed = [line.split()[0] for line in page.splitlines() if line.strip()]
    assert [name for name in listed if name.rstrip("/") in ORDER] == [
        f"{name}/" for name in ORDER[ORDER.index("params") :]
    ]
    for path, imported in IMPORTS.items():
        for target in imported - {path}:
            assert unit(target) == "__init__" or ORDER.index(unit(target)) <= ORDER.index(unit(path)), (path, target)


def test_packages_have_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for path, imported in IMPORTS.items():
        graph.setdefault(unit(path), set()).update(unit(target) for target in imported)
    # The package itself imports nothing, and every module has it as its parent.
    assert graph.pop("__init__") == set()
    graph = {name: needed - {name, "__init__"} for name, needed in graph.items()}
    assert "training" in graph["tuning"] and "params" in graph["objective"]
    TopologicalSorter(graph).prepare()


def test_the_package_imports_neither_pipelines_nor_app() -> None:
    assert set(IMPORTS) == {path.relative_to(ROOT).as_posix() for path in MODULES}


@pytest.mark.parametrize("name", ["losses", "advantages", "schedules", "divergences", "responses"])
def test_losses_import_only_torch(name: str) -> None:
    module = parse_module((ROOT / "sdpg" / "objective" / f"{name}.py").read_bytes(), name)
    assert {imported.split(".")[0] for _, imported in module.imports} <= {*sys.stdlib_module_names, "torch"}


@pytest.mark.parametrize("name", ["objective.coefficients", "objective.gates", "records.run_inputs", "params.imported"])
def test_what_others_ask_needs_no_torch(name: str) -> None:
    command = f"import sys, sdpg.{name}; assert not {{'torch', 'transformers'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True)


def test_files_and_folders_stay_short() -> None:
    for folder in {path.parent for path in MODULES}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 14, folder
    for name in ("sdpg", "pipelines", "app", "benchmarks", "tests"):
        for path in (ROOT / name).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
