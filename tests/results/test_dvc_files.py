"""Tests what DVC is given: long tables that its templates overlay, and metrics that fit a screen."""

import csv
import io
import json
from pathlib import Path
import subprocess
from typing import Any

from dvc.cli import main as dvc
from dvc.ui import ui
import pytest

from sdpg.files import write_text
from sdpg.params import read_yaml
from sdpg.results.dvc_files import METRICS, PLOTS, TRAINING, metric_files, plot_tables
from sdpg.results.runs import Results, read_results
from sdpg.results.tables import main_rows
from tests.helpers.fabricated import BENCHMARKS, params_with, write_base, write_run

ROOT = Path(__file__).parents[2]
METHODS, SEEDS = ["grpo", "sdpg-ufkl"], [0, 1]
PARAMS = params_with(METHODS, SEEDS, report={"resamples": 50})


def right(name: str, step: int, problem: int) -> int:
    return min(4, step // 10 + problem % 2)


def fill(root: Path, gate: float = 0.5) -> None:
    """The base solves 3 of 10 problems greedily, GRPO the same, and SDPG five."""
    write_base(root, greedy_right=3)
    for method in METHODS:
        distils = method != "grpo"
        measured = {"kl_to_teacher_sampled": lambda step: step / 10} if distils else {}
        for seed in SEEDS:
            folder = write_run(root, method, seed, right, greedy_right=5 if distils else 3, metrics=measured)
            metrics = folder / "metrics.csv"
            # A gate is measured in every tenth step alone.
            lines = metrics.read_text().splitlines()
            gated = [f"{line}{gate}" if at and at % 10 == 0 else line for at, line in enumerate(lines)]
            metrics.write_text("\n".join(gated) + "\n")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    root = tmp_path_factory.mktemp("runs")
    fill(root)
    return read_results(PARAMS, root), root


@pytest.fixture(scope="module")
def tables(results: tuple[Results, Path]) -> dict[str, list[dict[str, str]]]:
    return {name: list(csv.DictReader(io.StringIO(text))) for name, text in plot_tables(*results).items()}


def test_a_table_has_every_method_seed_and_step(tables: dict[str, list[dict[str, str]]]) -> None:
    assert set(tables) == {"benchmarks.csv", "verdicts.csv", *(f"{name}.csv" for name in TRAINING)}
    keys = [(row["method"], row["seed"], row["step"]) for row in tables["reward.csv"]]
    assert keys == [(m, str(s), str(step)) for m in METHODS for s in SEEDS for step in range(1, 41)]
    assert tables["reward.csv"][2] == {"step": "3", "method": "grpo", "seed": "0", "reward": "0.03"}
    points = {(row["benchmark"], row["method"], row["seed"], row["step"]) for row in tables["benchmarks.csv"]}
    assert len(points) == len(tables["benchmarks.csv"]) == 4 * 2 * 2 * 5
    assert {benchmark for benchmark, *_ in points} == {*BENCHMARKS, "validation"}
    last = [row for row in tables["benchmarks.csv"] if row["step"] == "20" and row["benchmark"] == "chain-4"]
    assert {row["accuracy"] for row in last} == {"0.625"}


def test_steps_without_a_measurement_are_left_out_and_no_table_is_empty(
    tables: dict[str, list[dict[str, str]]],
) -> None:
    gated = tables["gate_rate.csv"]
    assert [row["step"] for row in gated[:4]] == ["10", "20", "30", "40"] and len(gated) == 16
    # GRPO's runs have no such column at all, which leaves one empty row; DVC fails on a table without rows.
    taught = [row for row in tables["kl_to_teacher.csv"] if row["method"] == "grpo"]
    assert [row["kl_to_teacher"] for row in taught] == ["", ""]
    assert {row["kl_to_reference"] for row in tables["kl_to_reference.csv"]} == {""}


def test_verdicts_are_counted_before_and_after(tables: dict[str, list[dict[str, str]]]) -> None:
    found = [(row["method"], row["base"], row["final"], int(row["problems"])) for row in tables["verdicts.csv"]]
    # Of 3 benchmarks and 2 seeds; the validation set is none of them.
    assert found == [
        ("grpo", "correct", "correct", 18), ("grpo", "wrong", "wrong", 42),
        ("sdpg-ufkl", "correct", "correct", 18), ("sdpg-ufkl", "wrong", "correct", 12),
        ("sdpg-ufkl", "wrong", "wrong", 30),
    ]  # fmt: skip


def test_metrics_are_those_of_the_main_table(results: tuple[Results, Path]) -> None:
    rows = main_rows(results[0])
    found = metric_files(rows)
    assert set(found) == {f"{name}/{method}.json" for name in BENCHMARKS for method in ("base", *METHODS)}
    row = next(row for row in rows if (row.benchmark, row.method) == ("chain-4", "sdpg-ufkl"))
    assert found["chain-4/sdpg-ufkl.json"] == {
        "last": 1.0, "best": 1.0, "selected": 1.0, "low": round(row.ci_low, 4), "high": 1.0,
    }  # fmt: skip
    assert set(found["chain-4/base.json"]) == {"last", "low", "high"}


@pytest.fixture(scope="module")
def two_commits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the plots and metrics of dvc.yaml and two commits of reports, the second with another gate."""
    folder = tmp_path_factory.mktemp("dvc")
    shown = {key: value for key, value in read_yaml(ROOT / "dvc.yaml").items() if key in ("plots", "metrics")}
    (folder / "dvc.yaml").write_text(json.dumps(shown))
    git("init", "--quiet", cwd=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert dvc(["init", "--quiet"]) == 0
    (folder / ".dvc/plots").symlink_to(ROOT / ".dvc/plots")
    for gate in (0.5, 0.75):
        root = folder / f"runs-{gate}"
        fill(root, gate)
        found = read_results(PARAMS, root)
        files = {f"{PLOTS}/{name}": text for name, text in plot_tables(found, root).items()}
        files |= {f"{METRICS}/{name}": json.dumps(values) for name, values in metric_files(main_rows(found)).items()}
        for name, text in files.items():
            write_text(folder / "reports" / name, text)
        git("add", "dvc.yaml", "reports", cwd=folder)
        git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", str(gate), cwd=folder)
    return folder


def git(*arguments: str, cwd: Path) -> None:
    subprocess.run(["git", *arguments], cwd=cwd, check=True)


def told(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Any:
    """What DVC writes as JSON."""
    found: list[Any] = []
    monkeypatch.setattr(ui, "write_json", lambda data, **options: found.append(data))
    # Not by DVC's own --cd, which stays there.
    monkeypatch.chdir(folder)
    assert dvc([*arguments, "--json"]) == 0
    return json.loads(json.dumps(found[0]))


def fields(node: Any) -> set[str]:
    """The columns that a chart reads."""
    if isinstance(node, list):
        return set().union(*map(fields, node))
    if not isinstance(node, dict):
        return set()
    own = {node["field"]} if isinstance(node.get("field"), str) else set()
    return own.union(*(fields(part) for key, part in node.items() if key != "data"))


def test_plots_overlay_methods_and_commits(two_commits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = told(monkeypatch, two_commits, "plots", "diff", "HEAD~1", "HEAD")
    assert "errors" not in shown and set(shown["data"]) == {"benchmarks", "verdicts", *TRAINING}
    for name, (plot,) in shown["data"].items():
        assert len(plot["revisions"]) == 2, name
        chart = plot["content"]
        assert "<DVC_METRIC" not in json.dumps(chart), f"{name}: each placeholder is filled"
        rows = chart["data"]["values"]
        assert fields(chart) <= set(rows[0]), name
        encoded = chart["facet"] if name == "verdicts" else chart.get("spec", chart)["encoding"]
        channels = ("column", "row") if name == "verdicts" else ("color", "strokeDash")
        assert [encoded[channel]["field"] for channel in channels] == ["method", "rev"], name
        assert {(row["rev"], row["method"]) for row in rows} == {(r, m) for r in plot["revisions"] for m in METHODS}
    chart = shown["data"]["gate_rate"][0]["content"]
    mean = chart["layer"][1]["encoding"]["y"]
    assert (mean["aggregate"], mean["field"], mean["title"]) == ("mean", "gate_rate", "share")
    assert chart["encoding"]["x"]["field"] == "step" and chart["title"]["text"] == "Share of rollouts with an open gate"
    by_commit = {row["rev"]: row["gate_rate"] for row in chart["data"]["values"]}
    assert set(by_commit.values()) == {"0.5", "0.75"}


def test_a_method_has_a_line_of_metrics(two_commits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(monkeypatch, two_commits, "metrics", "show")[""]["data"]
    assert len(found) == 3 * 3
    assert set(found["reports/metrics/chain-3/grpo.json"]["data"]) == {"last", "best", "selected", "low", "high"}
