"""Which change makes DVC run which stages again, asked of DVC itself."""

from collections.abc import Callable
import json
from pathlib import Path
import re
from typing import Any

from dvc.repo import Repo
import pytest

from pipelines.check import CODE, write_code
from sdpg.params import Params, load_params, read_yaml
from sdpg.records import code
from sdpg.records.code import read_code
from sdpg.training.run import train_sections
from tests.helpers.clones import clone, commit, run
from tests.helpers.forked import run_forked

ROOT = Path(__file__).parents[2]
STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]
METHODS = ("grpo", "sdpg-ufkl")


def test_a_stage_depends_on_the_code_of_its_own_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "params.yaml")
    write_code(params)
    written = {path.stem: json.loads(path.read_text()) for path in CODE.iterdir()}
    for stage, settings in STAGES.items():
        if stage == "check":
            continue
        listed = [path for path in settings["deps"] if path.startswith(f"{CODE}/")]
        # Modules are named nowhere else.
        assert not [path for path in settings["deps"] if path.endswith(".py")]
        if stage == "train":
            assert listed == [f"{CODE}/train-${{item.method}}.json"]
            files = [f"train-{method}" for method in params.methods]
        else:
            assert listed == [f"{CODE}/{stage}.json"]
            files = [stage]
        expected = read_code(f"pipelines.{stage}")
        assert all(written[file] == {"digest": expected.digest, "modules": expected.modules} for file in files)
    assert "sdpg/results/templates/report.html.j2" in written["tabulate"]["modules"]
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 180


def test_training_depends_on_the_parameters_in_its_fingerprint() -> None:
    sections = train_sections(load_params(ROOT / "params.yaml"), "sdpg-ufkl")
    expected = {"methods.${item.method}", "data.benchmarks", "prompts", "rollout", "reward", "train", "watch"}
    expected |= {f"evaluation.{key}" for key in sections["evaluation"]}
    assert set(STAGES["train"]["params"]) == expected
    assert set(sections) == {"method", "data", "prompts", "rollout", "reward", "train", "evaluation", "watch"}


def test_every_section_is_read_by_a_stage_or_says_why_not() -> None:
    read = {path.split(".")[0] for stage in STAGES.values() for path in stage.get("params", [])}
    # tracking decides where runs are logged, not what they are; tune and study are read by what is no stage.
    assert set(Params.model_fields) - read == {"tracking", "tune", "study"}


def test_stages_are_fully_cached() -> None:
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for output in stage.get(kind, []):
                options = next(iter(output.values())) if isinstance(output, dict) else {}
                assert options.get("cache", True) and not options.get("persist", False)


def outputs(stage: dict[str, Any]) -> list[str]:
    found = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return [one if isinstance(one, str) else next(iter(one)) for one in found]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which every stage counts as finished: DVC itself has taken made-up outputs as theirs."""
    folder = tmp_path_factory.mktemp("dvc") / "project"
    folder.mkdir()
    clone(folder, ",".join(METHODS))
    run(folder, "dvc", "init", "--quiet", "--force")
    run_forked(folder, "pipelines.check")
    for name, stage in STAGES.items():
        for path in outputs(stage):
            for method in METHODS if "matrix" in stage else ("",):
                place = folder / path.replace("${item.method}", method).replace("${item.seed}", "0")
                if name != "check":
                    file = place if place.suffix else place / "made-up.txt"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(f"{name} {method}\n")
    run(folder, "dvc", "commit", "--force", "--quiet")
    commit(folder, "finished")
    return folder


@pytest.fixture
def there(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished project as the working folder, and its code as that of the stages."""
    monkeypatch.chdir(finished)
    monkeypatch.setattr(code, "SOURCE", finished)
    write_code(load_params())
    return finished


def statuses() -> set[str]:
    with Repo() as repo:
        return set(repo.status())


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        text = (folder / path).read_text()
        assert len(re.findall(old, text)) == 1, f"{old} must be once in {path}"
        (folder / path).write_text(re.sub(old, new, text))

    return apply


TRAINING = {f"train@{method}-0" for method in METHODS}
EVALUATION = {f"evaluate@{method}-0" for method in METHODS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "old", "new", "again"),
    [
        ("sdpg/training/trainer.py", r'\A"""', '# Nothing that counts.\n"""Some more words. ', set()),
        ("sdpg/training/trainer.py", r"\Z", "\nONE_MORE = 1\n", TRAINING),
        ("sdpg/results/templates/report.html.j2", r"\A", "{# more #}", {"tabulate"}),
        ("sdpg/problems/synthetic.py", r"\Z", "\nONE_MORE = 1\n", {"prepare", "base", *TRAINING, *EVALUATION}),
    ],
)  # fmt: skip
def test_a_change_runs_the_stages_that_import_it(there: Path, path: str, old: str, new: str, again: set[str]) -> None:
    edit(path, old, new)(there)
    try:
        # As check does.
        write_code(load_params())
        assert statuses() == {"check", *again}
    finally:
        run(there, "git", "checkout", "--", path)


@pytest.mark.slow
def test_what_follows_training_is_changed_once_it_has_trained_anew(there: Path) -> None:
    assert statuses() == {"check"}
    policy = there / "runs" / "grpo-0" / "policy" / "made-up.txt"
    try:
        policy.write_text("trained anew\n")
        with Repo() as repo:
            repo.commit("train@grpo-0", force=True)
        assert statuses() == {"check", "evaluate@grpo-0", "tabulate"}
    finally:
        run(there, "git", "checkout", "--", "dvc.lock")
        with Repo() as repo:
            repo.checkout(force=True)
