import json
from pathlib import Path

import numpy as np
import pytest

from sdpg.errors import UserError
from sdpg.results.rendering import latex_table, main_cells
from sdpg.results.report import print_table, write_reports
from sdpg.results.runs import Results, read_results
from sdpg.results.tables import FinalRow, MainRow, final_rows, greedy_headline, main_rows, pass_sizes
from tests.helpers.fabricated import params_with, write_base, write_run

RIGHT = {
    # Of 4 samples, for every problem: step → per set.
    "chain-3": {0: 1, 10: 2, 20: 3, 30: 3, 40: 2},
    "chain-4": {0: 1, 10: 1, 20: 2, 30: 4, 40: 4},
    "carry-3": {0: 1, 10: 0, 20: 0, 30: 0, 40: 0},
    "validation": {0: 0, 10: 1, 20: 3, 30: 1, 40: 3},
}


def planned(name: str, step: int, problem: int) -> int:
    return RIGHT[name][step]


def rows_of(results: Results) -> dict[tuple[str, str], MainRow]:
    return {(row.method, row.benchmark): row for row in main_rows(results)}


@pytest.fixture
def one_seed(tmp_path: Path) -> Results:
    write_base(tmp_path, greedy_right=3)
    write_run(tmp_path, "grpo", 0, planned)
    write_run(tmp_path, "rlsd", 0, lambda name, step, problem: min(4, planned(name, step, problem) + problem % 2))
    return read_results(params_with(["grpo", "rlsd"], [0]), tmp_path)


def test_last_best_and_selected_by_hand(one_seed: Results) -> None:
    row = rows_of(one_seed)["grpo", "chain-3"]
    assert (row.last, row.last_step) == (0.5, 40)
    assert (row.best, row.best_steps) == (0.75, [20])
    # Validation is highest at 20 and at 40: the earliest counts.
    assert (row.selected, row.selected_steps) == (0.75, [20])
    assert (row.problems, row.samples, row.seeds) == (10, 4, 1)
    assert rows_of(one_seed)["grpo", "chain-4"].selected == 0.5
    # Where training only harms, the best of the series is the base.
    assert (rows_of(one_seed)["grpo", "carry-3"].best, rows_of(one_seed)["grpo", "carry-3"].best_steps) == (0.25, [0])


def test_one_seed_has_words_instead_of_a_spread(one_seed: Results) -> None:
    row = rows_of(one_seed)["grpo", "chain-3"]
    assert (row.seed_spread, row.seed_low, row.seed_high) == ("one seed", None, None)


def test_base_rows(one_seed: Results) -> None:
    sampled, greedy = (rows_of(one_seed)[name, "chain-3"] for name in ("base", "base-greedy"))
    assert (sampled.title, sampled.last, sampled.samples) == ("Base, temperature 1", 0.25, 4)
    assert (greedy.title, greedy.last, greedy.samples) == ("Base, greedy", 0.3, 1)
    assert main_cells(sampled)[5:7] == ("–", "–")


def test_difference_to_grpo_is_paired(one_seed: Results) -> None:
    row = rows_of(one_seed)["rlsd", "chain-3"]
    assert row.difference == pytest.approx(0.125)
    assert row.difference_low is not None
    assert row.difference_high is not None
    assert row.difference_low < 0.125 < row.difference_high
    assert rows_of(one_seed)["grpo", "chain-3"].difference is None


def test_three_seeds_are_averaged_and_spread(tmp_path: Path) -> None:
    write_base(tmp_path)
    for seed in range(3):
        write_run(tmp_path, "grpo", seed, lambda name, step, problem, s=seed: s + 1 if step == 40 else 1 + (step == 10))
    params = params_with(["grpo"], [0, 1, 2])
    row = rows_of(read_results(params, tmp_path))["grpo", "chain-3"]
    # Lasts 0.25, 0.5, 0.75; bests 0.5 (step 10), 0.5 (step 10), 0.75 (step 40).
    assert row.last == pytest.approx(0.5)
    assert row.best == pytest.approx((0.5 + 0.5 + 0.75) / 3)
    assert row.best_steps == [10, 10, 40]
    assert row.seed_low == 0.0  # 0.5 - 4.30·0.25/√3 is below 0 and cut there
    assert row.seed_spread == "0.000–1.000"
    # By problem all agree on 0.5: the interval over problems is narrower than that over seeds.
    assert 0.3 < row.ci_low < 0.5 < row.ci_high < 0.7
    two = rows_of(read_results(params_with(["grpo"], [0, 1]), tmp_path))["grpo", "chain-3"]
    assert (two.seed_spread, two.seed_low) == ("2 seeds", None)


def final(results: Results) -> dict[tuple[str, str], FinalRow]:
    return {(row.method, row.benchmark): row for row in final_rows(results)}


def test_larger_samples_by_hand(one_seed: Results) -> None:
    rows = final(one_seed)
    row = rows["grpo", "chain-3"]
    assert row.mean == 0.5
    assert {k: round(interval.mean, 9) for k, interval in row.pass_at.items()} == {1: 0.5, 2: round(5 / 6, 9), 4: 1.0}
    assert row.greedy == 0.0
    assert row.gain is not None
    assert row.gain.mean == pytest.approx(0.25)
    assert row.greedy_gain is not None
    assert row.greedy_gain.mean == pytest.approx(-0.3)
    assert rows["base-teacher", "chain-3"].mean == 1.0
    assert rows["base-teacher", "chain-3"].greedy is None
    assert rows["base", "chain-3"].gain is None


def test_sizes_of_pass_at_k() -> None:
    assert pass_sizes(1) == [1]
    assert pass_sizes(16) == [1, 2, 4, 8, 16]
    assert pass_sizes(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(("right", "start"), [(0, "No method improves greedy"), (9, "Greedy accuracy improves")])
def test_the_first_line_says_whether_greedy_improved(tmp_path: Path, right: int, start: str) -> None:
    write_base(tmp_path)
    write_run(tmp_path, "grpo", 0, planned, greedy_right=right)
    params = params_with(["grpo"], [0])
    headline = greedy_headline(final_rows(read_results(params, tmp_path)), 0.95)
    assert headline.startswith(start)
    assert ("GRPO on Chains of 3 (+0.900" in headline) == bool(right)


def test_files_and_json_schema(one_seed: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = write_reports(one_seed.params, tmp_path)
    assert {path.name for path in written if path.parts[-2] in ("reports", "figures")} == {
        "table.md", "table.csv", "table.tex", "table.json", "final.json", "claims.json", "choices.md", "curves.svg",
        "curves.png", "report.html", "figure-3.svg", "figure-6.svg", "problems.svg", "pass.svg",
    }  # fmt: skip
    places = [path.relative_to(tmp_path / "reports") for path in written if path.suffix in (".csv", ".json")]
    assert {place.parts[0] for place in places} == {
        "table.csv", "table.json", "final.json", "claims.json", "metrics", "plots",
    }  # fmt: skip
    rows = json.loads((tmp_path / "reports" / "table.json").read_text())
    assert len(rows) == 3 * 4
    for row in rows:
        assert row.keys() >= {
            "method",
            "benchmark",
            "last",
            "best",
            "ci_low",
            "ci_high",
            "problems",
            "samples",
            "seeds",
        }
        assert 0 <= row["ci_low"] <= row["last"] <= row["ci_high"] <= 1
        assert row["best"] >= row["last"]
    text = (tmp_path / "reports" / "table.md").read_text()
    assert text.split("\n")[2] == greedy_headline(final_rows(one_seed), 0.95)
    assert "selected on the test set" in text
    assert "As reported by the paper, Table 1: Qwen3-4B on AIME24, AIME25 and AMC23" in text
    ours = text[: text.index("## What the paper reports")]
    assert "AIME" not in ours.replace("in the figure the length falls steadily from about step 180 and AIME24", "")
    lines = (tmp_path / "reports" / "table.csv").read_text().splitlines()
    assert lines[0].startswith("method,title,benchmark")
    assert len(lines) == 13
    print_table(tmp_path)
    assert "RLSD" in capsys.readouterr().out
    first = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in write_reports(one_seed.params, tmp_path)} == first, "a repeat is equal"


def test_latex_escapes_what_latex_would_read(tmp_path: Path) -> None:
    write_base(tmp_path)
    write_run(tmp_path, "alpha0", 0, planned)
    params = params_with(["alpha0"], [0])
    results = read_results(params, tmp_path)
    text = latex_table(results, main_rows(results))
    assert r"SDPG, $\alpha$ = 0 & 0.500" in text
    assert text.count(r"\\") == 2 + 3 + 1


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("runs/grpo-0", r"runs/grpo-0 does not exist: run the stage train@grpo-0"),
        ("runs/grpo-0/COMPLETE", r"runs/grpo-0 has no file COMPLETE.*train@grpo-0"),
        ("runs/grpo-0/curves.csv", r"curves.csv does not exist: run the stage train@grpo-0"),
        ("runs/grpo-0/evaluations/step-000040.parquet", r"step-000040.parquet does not exist.*train@grpo-0"),
        ("evaluations/grpo-0/final.parquet", r"final.parquet does not exist: run the stage evaluate@grpo-0"),
        ("models/base-evaluations/sampled.parquet", r"sampled.parquet does not exist: run the stage base"),
    ],
)
def test_a_missing_part_is_named_and_earlier_reports_stay(tmp_path: Path, broken: str, message: str) -> None:
    write_base(tmp_path)
    write_run(tmp_path, "grpo", 0, planned)
    params = params_with(["grpo"], [0])
    earlier = tmp_path / "reports" / "table.md"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    (tmp_path / broken).rename(tmp_path / "moved")
    with pytest.raises(UserError, match=message):
        write_reports(params, tmp_path)
    assert list(earlier.parent.iterdir()) == [earlier]
    assert earlier.read_text() == "earlier"


def test_curves_that_contradict_the_rows_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path)
    folder = write_run(tmp_path, "grpo", 0, planned)
    text = (folder / "curves.csv").read_text().splitlines()
    text[-1] = text[-1].replace("40,0.5", "40,0.6")
    (folder / "curves.csv").write_text("\n".join(text) + "\n")
    with pytest.raises(UserError, match=r"curves.csv ends with 0.6000 on 'chain-3'.*0.5000"):
        main_rows(read_results(params_with(["grpo"], [0]), tmp_path))


@pytest.mark.parametrize(("old", "new", "message"), [("carry-3", "other", "no column carry-3"),
                                                     ("40,", "forty,", "damaged .*forty")])  # fmt: skip
def test_malformed_curves_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_base(tmp_path)
    path = write_run(tmp_path, "grpo", 0, planned) / "curves.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        read_results(params_with(["grpo"], [0]), tmp_path)


def test_a_column_of_words_that_another_version_wrote_is_left_out(tmp_path: Path) -> None:
    write_base(tmp_path)
    path = write_run(tmp_path, "grpo", 0, planned) / "curves.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},phase", *(f"{row},late" for row in rows)]) + "\n")
    run = read_results(params_with(["grpo"], [0]), tmp_path).runs["grpo"][0]
    assert "phase" not in run.curves and "chain-3" in run.curves


def test_other_problems_are_not_paired(tmp_path: Path) -> None:
    write_base(tmp_path)
    write_run(tmp_path, "grpo", 0, planned)
    write_run(tmp_path, "rlsd", 0, planned, problems=9)
    with pytest.raises(UserError, match="rlsd and grpo were evaluated on different problems of 'chain-3'"):
        main_rows(read_results(params_with(["grpo", "rlsd"], [0]), tmp_path))


def test_seeds_are_averaged_before_the_interval(tmp_path: Path) -> None:
    # Seeds solve complementary halves: by problem everything is 0.5, so that the interval is that of agreement.
    write_base(tmp_path)
    for seed in (0, 1):
        write_run(tmp_path, "grpo", seed, lambda name, step, problem, s=seed: 4 * ((problem + s) % 2))
    row = rows_of(read_results(params_with(["grpo"], [0, 1]), tmp_path))["grpo", "chain-3"]
    share = 1 - 0.025 ** (1 / 10)
    assert np.allclose((row.ci_low, row.ci_high), (0.5 - share / 2, 0.5 + share / 2))
