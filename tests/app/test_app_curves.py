"""Tests how curves are drawn: lines for each setting, other axes, names at the ends of lines, pins and colours."""

from pathlib import Path
import shutil

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app import charts, curve_options, end_labels, exports, grouping, series, store
from app.sources import SAMPLE, RunEntry, discover
from tests.app.test_app_compare import app as compare_page

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, and GRPO a second time with another seed, another learning rate, and half the tokens."""
    root = tmp_path_factory.mktemp("curves")
    shutil.copytree(SAMPLE, root, dirs_exist_ok=True)
    shutil.copytree(root / "runs" / "grpo-0", root / "runs" / "grpo-1")
    config = root / "runs" / "grpo-1" / "config.yaml"
    text = config.read_text().replace("\nseed: 0\n", "\nseed: 1\n", 1)
    config.write_text(text.replace("    lr: 0.0003\n", "    lr: 0.0004\n", 1))
    metrics = root / "runs" / "grpo-1" / "metrics.csv"
    table = pd.read_csv(metrics)
    table["response_tokens"] /= 2
    table.to_csv(metrics, index=False)
    return root


@pytest.fixture(scope="module")
def runs(project: Path) -> list[RunEntry]:
    return list(discover(project).runs.values())


def test_lines_are_grouped_by_any_parameter_that_differs(runs: list[RunEntry]) -> None:
    known = grouping.keys(runs)
    assert known[:3] == ["run", "method", "seed"] and {"train.lr", "method.outcome"} <= set(known)
    assert not {"train.steps", "data.seed"} & set(known)  # alike in all runs
    lines = grouping.group_by(runs, ["train.lr"])
    assert {line.name: [run.id for run in line.runs] for line in lines} == {
        "lr 0.0003 · 3 runs": ["grpo-0", "rlsd-0", "sdpg-ufkl-0"], "lr 0.0004": ["grpo-1"],
    }  # fmt: skip
    lines = grouping.group_by(runs, ["method", "seed"])
    assert [line.short for line in lines] == ["GRPO, seed 0", "GRPO, seed 1", "RLSD, seed 0", "SDPG-UFKL, seed 0"]
    assert len(grouping.group_by(runs, ["method"])) == 3 and len(grouping.group_by(runs, ["run", "method"])) == 4


def test_steps_stand_where_tokens_and_minutes_have_them(runs: list[RunEntry]) -> None:
    pair = grouping.group_by(runs[:2], ["method"])[0]
    own = [store.metrics(run)["response_tokens"].cumsum().to_numpy() for run in runs[:2]]
    table = series.line(pair, store.metrics, "reward", 1, "tokens")
    assert table is not None and np.allclose(table["x"], (own[0] + own[1]) / 2) and table["step"].iloc[0] == 1
    table = series.line(pair, store.curves, "chain-3", 1, "time")
    seconds = store.timing(runs[0]).filter(like="_seconds").sum(axis=1)
    assert table is not None and table["x"].iloc[0] == 0.0
    assert table["x"].iloc[-1] == pytest.approx(seconds.sum() / 60)
    table = series.line(pair, store.metrics, "reward")
    assert table is not None and (table["x"] == table["step"]).all()


def test_names_at_the_ends_keep_their_distance_and_their_order() -> None:
    assert end_labels.spread([50, 10, 90], 100, 12) == [50, 10, 90]
    assert end_labels.spread([50, 50], 100, 12) == [44, 56]
    assert end_labels.spread([0, 1, 2, 100], 100, 10) == [0, 10, 20, 100]
    crowded = end_labels.spread([5.0] * 30, 100, 12)
    assert crowded == pytest.approx(np.linspace(0, 100, 30))
    for seed in range(50):
        wanted = np.random.default_rng(seed).uniform(0, 170, 10).tolist()
        found = end_labels.spread(wanted, 170)
        order = np.argsort(wanted)
        assert (np.diff(np.array(found)[order]) >= end_labels.GAP - 1e-9).all() and 0 <= min(found) <= max(found) <= 170


@pytest.mark.parametrize("log", [False, True])
def test_a_name_stands_beside_the_last_value(log: bool) -> None:
    table = pd.DataFrame({"step": [1, 2, 1, 3, 1], "value": [1.0, 10.0, 1.0, 100.0, np.nan],
                          "series": ["a", "a", "b", "b", "none"]})  # fmt: skip
    limits = end_labels.domain(table, log)
    names = end_labels.placed(table, ["b", "a", "none"], limits, 200, log)
    assert names["series"].tolist() == ["b", "a"] and names["value"].tolist() == pytest.approx([100, 10], rel=1e-6)


def test_limits_hold_all_that_is_drawn() -> None:
    table = pd.DataFrame({"value": [0.5, np.nan], "low": [-1.0, 0.2], "high": [2.0, 3.0]})
    low, high = end_labels.domain(table)
    assert -1.3 < low < -1 and 3 < high < 3.3
    low, high = end_labels.domain(table, log=True)
    assert 0.1 < low < 0.2 and 3 < high < 4
    for flat in (0.0, 2.0, -2.0):
        low, high = end_labels.domain(pd.DataFrame({"value": [flat]}))
        assert low < flat < high
    assert -0.03 < end_labels.domain(pd.DataFrame({"value": [0.4]}), zero=True)[0] < 0


def app(root: Path, monkeypatch: pytest.MonkeyPatch, **params: str | list[str]) -> AppTest:
    at = compare_page(root, monkeypatch, **params)
    assert not at.error
    return at


def test_lines_are_drawn_as_the_address_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"lines": ["run"], "x": "tokens", "log": "true", "smooth": "3", "pin": ["RLSD, seed 0"],
             "colour": ["RLSD, seed 0=#12ab34", "of another page=#000000", "GRPO, seed 0=red"]}  # fmt: skip
    made: list[tuple[object, ...]] = []
    real = charts.lines
    monkeypatch.setattr(charts, "lines", lambda *args, **named: made.append((*args, named)) or real(*args, **named))
    at = app(project, monkeypatch, **asked)
    assert "GRPO, seed 0=red" in at.warning[0].value.replace("\\", "") and len(at.warning) == 1
    table, styles, named = made[3]
    assert named["log"] and named["x"] == "response tokens trained on"  # pyright: ignore
    *faint, last = styles  # pyright: ignore
    assert last.name == "RLSD, seed 0" and last.colour == last.own == "#12ab34" and not last.faint
    assert len(faint) == 3 and all(each.faint and not each.own for each in faint)
    assert table["x"].max() > 100_000 > 60 == table["step"].max()  # pyright: ignore
    # A colour that is picked joins the others in the address.
    picker = at.color_picker(key="colour_0")
    picker.set_value("#0000ff").run()
    assert "GRPO, seed 0=#0000ff" in at.query_params["colour"] and "RLSD, seed 0=#12ab34" in at.query_params["colour"]
    assert picker.label.replace("\\", "") == "GRPO, seed 0"


def test_a_run_without_times_is_named_and_the_others_are_drawn(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(project, root)
    (root / "runs" / "grpo-0" / "timing.csv").unlink()
    at = app(root, monkeypatch, x="time")
    assert any("timing" in each.value and "does not exist" in each.value for each in at.warning)
    assert len(at.get("vega_lite_chart")) == 6


def test_an_export_has_the_axes_and_colours_of_the_page(runs: list[RunEntry]) -> None:
    lines = grouping.group_by(runs, ["run"])
    styles = curve_options.plain_styles(lines)
    panel = series.panel("Reward", lines, store.metrics, "length", 3, "tokens")
    plain = exports.figure([panel], styles, "svg")
    own = exports.figure([panel], [styles[0]._replace(own="#12ab34"), *styles[1:]], "svg", "", "tokens", log=True)
    assert b"#12ab34" in own and b"#12ab34" not in plain
    assert b"<!-- grpo-1 -->" in plain and b"<!-- tokens -->" in own and b"<!-- training step -->" in plain
    assert "x" in exports.data([panel]).decode().splitlines()[0].split(",")
