import json
from pathlib import Path

import numpy as np
import pytest

from sdpg.errors import UserError
from sdpg.files import write_json_lines
from sdpg.results.figures import PAPER_FIGURES, figure_methods, in_dark
from sdpg.results.problem_figures import easiest_first, final_accuracies, heatmap, pass_curves
from sdpg.results.report import write_reports
from sdpg.results.runs import Results, read_results
from sdpg.results.sections import (
    CONTAMINATION_HEADER,
    MATCHED_HEADER,
    WATCH_HEADER,
    contamination,
    evidence_table,
    matched_rows,
    statuses_of,
    watch_rows,
)
from sdpg.results.tables import final_rows, main_rows
from tests.helpers.fabricated import params_with, write_base, write_run


def right(name: str, step: int, problem: int) -> int:
    return min(4, problem // 3 + (step > 20))


def record(method: str, lr: float) -> dict[str, object]:
    """What a run hangs on, enough for the comparison."""
    entries = {"grpo": {"outcome": "ppo_clip"}, "rlsd": {"outcome": "reinforce"}}
    train = {"lr": lr, "prompts_per_step": 2, "responses_per_prompt": 4}
    return {"inputs": {"base": "1"}, "code": "c", "params": {"methods": entries, "train": train}}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    write_base(tmp_path)
    write_run(tmp_path, "grpo", 0, right, config=record("grpo", 0.1))
    write_run(tmp_path, "rlsd", 0, lambda name, step, problem: 4 - right(name, step, problem),
              metrics={"entropy": lambda step: 1.0 if step < 20 else 0.0, "leak_mentions": lambda step: step / 400},
              config=record("rlsd", 0.2))  # fmt: skip
    return read_results(params_with(["grpo", "rlsd"], [0]), tmp_path)


def test_evidence_stands_beside_every_accuracy(results: Results) -> None:
    for rows in (main_rows(results), final_rows(results)):
        table = evidence_table(rows)
        assert [row for row, _ in table.rows] == rows
        assert table.header[-2:] == ("correct", "wrong")
        assert all(len(cells) == len(table.header) for _, cells in table.rows)
    by_name = {(row.method, row.benchmark): cells for row, cells in evidence_table(main_rows(results)).rows}
    # The base: one of four answers to every problem is right.
    cells = dict(zip(evidence_table(main_rows(results)).header, by_name["base", "chain-3"], strict=True))
    assert (cells["accuracy"], cells["s.e. over problems"], cells["correct"]) == ("0.250", "0.0000", "25.0%")
    # √(1/4·3/4/3)/√10
    assert cells["s.e. of sampling"] == "0.0791"
    assert cells["interval over problems and seeds"] == "–"


def test_statuses_have_an_order_and_none_is_lost(results: Results) -> None:
    evidence = main_rows(results)[0].evidence
    assert statuses_of([evidence]) == ["correct", "wrong"]
    other = evidence.__class__(**{**vars(evidence), "statuses": {"later": 1.0, "timeout": 0.0, "correct": 0.0}})
    assert statuses_of([other, evidence]) == ["correct", "wrong", "timeout", "later"]


def test_holms_adjustment_is_over_the_whole_table(results: Results) -> None:
    rows = [row for row in main_rows(results) if row.difference_p is not None]
    assert len(rows) == 3
    smallest = min(rows, key=lambda row: row.difference_p or 0)
    assert smallest.difference_p_holm == pytest.approx(min(1.0, 3 * (smallest.difference_p or 0)))
    assert all((row.difference_p_holm or 0) >= (row.difference_p or 0) for row in rows)
    assert all(row.needed and "samples" in row.needed for row in rows)


def test_contamination_by_hand(results: Results, tmp_path: Path) -> None:
    rows = contamination(results, tmp_path)
    assert rows[0] == ("Chains of 3", "10", "11", "12", "13", "14")
    assert all(len(row) == len(CONTAMINATION_HEADER) for row in rows)
    (tmp_path / "data" / "prepare.json").write_text(json.dumps({"overlap": {}}))
    with pytest.raises(UserError, match="older than the benchmarks"):
        contamination(results, tmp_path)
    (tmp_path / "data" / "prepare.json").unlink()
    with pytest.raises(UserError, match="run the stage prepare"):
        contamination(results, tmp_path)


def test_alarms_and_leaks_of_runs(results: Results) -> None:
    (quiet, no_words), (loud, words) = watch_rows(results)
    assert len(quiet) == len(loud) == len(WATCH_HEADER)
    assert dict(zip(WATCH_HEADER, quiet, strict=True))["entropy"] == "–"
    assert no_words == []
    cells = dict(zip(WATCH_HEADER, loud, strict=True))
    assert (cells["Run"], cells["mentions of a hint, largest share"]) == ("rlsd-0", "10.0%")
    assert cells["entropy"].startswith("from step ")
    assert any("watch.min_entropy" in word for word in words)


def test_matched_baselines(results: Results) -> None:
    [row] = matched_rows(results)
    cells = dict(zip(MATCHED_HEADER, row, strict=True))
    assert (cells["Run"], cells["against"], cells["matched"]) == ("rlsd-0", "grpo-0", "NO")
    assert "train.lr" in cells["differs elsewhere"]
    assert "outcome" in cells["differs in what is compared"]


def test_figures_by_problem(results: Results) -> None:
    rows = final_accuracies(results, "chain-3")
    assert list(rows) == ["Base", "GRPO", "RLSD"]
    assert rows["GRPO"].tolist() == [0.25] * 3 + [0.5] * 3 + [0.75] * 3 + [1.0]
    assert easiest_first({"one": np.array([0.1, 0.9, 0.1]), "two": np.array([0.0, 0.0, 0.6])}) == [1, 2, 0]
    for draw in (heatmap, pass_curves):
        assert draw(results, "svg") == draw(results, "svg") != in_dark(draw(results, "svg"))


def test_figures_of_the_paper_hold_what_was_run(results: Results, tmp_path: Path) -> None:
    assert {number: figure_methods(results, number) for number in PAPER_FIGURES} == {
        3: ["grpo", "rlsd"], 5: [], 6: ["grpo", "rlsd"],
    }  # fmt: skip
    (tmp_path / "reports" / "figures").mkdir(parents=True)
    (tmp_path / "reports" / "figures" / "figure-5.svg").write_text("of an earlier run")
    opinions = {"first": {"answer": "<b>2|3</b>", "status": "wrong", "reason": "list: other parts"},
                "second": {"answer": "2|3", "status": "correct", "reason": ""}}  # fmt: skip
    audit = tmp_path / "reports/audit/exact-against-string_match/disagreements.jsonl"
    write_json_lines(audit, [{"gold": "2|3", "count": 1234, **opinions}])
    write_reports(results.params, tmp_path)
    assert sorted(path.name for path in (tmp_path / "reports" / "figures").iterdir()) == [
        "figure-3.svg", "figure-6.svg", "pass.svg", "problems.svg",
    ]  # fmt: skip
    page = (tmp_path / "reports" / "report.html").read_text()
    assert "Not run: SDPG-URKL, SDPG-UFKL, SDPG, α = 0, SDPG, β = 0" in page
    assert "&lt;b&gt;2|3&lt;/b&gt;" in page and "<td>exact and string_match</td>" in page and "1,234" in page
    table = (tmp_path / "reports" / "table.md").read_text()
    assert "## Where verifiers disagree" in table and "wrong (list: other parts)" in table
    for part in ("evidence", "problems", "watch", "matched", "contamination", "audit"):
        assert f'id="{part}"' in page and f'href="#{part}"' in page
