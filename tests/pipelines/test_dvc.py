"""dvc.yaml lists what each stage really reads."""

import ast
from pathlib import Path

import pytest

from sdpg.params import Params, load_params, read_yaml
from sdpg.training.run import train_sections

ROOT = Path(__file__).parents[2]
STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]


def imported(path: Path) -> set[Path]:
    """The project's modules that a module imports, its packages included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = ROOT.joinpath(*name.split("."))
            found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return {file for file in found if file.is_relative_to(ROOT / "sdpg") or file.is_relative_to(ROOT / "pipelines")}


def closure(path: Path) -> set[str]:
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting += [*imported(module), *(f for f in [module.parent / "__init__.py"] if f.is_file())]
    return {str(module.relative_to(ROOT)) for module in seen}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "check"])
def test_a_stage_depends_on_the_modules_that_it_imports(stage: str) -> None:
    listed = {path for path in STAGES[stage]["deps"] if path.endswith(".py")}
    assert listed == closure(ROOT / "pipelines" / f"{stage}.py")


def test_training_depends_on_the_parameters_in_its_fingerprint() -> None:
    sections = train_sections(load_params(ROOT / "params.yaml"), "sdpg-ufkl")
    expected = {"methods.${item.method}", "data.benchmarks", "rollout", "reward", "train", "watch"}
    expected |= {f"evaluation.{key}" for key in sections["evaluation"]}
    assert set(STAGES["train"]["params"]) == expected
    assert set(sections) == {"method", "data", "rollout", "reward", "train", "evaluation", "watch"}


def test_every_section_is_read_by_a_stage_or_says_why_not() -> None:
    read = {path.split(".")[0] for stage in STAGES.values() for path in stage.get("params", [])}
    # tracking decides where runs are logged, not what they are; tune is read by studies, which are no stage.
    assert set(Params.model_fields) - read == {"tracking", "tune"}


def test_stages_are_fully_cached() -> None:
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for output in stage.get(kind, []):
                options = next(iter(output.values())) if isinstance(output, dict) else {}
                assert options.get("cache", True) and not options.get("persist", False)


def test_losses_import_only_torch() -> None:
    for name in ("losses", "advantages", "schedules"):
        assert imported(ROOT / "sdpg" / f"{name}.py") == set()


def test_the_package_imports_neither_pipelines_nor_app() -> None:
    for module in (ROOT / "sdpg").rglob("*.py"):
        assert all(path.is_relative_to(ROOT / "sdpg") for path in imported(module))
