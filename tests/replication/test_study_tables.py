"""Tests a study's tables, page and part of README on runs made by hand, whose numbers are worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.params import Params
from sdpg.replication import publishing
from sdpg.replication.design import check_study, seeds_of
from sdpg.replication.measured import read_study
from sdpg.replication.report import write_study
from sdpg.replication.tables import pairs, study_tree
from sdpg.results.statistics.comparisons import holm
from tests.helpers.fabricated_study import Right, study_params, write_runs

ROOT = Path(__file__).parents[2]
SHORT = {"bases": 3, "seeds": 2, "methods": ["grpo", "sdpg-ufkl", "alpha0"]}


def even(add: int = 0) -> Right:
    """1 or 2 of 4 right, and ``add`` more on every second problem."""
    return lambda base, benchmark, problem: 1 + problem % 2 + (add if problem % 2 == 0 else 0)


PLANS: dict[str, Right] = {
    "grpo": even(),
    # +2 of 4 on even problems, and on base 1 one more on odd ones: +.25, +.375, +.25.
    "sdpg-ufkl": lambda base, benchmark, problem: even(2)(base, benchmark, problem) + (base == 1 and problem % 2),
    "alpha0": even(),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    root = tmp_path_factory.mktemp("study")
    params = study_params({"short": SHORT})
    write_runs(root, params, PLANS, problems=20)
    return root, params


@pytest.fixture(scope="module")
def tree(project: tuple[Path, Params]) -> dict[str, Any]:
    root, params = project
    return study_tree(params.study, read_study(params, root))


def row(rows: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    (found,) = [each for each in rows if all(each[key] == value for key, value in values.items())]
    return found


def test_every_base_has_seeds_of_its_own(project: tuple[Path, Params]) -> None:
    root, params = project
    assert [seeds_of(params.study.runs["short"], base) for base in range(3)] == [[0, 1], [100, 101], [200, 201]]
    assert len(list(root.glob("study/short/base-*/runs/*"))) == 3 * 2 * 3


def test_levels_and_differences_by_hand(tree: dict[str, Any]) -> None:
    runs = tree["runs"]["short"]
    assert (runs["steps"], runs["bases"], runs["seeds"], runs["problems"], runs["samples"]) == (40, 3, 2, 20, 4)
    level = row(runs["levels"], method="sdpg-ufkl", benchmark="chain-4", way="last")
    # Even problems 3 of 4, odd ones 2 of 4, and 3 of 4 on base 1.
    assert level["by_base"] == pytest.approx([0.625, 0.75, 0.625])
    greedy = row(runs["levels"], method="grpo", benchmark="chain-4", way="greedy")
    assert greedy["by_base"] == pytest.approx([1 / 20, 2 / 20, 3 / 20])
    assert row(runs["levels"], method="base", benchmark="chain-3", way="last")["mean"] == pytest.approx(0.25)

    found = row(runs["comparisons"], method="sdpg-ufkl", other="grpo", benchmark="chain-3", way="last")
    assert [base["mean"] for base in found["by_base"]] == pytest.approx([0.25, 0.375, 0.25])
    assert found["mean"] == pytest.approx(0.875 / 3)
    # Deviations of bases: −1/24, 1/12, −1/24, so MS_base = 20·(1/96)/2 = 0.104167. Even problems have .5, odd ones 0,
    # .25, 0: problems' means are .5 and 1/12, MS_problem = 3·20·(5/24)²/19 = 0.137061. The rest is ±1/24, ∓1/12, ±1/24:
    # MS_rest = 20·(1/96)/38 = 0.005482. v_b = 0.104167, v_p = 0.131579, quantile (t of 2: 4.302653, of 19: 2.093024)
    # 3.069366, standard error √(0.235746/60) = 0.062683.
    assert found["low"] == pytest.approx(0.875 / 3 - 0.192399, abs=1e-5)
    assert found["high"] == pytest.approx(0.875 / 3 + 0.192399, abs=1e-5)
    assert row(runs["comparisons"], method="alpha0", other="grpo", benchmark="chain-3", way="last")["mean"] == 0


def test_an_ablation_is_compared_with_its_parent_too(tree: dict[str, Any]) -> None:
    study = study_params({"short": SHORT}).study
    assert pairs(study, SHORT["methods"]) == [("sdpg-ufkl", "grpo"), ("alpha0", "grpo"), ("alpha0", "sdpg-ufkl")]
    assert pairs(study, ["rlsd", "alpha0"]) == []
    ours = row(tree["runs"]["short"]["comparisons"], method="alpha0", other="sdpg-ufkl", benchmark="chain-3",
               way="last")  # fmt: skip
    assert ours["mean"] == pytest.approx(-0.875 / 3)


def test_p_values_are_adjusted_for_each_way_of_answering(tree: dict[str, Any]) -> None:
    for way in ("last", "greedy"):
        rows = [each for each in tree["runs"]["short"]["comparisons"] if each["way"] == way]
        assert len(rows) == 3 * 3
        assert [each["p_holm"] for each in rows] == pytest.approx(holm([each["p_value"] for each in rows]))
    found = row(tree["runs"]["short"]["comparisons"], method="sdpg-ufkl", other="grpo", benchmark="chain-3", way="last")
    assert found["p_holm"] > found["p_value"]


def test_the_first_line_says_what_can_be_told_apart(tmp_path: Path, tree: dict[str, Any]) -> None:
    found = row(tree["runs"]["short"]["comparisons"], method="sdpg-ufkl", other="grpo", benchmark="chain-3", way="last")
    # Its own interval leaves out 0, but one of nine such differences may do so by chance.
    assert found["p_value"] < 0.05 < found["p_holm"]
    assert tree["headline"] == [
        "Nothing can be told apart over 3 bases × 2 seeds of 40 steps (95% after Holm, 9 comparisons each of Last and "
        f"greedy; smallest adjusted p {found['p_holm']:.3f})."
    ]
    params = study_params({"short": {"bases": 2, "seeds": 1, "methods": ["grpo", "opcd"]}})
    write_runs(tmp_path, params, {"grpo": even(), "opcd": even(2)}, problems=20)
    write_study(params, tmp_path / "out", tmp_path)
    first = (tmp_path / "out/study.md").read_text(encoding="utf-8").splitlines()[0]
    # Bases agree: the t interval over 20 problems that differ by .5 or by 0, of 2.093024·0.256495/√20 = 0.120045.
    assert first.startswith(
        "Over 2 bases × 1 seeds of 40 steps (95% after Holm, 3 comparisons each of Last and greedy) can be told apart: "
        "OPCD − GRPO on Chains of 3, Last: +0.250 (+0.130 to +0.370); OPCD − GRPO on Chains of 4"
    )
    assert first.endswith("The other 3 cannot.")


def test_claims_are_measured_over_bases(tmp_path: Path, tree: dict[str, Any]) -> None:
    claim = row(tree["runs"]["short"]["claims"], id="alpha0")
    # Entropy and length are the same in every run.
    assert (claim["verdict"], "t interval over bases" in claim["measurement"]) == ("does not hold", True)
    assert "not run: sdpg-urkl" in row(tree["runs"]["short"]["claims"], id="last-over-grpo")["why"]
    # The same difference decides with one base, but its sign changes with the base.
    methods = {"grpo": even(), "rlsd": lambda base, *rest: even(2)(base, *rest) if base != 1 else 1}
    params = study_params({"short": {"bases": 3, "seeds": 1, "methods": list(methods)}})
    write_runs(tmp_path, params, methods)
    claims = study_tree(params.study, read_study(params, tmp_path))["runs"]["short"]["claims"]
    assert row(claims, id="rlsd-over-grpo")["verdict"] == "cannot tell"


def test_the_course_of_training_is_shown_for_each_base(tree: dict[str, Any]) -> None:
    # k/1000 over steps 1 to 4 and 37 to 40 of 40.
    drift = row(tree["runs"]["short"]["course"], method="grpo", metric="kl_to_reference_k3")
    assert drift["start"] == pytest.approx([0.0025] * 3)
    assert drift["end"] == pytest.approx([0.0385] * 3)
    # Without a reference term nothing is measured.
    assert row(tree["runs"]["short"]["course"], method="alpha0", metric="kl_to_reference_k3")["end"] == [None] * 3


def test_page_figure_and_readme_are_made_from_the_numbers(
    tmp_path: Path, project: tuple[Path, Params], tree: dict[str, Any]
) -> None:
    root, params = project
    written = write_study(params, tmp_path / "reports", root)
    assert [path.name for path in written] == ["study.md", "study.json", "differences.png", "differences.svg"]
    assert json.loads(written[1].read_text(encoding="utf-8")) == tree
    assert written[2].read_bytes().startswith(b"\x89PNG") and b"SDPG-UFKL" in written[3].read_bytes()
    readme = tmp_path / "README.md"
    readme.write_text(
        "Above.\n" + publishing.BEGIN + "\nstale .291\n" + publishing.END + "\nBelow.\n", encoding="utf-8"
    )
    publishing.publish(tmp_path / "reports", tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("Above.\n") and text.endswith("Below.\n") and "stale" not in text
    assert f"{publishing.BEGIN}\n\n{tree['headline'][0]}" in text
    assert "| SDPG-UFKL | 0.667 (" in text
    assert json.loads((tmp_path / "docs/results/study.json").read_text(encoding="utf-8")) == tree
    # Filled once more, nothing changes.
    assert publishing.fill(text, tree) == text
    with pytest.raises(UserError, match="has no lines"):
        publishing.fill(text.replace(publishing.END, ""), tree)


def test_readme_says_what_the_published_study_says() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(publishing.BEGIN) == text.count(publishing.END) == 1
    published = ROOT / publishing.PUBLISHED / "study.json"
    if published.is_file():
        assert publishing.fill(text, json.loads(published.read_text(encoding="utf-8"))) == text


@pytest.mark.parametrize(
    ("runs", "study", "message"),
    [
        ({}, {}, "study.runs is empty"),
        ({"short": {**SHORT, "methods": ["ppo"]}}, {}, "names 'ppo', which is not under methods"),
        ({"short": SHORT}, {"recipe": None}, "study.recipe is null and base.model.kind is folder"),
        ({"short": SHORT}, {"parents": {"alpha0": "sdpg"}}, "names 'sdpg'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(runs: Any, study: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_study(study_params(runs, **study))
