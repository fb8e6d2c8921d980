"""Tests numbers and pictures of studies and comparisons, by hand."""

import json
import math
from pathlib import Path

import numpy as np
from optuna.trial import TrialState, create_trial
import pytest

from pipelines import tune_all
from sdpg.files import write_json
from sdpg.params import ReportParams
from sdpg.records.schemas import write_evaluations
from sdpg.tuning import study as study_module
from sdpg.tuning.budgets import equal_words
from sdpg.tuning.comparison import adjusted, as_json, as_markdown, compare_settings
from sdpg.tuning.pages import page, write_study_page
from sdpg.tuning.pictures import best_so_far, schedule
from sdpg.tuning.results import own_values, write_results
from sdpg.tuning.retraining import Setting, setting_params
from sdpg.tuning.trials import beta_at, objective_value
from tests.helpers.tuning_helpers import METHOD, fake_work, make_study, outcome, tune_params


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDPG_TUNE_STORAGE", raising=False)
    monkeypatch.setattr(study_module, "git_state", lambda: {"commit": "abc", "dirty": False})


def test_the_objective_is_the_last_value_or_the_mean_height() -> None:
    curve = [(0, 0.2), (5, 0.4), (10, 0.4), (30, 0.8)]
    assert objective_value(curve, "last") == 0.8
    # 5·0.3 + 5·0.4 + 20·0.6 = 15.5 over 30 steps
    assert objective_value(curve, "area") == pytest.approx(15.5 / 30)
    assert objective_value(curve[:2], "area") == pytest.approx(0.3)
    assert objective_value(curve[:1], "area") == 0.2


def test_beta_is_the_schedules() -> None:
    params = tune_params(tree={"train.steps": 30})
    # Warm-up of round(0.125·30) = 4 steps, decay over the last round(0.875·30) = 26.
    assert beta_at(params, METHOD, 2) == pytest.approx(0.5)
    assert beta_at(params, METHOD, 17) == pytest.approx(13 / 26)
    assert beta_at(params, METHOD, 30) == 0.0
    assert beta_at(params, "grpo", 5) == 0.0


def test_each_method_shows_its_own_schedule() -> None:
    study = make_study(tune_params(), 2)
    fake_work(study)
    name, values = schedule(study, study.trials()[0])
    assert name == "β(k)" and len(values) == 30 and values[3] == pytest.approx(1.0) and values[-1] == 0.0


def test_the_best_so_far_is_the_highest_complete_value_up_to_each_trial() -> None:
    values = [
        (0.9, TrialState.PRUNED),
        (0.2, TrialState.COMPLETE),
        (0.4, TrialState.COMPLETE),
        (0.3, TrialState.COMPLETE),
    ]
    trials = [create_trial(state=state, value=value) for value, state in values]
    assert best_so_far(trials) == pytest.approx([math.nan, 0.2, 0.4, 0.4], nan_ok=True)


def write_answers(setting: Setting, seed: int, right: dict[str, list[int]], samples: int = 4) -> None:
    rows = [
        {
            "run": "r", "method": setting.method, "seed": seed, "step": 30, "benchmark": name,
            "problem_id": f"{problem:03d}", "sample": sample, "prompt": "p", "completion": "c",
            "status": "correct" if sample < count else "wrong", "reward": 1.0, "extracted_answer": "1", "gold": "1",
            "length": 1, "truncated": False, "temperature": 1.0, "verifier": "exact", "verifier_version": "0",
        }
        for name, counts in right.items() for problem, count in enumerate(counts) for sample in range(samples)
    ]  # fmt: skip
    folder = setting.evaluation_folder(seed)
    write_evaluations(folder / "final.parquet", rows)
    write_json(folder / "summary.json", {"accuracy": {}})


def both() -> tuple[Setting, Setting]:
    return Setting("s", METHOD, "default", {}, ("a",)), Setting("s", METHOD, "tuned", {"train.lr": 1.0}, ("a",))


def test_default_and_tuned_are_paired_by_problem_over_the_same_seeds() -> None:
    default, tuned = both()
    source = np.random.default_rng(0)
    for seed in (1, 2):
        base = source.integers(0, 3, 20)
        write_answers(default, seed, {"a": base.tolist()})
        write_answers(tuned, seed, {"a": (base + 1).tolist()})
    rows = adjusted(compare_settings([tuned], default, [1, 2], ReportParams(resamples=500)))
    assert [row.setting for row in rows] == ["default", "tuned"]
    assert rows[0].gain is None and rows[0].p_holm is None
    assert rows[1].gain is not None and rows[1].gain.mean == pytest.approx(0.25)
    assert rows[1].gain_by_seed == pytest.approx([0.25, 0.25])
    assert rows[1].mean - rows[0].mean == pytest.approx(0.25)
    assert rows[1].over_both is not None and rows[1].over_both.low < rows[1].mean < rows[1].over_both.high
    assert (rows[1].problems, rows[1].samples, rows[1].seeds) == (20, 4, 2)
    text = as_markdown(rows)
    assert "20 problems (a)" in text and "4 samples" in text and "2 seed(s)" in text
    assert as_json(rows)[1]["gain"]["mean"] == pytest.approx(0.25)


def test_a_seed_that_diverged_is_left_out_on_both_sides_and_named() -> None:
    default, tuned = both()
    for seed in (1, 2):
        write_answers(default, seed, {"a": [seed] * 8})
    write_answers(tuned, 2, {"a": [3] * 8})
    write_json(tuned.evaluation_folder(1) / "summary.json", {"error": "not finite"})
    rows = compare_settings([tuned], default, [1, 2], ReportParams(resamples=200))
    assert rows[1].seeds == 1 and rows[1].diverged == [1]
    assert rows[1].gain is not None and rows[1].gain.mean == pytest.approx(0.25), "against seed 2 of the default alone"
    assert "Did not stay finite: s, tuned: seed 1" in as_markdown(rows)


def test_p_values_are_adjusted_for_all_comparisons() -> None:
    default, tuned = both()
    third = Setting("s", METHOD, "third", {"train.lr": 2.0}, ("a",))
    for setting, right in ((default, [1] * 12), (tuned, [2] * 12), (third, [1, 2] * 6)):
        write_answers(setting, 1, {"a": right})
    rows = adjusted(compare_settings([tuned, third], default, [1], ReportParams(resamples=5000)))
    p = {row.setting: (row.gain.p_value, row.p_holm) for row in rows if row.gain}
    assert p["tuned"][1] == pytest.approx(2 * p["tuned"][0]) and p["third"][1] == pytest.approx(p["third"][0])


def test_a_default_that_no_trial_beat_is_trained_and_shown_alone() -> None:
    params = tune_params(retrain={"seeds": [1]})
    study = make_study(params, 3, METHOD)
    fake_work(study)  # with its maximum at the default
    write_results(study)
    (default,) = tune_all.to_compare(params, METHOD, METHOD)
    assert default.values == own_values(study.defaults, METHOD)
    write_answers(default, 1, {name: [1] * 8 for name in default.sets})
    said = tune_all.report(params, [METHOD], "")
    assert f"studies of {METHOD} no trial was better than the values of params.yaml" in said
    found = json.loads(Path("reports/tune/comparison.json").read_text())["rows"]
    assert {row["setting"] for row in found} == {"default"} and all(row["gain"] is None for row in found)


def test_budgets_that_differ_are_said_to() -> None:
    row = {"study": "a", "trials": 12, "steps": 30, "rollouts": 128, "parameters": 3}
    assert "Each study was given 12 trials × 30 steps × 128 rollouts" in equal_words([row, {**row, "study": "b"}])
    assert "Budgets differ" in equal_words([row, {**row, "study": "b", "trials": 6}])


def test_a_retrained_setting_has_the_steps_asked_for_and_the_final_samples_of_params_yaml() -> None:
    setting = Setting("s", METHOD, "x", {"methods.sdpg-ufkl.beta": 3.0}, ("a",))
    params = tune_params(steps=20)
    assert setting_params(params, setting).train.steps == 20
    longer = tune_params(steps=20, retrain={"seeds": [7], "steps": 60})
    assert setting_params(longer, setting).train.steps == 60
    assert setting_params(longer, setting).methods[METHOD].beta == 3.0
    assert setting_params(longer, setting).evaluation.final_samples == params.evaluation.final_samples


def test_a_page_escapes_what_it_shows() -> None:
    text = page("<b>", ["<script>alert(1)</script>"], [], [], [{"address": "x", "name": "<i>", "words": "&"}])
    assert "<script>" not in text and "&lt;script&gt;" in text and "<i>" not in text


def test_the_page_of_a_study_shows_curves_schedules_and_every_trial() -> None:
    study = make_study(tune_params(sampler="random"), 6)
    while (claim := study.claim()) is not None:
        state = TrialState.PRUNED if claim.number == 3 else TrialState.COMPLETE
        study.finish(claim, outcome(claim, 10 if claim.number == 3 else 30, state))
    folder = write_results(study)
    write_study_page(study, folder)
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"history", "curves", "schedules", "slices", "parallel", "importance"}
    text = (folder / "report.html").read_text()
    assert text.count("<tr") == 7 and "5 complete, 1 pruned" in text and "no trial was asked a benchmark" in text
    assert 'href="s/report.html"' in (folder.parent / "index.html").read_text()


def test_a_study_without_a_finished_trial_has_a_page() -> None:
    study = make_study(tune_params(), 2)
    write_study_page(study, write_results(study))
    assert "0 complete trials are fewer" in Path("reports/tune/s/report.html").read_text()
