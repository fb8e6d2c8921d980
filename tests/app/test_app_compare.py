"""Tests the Compare page: lines over steps, schedules, parameters, and two runs problem by problem."""

import io
import json
from pathlib import Path
import shutil
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app import charts, differing, exports, paired, series, store
from app.sources import SAMPLE, RunEntry, discover
from sdpg.colours import smooth
from sdpg.objective import schedules
from sdpg.params import read_yaml
from sdpg.results.statistics.estimates import paired_difference

PROJECT = Path(__file__).parents[2]
RUNS = sorted(path.name for path in (SAMPLE / "runs").iterdir())
GRPO, SDPG = "grpo-0", "sdpg-ufkl-0"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(SAMPLE, root)
    return root


def another_seed(root: Path, of: str = GRPO, seed: int = 1, change: tuple[str, str] = ("", "")) -> str:
    """A run like another, with another seed and higher rewards."""
    name = f"{of.rpartition('-')[0]}-{seed}"
    shutil.copytree(root / "runs" / of, root / "runs" / name)
    config = root / "runs" / name / "config.yaml"
    text = config.read_text().replace("\nseed: 0\n", f"\nseed: {seed}\n", 1)
    config.write_text(text.replace(*change, 1) if change[0] else text)
    metrics = root / "runs" / name / "metrics.csv"
    table = pd.read_csv(metrics)
    table["reward"] += 0.5
    table.iloc[:-2].to_csv(metrics, index=False)
    return name


def entries(root: Path, *names: str) -> list[RunEntry]:
    found = discover(root).runs
    return [found[name] for name in names]


def app(root: Path, monkeypatch: pytest.MonkeyPatch, **params: str | list[str]) -> AppTest:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app" / "main.py"), default_timeout=60)
    at.switch_page("views/compare.py")
    for name, value in params.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def test_the_moving_mean_is_that_of_the_figures() -> None:
    values = np.random.default_rng(0).normal(size=30)
    for window in (1, 3, 5, 9):
        assert np.allclose(series.smoothed(pd.Series(values), window), smooth(values, window))


def test_what_was_not_measured_stays_empty_and_counts_not() -> None:
    found = series.smoothed(pd.Series([1.0, np.nan, 3.0, np.nan, np.nan, 8.0]), 3)
    assert found.to_numpy().tolist() == pytest.approx([1, np.nan, 3, np.nan, np.nan, 8], nan_ok=True)


def test_seeds_of_a_method_are_one_line_with_their_range(project: Path) -> None:
    runs = entries(project, GRPO, another_seed(project), SDPG)
    lines = series.group(runs, seeds_together=True)
    assert [[run.name for run in each.runs] for each in lines] == [["grpo-0", "grpo-1"], [SDPG]]
    table = series.line(lines[0], store.metrics, "reward", 3)
    assert table is not None
    first, second = (store.metrics(run)["reward"].to_numpy(dtype=float) for run in runs[:2])
    steps = len(second)
    assert len(table) == steps == len(first) - 2
    low = np.minimum(smooth(first, 3)[: steps - 1], smooth(second, 3)[: steps - 1])
    assert np.allclose(table["low"].to_numpy()[: steps - 1], low)
    assert np.allclose(table["raw"], (first[:steps] + second) / 2)
    assert np.allclose(table["high"] - table["low"], 0.5, atol=0.1)
    assert [each.place for each in lines] == [
        list(runs[0].params["methods"]).index(run.method) for run in (runs[0], runs[2])
    ]


def test_a_run_with_other_parameters_is_no_seed_of_the_method(project: Path) -> None:
    name = another_seed(project, change=("    lr: 0.0003\n", "    lr: 0.0004\n"))
    runs = entries(project, GRPO, name)
    assert runs[1].params["train"]["lr"] == 0.0004
    lines = series.group(runs, seeds_together=True)
    assert [len(each.runs) for each in lines] == [1, 1]
    assert len({each.name for each in lines}) == 2
    assert [each.place for each in lines] == [0, 1]


def test_what_cannot_change_a_result_keeps_no_seeds_apart(project: Path) -> None:
    name = another_seed(project, change=("  profile: tiny\n", "  profile: other\n"))
    assert len(series.group(entries(project, GRPO, name), seeds_together=True)) == 1


def test_without_a_band_each_run_is_a_line(project: Path) -> None:
    runs = entries(project, GRPO, another_seed(project))
    assert len(series.group(runs, seeds_together=False)) == 2


@pytest.mark.parametrize("name", RUNS)
def test_schedules_are_those_that_were_applied(project: Path, name: str) -> None:
    run = entries(project, name)[0]
    table, applied = series.scheduled(run), store.metrics(run)
    for coefficient in series.COEFFICIENTS:
        assert np.allclose(table[coefficient], applied[coefficient], rtol=1e-12), coefficient
    line = series.group([run], True)
    for coefficient in series.COEFFICIENTS:
        panel = series.schedule_panel("", line, coefficient)
        assert series.deviation(panel.table, line[0].name) is None


def scheduled_otherwise(root: Path, name: str, method: dict[str, Any], train: dict[str, Any]) -> None:
    """A run of other schedules: its parameters, and what training would have logged by them."""
    folder = root / "runs" / name
    config = read_yaml(folder / "config.yaml")
    entry, section = config["params"]["methods"][config["method"]] | method, config["params"]["train"] | train
    config["params"]["methods"][config["method"]], config["params"]["train"] = entry, section
    (folder / "config.yaml").write_text(json.dumps(config))
    total = section["steps"]
    table = pd.read_csv(folder / "metrics.csv")
    rise, fall, fade, grow, warm, cool = (
        schedules.window(part, total)
        for part in (entry["beta_warmup"], entry["beta_decay"], entry["rlsd_decay"], entry["rlsd_warmup"],
                     section["lr_warmup"], section["lr_decay"])
    )  # fmt: skip
    if entry["distillation"] != "none":
        table["beta"] = [
            schedules.beta(k, total, entry["beta"], rise, fall, entry["beta_shape"]) for k in table["step"]
        ]
    if entry["token_weighting"] == "rlsd":
        table["rlsd_lambda"] = [
            schedules.rlsd_lambda(k, entry["rlsd_lambda"], fade, grow, entry["rlsd_shape"]) for k in table["step"]
        ]
    at_zero, shape = section["lr_starts_at_zero"], section["lr_shape"]
    table["lr"] = [schedules.learning_rate(k, section["lr"], warm, at_zero, total, cool, shape) for k in table["step"]]
    table.to_csv(folder / "metrics.csv", index=False)


@pytest.mark.parametrize("windows", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 0.875)])
@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_no_schedule_that_was_kept_is_an_alarm(
    project: Path, monkeypatch: pytest.MonkeyPatch, shape: str, windows: tuple[float, float]
) -> None:
    rise, fall = windows
    train = {"lr_warmup": rise, "lr_decay": fall, "lr_shape": shape, "lr_starts_at_zero": shape == "cosine"}
    changed = {"beta_warmup": rise, "beta_decay": fall, "beta_shape": shape}
    changed |= {"rlsd_warmup": rise, "rlsd_decay": fall, "rlsd_shape": shape}
    for name in RUNS:
        scheduled_otherwise(project, name, changed, train)
    at = app(project, monkeypatch, part="Schedules", runs=RUNS)
    assert not at.error and "what the parameters give" in at.success[0].value

    metrics = project / "runs" / SDPG / "metrics.csv"
    table = pd.read_csv(metrics)
    table.loc[9, "beta"] += 1e-3
    table.to_csv(metrics, index=False)
    at = app(project, monkeypatch, part="Schedules", runs=RUNS)
    assert len(at.error) == 1 and "step 10" in at.error[0].value and not at.success


def test_of_another_version_the_page_says_that_schedules_are_unknown(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project / "runs" / SDPG / "config.yaml"
    config = read_yaml(path)
    config["params"]["methods"][config["method"]] |= {"beta_shape": "steps", "gate": "later", "of_later": 1}
    path.write_text(json.dumps(config))
    at = app(project, monkeypatch, part="Schedules", runs=RUNS)
    assert not at.error and "the shape steps is unknown" in at.warning[0].value


def test_a_term_that_a_method_lacks_has_coefficient_0(project: Path) -> None:
    path = project / "runs" / SDPG / "config.yaml"
    path.write_text(path.read_text().replace("method: sdpg-ufkl", "method: opcd"))
    table = series.scheduled(entries(project, SDPG)[0])
    assert set(table["alpha"]) == {0.0} and set(table["beta"]) == {1.0} and set(table["rlsd_lambda"]) == {0.0}
    assert table["lr"].tolist() == [0.00015] + [0.0003] * (len(table) - 1)


def test_a_coefficient_that_was_not_applied_as_scheduled_is_found(project: Path) -> None:
    path = project / "runs" / SDPG / "metrics.csv"
    table = pd.read_csv(path)
    table.loc[4, "beta"] *= 1.001
    table.to_csv(path, index=False)
    line = series.group(entries(project, SDPG), True)
    found = series.deviation(series.schedule_panel("", line, "beta").table, line[0].name)
    assert found is not None and found[0] == 5 and found[2] == pytest.approx(found[1] * 1.001)


def test_paired_differences_are_those_of_the_statistics(project: Path) -> None:
    first, second = entries(project, GRPO, SDPG)
    found, left_out = paired.compare(first, second, paired.LAST)
    assert not left_out and [each.benchmark for each in found] == list(store.benchmarks(first))
    for each in found:
        expected = paired_difference(each.second.accuracy, each.first.accuracy, 0.95)
        assert each.difference == expected
        assert each.difference.mean == pytest.approx(
            float(store.curves(second)[each.benchmark].iloc[-1]) - float(store.curves(first)[each.benchmark].iloc[-1])
        )
        table = each.by_problem
        assert np.mean(table["difference"].to_numpy()) == pytest.approx(each.difference.mean)
        assert (np.diff(table["difference"].to_numpy()) <= 0).all() and len(table) == len(each.first.problems)
        assert each.adjusted >= each.difference.p_value
    final, _ = paired.compare(first, second, paired.FINAL)
    assert final[0].first.samples > found[0].first.samples


def test_parameters_that_differ(project: Path) -> None:
    other = another_seed(project, change=("    lr: 0.0003\n", "    lr: 0.0004\n"))
    runs = entries(project, GRPO, SDPG)
    found = differing.differences(runs)
    assert found.matched and "method.outcome" in {leaf.path for leaf in found.compared}
    runs = entries(project, GRPO, SDPG, other)
    found = differing.differences(runs)
    assert not found.matched
    table = differing.table(found.rest, runs).set_index("Path")
    assert table.loc["train.lr"].tolist() == ["parameters", "0.0003", "0.0003", "0.0004"]
    assert table.loc["seed"].tolist() == ["seed", "0", "0", "1"]
    pair = entries(project, GRPO, other)
    leaves = differing.differences(pair).rest
    # One rule names every cell that is marked: those of the second run, and none of the first's.
    rule = differing.highlighted(leaves, pair).to_html().split("{")[0]
    assert rule.count("_col3") == len(leaves) and "_col2" not in rule


@pytest.mark.parametrize(("file_format", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_figures_are_files_and_equal_panels_equal_bytes(project: Path, file_format: str, begins: bytes) -> None:
    lines = series.group(entries(project, GRPO, SDPG), True)
    panels = [
        series.panel("Reward $x$", lines, store.metrics, "reward", 3),
        series.panel("Chains", lines, store.curves, "chain-3", points=True),
    ]
    styles = charts.styles([line.name for line in lines])
    made = [exports.figure(panels, styles, file_format, "a note") for _ in range(2)]  # pyright: ignore[reportArgumentType]
    assert made[0].startswith(begins) and made[0] == made[1] and len(made[0]) > 5000
    other = exports.figure(panels[:1], styles, file_format, "a note")  # pyright: ignore[reportArgumentType]
    assert other != made[0]


def test_data_holds_what_is_drawn(project: Path) -> None:
    lines = series.group(entries(project, GRPO, SDPG), True)
    panels = [series.panel(name, lines, store.metrics, name, 3) for name in ("reward", "length")]
    table = pd.read_csv(io.BytesIO(exports.data(panels)))
    assert list(table["panel"].unique()) == ["reward", "length"] and set(table["series"]) == {x.name for x in lines}
    expected = store.metrics(lines[0].runs[0])["length"]
    chosen = table[(table["panel"] == "length") & (table["series"] == lines[0].name)]
    assert np.allclose(chosen["raw"], expected) and np.allclose(chosen["value"], smooth(expected.to_numpy(), 3))


def test_every_part_of_the_page(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another_seed(project)
    at = app(project, monkeypatch)
    assert at.multiselect(key="runs").value == sorted([*RUNS, "grpo-1"])
    assert len(at.get("vega_lite_chart")) == 6 and "range" in at.caption[0].value
    at.multiselect(key="lines").set_value(["run"]).run()
    assert not at.exception and "range" not in at.caption[0].value
    for part, charts_shown in (("Metrics", 3), ("Schedules", 4), ("Parameters", 0), ("Problems", 3)):
        at = app(project, monkeypatch, part=part, runs=[GRPO, SDPG])
        assert at.multiselect(key="runs").value == [GRPO, SDPG]
        assert len(at.get("vega_lite_chart")) == charts_shown, part
        assert not at.error and not at.warning


def test_the_page_says_what_it_cannot_show(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "runs" / GRPO / "curves.csv").write_text("nonsense\n")
    at = app(project, monkeypatch, runs=[GRPO, SDPG])
    assert r"curves\.csv" in at.warning[0].value and len(at.get("vega_lite_chart")) == 6
    at = app(project, monkeypatch, part="Problems", runs=[GRPO])
    assert "second run" in at.info[0].value
    at.multiselect(key="runs").set_value([]).run()
    assert not at.exception and "No run is chosen" in at.info[0].value


def test_runs_that_are_not_matched_are_a_warning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = another_seed(project, of=SDPG, seed=1)
    at = app(project, monkeypatch, part="Parameters", runs=[GRPO, other])
    assert "Not matched" in at.warning[0].value and "seed" in at.warning[0].value
    at = app(project, monkeypatch, part="Parameters", runs=[GRPO, SDPG])
    assert "Matched" in at.success[0].value


def test_names_in_a_legend_are_text() -> None:
    style = charts.Style("<script>x</script>", "#123456", [1, 0], 0)
    assert "<script>" not in charts.legend([style]) and "&lt;script&gt;" in charts.legend([style])


def test_lines_that_coincide_are_named_and_others_are_not() -> None:
    steps = [1, 2, 3, 4]
    values = {"grpo": [0.0, 1.0, 2.0, 3.0], "urkl": [0.0, 1.01, 2.0, 3.0], "ufkl": [0.0, 1.0, 2.4, 3.0],
              "late": [None, None, 2.0, 3.02], "alone": [None, None, None, 9.0]}  # fmt: skip
    table = pd.concat(pd.DataFrame({"step": steps, "value": value, "series": name}) for name, value in values.items())
    assert series.coinciding(table) == ["urkl and grpo", "late and grpo"]
    assert series.coinciding(table[table["series"] == "grpo"]) == []
    assert series.coinciding(table.iloc[:0]) == []
