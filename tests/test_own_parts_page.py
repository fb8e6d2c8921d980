"""docs/own_parts.md does what it says: its files and values in a project, its commands run."""

import csv
import json
from pathlib import Path
import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from sdpg.params import read_yaml
from sdpg.records.schemas import read_rollouts
from tests.helpers.clones import ROOT, clone, run

PAGE = (ROOT / "docs" / "own_parts.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def merged(tree: Any, overlay: Any) -> Any:
    if not isinstance(overlay, dict) or "kind" in overlay:
        return overlay
    return tree | {key: merged(tree.get(key, {}), value) for key, value in overlay.items()}


def write_params(folder: Path, tree: Any) -> None:
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(tree, file)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone on the micro profile, with the page's files and values."""
    folder = tmp_path_factory.mktemp("own") / "project"
    folder.mkdir()
    clone(folder, "grpo sdpg-ufkl")
    for text in blocks("python"):
        name = text.split("\n", 1)[0].removeprefix("# ")
        (folder / name).write_text(text, encoding="utf-8")
    tree = read_yaml(folder / "params.yaml")
    for text in blocks("yaml"):
        tree = merged(tree, YAML(typ="safe").load(text))
    write_params(folder, tree)
    texts = ("So it is 7", "\\boxed{8}", "none", "7.0005", "\\boxed{7}")
    lines = [json.dumps({"id": number, "completion": text, "answer": "7"}) for number, text in enumerate(texts)]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def trained_rows(project: Path) -> list[Any]:
    """The rollouts of grpo's first step."""
    return read_rollouts(project / "runs/grpo-0/rollouts/step-000001-rank-0.parquet").to_pylist()


@pytest.mark.slow
def test_the_commands_of_the_page_run(project: Path) -> None:
    commands = [line.removeprefix("$ ") for text in blocks("console") for line in text.splitlines()]
    said = {
        command: run(project, *re.sub("^sdpg ", "python -m sdpg.commands ", command).split()).stdout
        for command in commands
    }
    for command in commands[:2]:
        assert command.startswith("sdpg score ")
        found = [json.loads(line) for line in said[command].splitlines()]
        assert [one["status"] for one in found] == ["correct", "wrong", "no_answer", "correct", "correct"]
        assert [one["reward"] for one in found] == [1.0, -1.0, -1.0, 1.0, 1.0]
    rows = [json.loads(line) for line in (project / "data/prepared/benchmarks/sums.jsonl").read_text().splitlines()]
    counts = json.loads((project / "data/prepare.json").read_text())["sets"]["benchmarks/sums"]
    assert len(rows) == counts["kept"] == 12 - counts["dropped"]["duplicate"]
    assert {row["source"] for row in rows} == {"my_problems:sums"}
    assert all("Hint" in row["teacher_prompt"] for row in rows)
    gated = read_yaml(project / "runs/sdpg-ufkl-0/config.yaml")["params"]["methods"]["sdpg-ufkl"]["gate"]
    assert gated["path"] == "my_gates:early_and_sure"
    own = read_yaml(project / "runs/sdpg-ufkl-0/config.yaml")["own_parts"]
    assert {field: part["path"] for field, part in own.items() if not field.startswith("data.")} == {
        "methods.sdpg-ufkl.gate": "my_gates:early_and_sure", "reward.verifier": "my_parts:last_number",
    }  # fmt: skip
    assert all(re.fullmatch("[0-9a-f]{32}", part["digest"]) for part in own.values())
    trained = [list(csv.DictReader((project / f"runs/{name}-0/metrics.csv").open())) for name in ("grpo", "sdpg-ufkl")]
    # A term of one's own is in every rollout, and the gate leaves tokens out.
    assert {float(row["trained_rows"]) for row in trained[0]} == {float(len(trained_rows(project)))}
    code = {path.stem: json.loads(path.read_text())["modules"] for path in (project / "data/code").iterdir()}
    reading = {name for name, modules in code.items() if "my_problems.py" in modules}
    scoring = {name for name, modules in code.items() if "my_parts.py" in modules}
    assert reading == {"prepare"}
    for module, name in (("my_terms.py", "train-grpo"), ("my_gates.py", "train-sdpg-ufkl")):
        assert {stage for stage, modules in code.items() if module in modules} == {name}
    assert scoring == {"base", "evaluate", *(name for name in code if name.startswith("train-"))}


@pytest.mark.slow
def test_the_class_of_the_page_scores(project: Path) -> None:
    tree = read_yaml(project / "params.yaml")
    own = {"kind": "import", "path": "my_batches:ShortAndRight", "options": {"longest": 5}}
    write_params(project, tree | {"reward": tree["reward"] | {"verifier": own}})
    try:
        done = run(project, "python", "-m", "pipelines.score", "answers.jsonl")
    finally:
        write_params(project, tree)
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert "my_batches:ShortAndRight" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"reward": {"verifier": {"kind": "import", "path": "my_part:last_number"}}}, "there is no module my_part: "),
        ({"reward": {"verifier": {"kind": "import", "path": "my_problems:sums"}}}, "returned <generator"),
        ({"data": {"benchmarks": {"sums": {"source": {"kind": "import", "path": "my_problems:sum"}}}}}, "has no sum;"),
    ],
)
def test_check_refuses_what_does_not_work(project: Path, edit: Any, said: str) -> None:
    tree = read_yaml(project / "params.yaml")
    write_params(project, merged(tree, edit))
    try:
        done = run(project, "python", "-m", "pipelines.check", check=False)
    finally:
        write_params(project, tree)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    [field] = re.findall(r"^error: ([\w.-]+)", done.stderr, re.MULTILINE)
    assert field.startswith(("reward.verifier", "data.benchmarks.sums.source"))
