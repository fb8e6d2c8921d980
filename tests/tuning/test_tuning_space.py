"""Tests what may be searched, and what is refused before the first trial."""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
import pytest

from pipelines.tune import check
from sdpg.errors import UserError
from sdpg.params import load_params, parse_params, read_yaml
from sdpg.params.tune import override
from sdpg.tuning.results import own_values
from sdpg.tuning.space import (
    applied,
    check_corners,
    defaults,
    grid_size,
    holds,
    leaves,
    method_space,
    optuna_space,
    plain,
    trial_params,
)
from sdpg.tuning.storage import open_storage
from sdpg.tuning.study import study_spec
from tests.helpers.tuning_helpers import METHOD, ROOT, SPACE, make_study, tune_params

FLOAT = {"kind": "float", "low": 0.1, "high": 1.0}


def refused(space: dict[str, Any] | None = None, method: str = METHOD, **tune: Any) -> None:
    params = tune_params(space, **tune)
    check_corners(params, method_space(params, method))


def test_the_projects_spaces_are_valid_for_every_method_of_the_default_run() -> None:
    params = load_params(ROOT / "params.yaml")
    for method in params.run.methods:
        space = method_space(params, method)
        check_corners(params, space)
        assert "train.lr" in space and all(not p.startswith("methods.") or p.split(".")[1] == method for p in space)
        assert holds(space, defaults(params, space)), "the untuned values can be the first trial"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"methods.sdpg-ufkl.betta": FLOAT}, r"no such path; near it: methods.sdpg-ufkl.beta"),
        ({"nowhere.at.all": FLOAT}, "no such path: write it as it stands"),
        ({"methods.sdpg-ufkl.beta": {"kind": "float", "low": 2.0, "high": 1.0}}, "the range is empty"),
        ({"methods.sdpg-ufkl.beta": {"kind": "float", "low": 1.0, "high": 1.0}}, "the range is empty"),
        ({"methods.sdpg-ufkl.beta": {"kind": "float", "low": 0.0, "high": 1.0, "log": True}}, "needs low above 0"),
        ({"methods.sdpg-ufkl.beta": {**FLOAT, "step": 2.0}}, "wider than"),
        ({"methods.sdpg-ufkl.gate": {"kind": "choice", "choices": []}}, "at least 2 items"),
        ({"methods.sdpg-ufkl.gate": {"kind": "choice", "choices": ["all", "all"]}}, "holds a value twice"),
        ({"methods.sdpg-ufkl.beta_warmup": {"kind": "float", "low": 0.0, "high": 1.5}},
         r"allows methods.sdpg-ufkl.beta_warmup = 1.5.*less than or equal to 1"),
        ({"methods.sdpg-ufkl.gate": {"kind": "choice", "choices": ["positive", "some"]}}, "gate = 'some'"),
        ({"methods.sdpg-ufkl.reference": {"kind": "choice", "choices": ["ufkl", "none"]}}, "would have no effect"),
        ({**SPACE, "train.steps": {"kind": "int", "low": 10, "high": 20}}, "this is the budget"),
        ({**SPACE, "data.seed": {"kind": "int", "low": 0, "high": 9}}, "may not be searched"),
        ({**SPACE, "evaluation.temperature": FLOAT}, "may not be searched"),
        ({**SPACE, "reward.verifier": {"kind": "choice", "choices": ["exact", "math_verify"]}}, "may not be searched"),
        ({**SPACE, "train.record_rows": {"kind": "int", "low": 0, "high": 9}}, "changes nothing that is learnt"),
        ({"train.lr": FLOAT}, "no path below methods.sdpg-ufkl"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_with_the_remedy(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        refused(space)


def test_corners_are_tried_together() -> None:
    # Either value alone goes with the defaults, 1 and -1; together they contradict each other.
    space = {
        "methods.sdpg-ufkl.beta": FLOAT,
        "reward.correct": {"kind": "float", "low": 0.5, "high": 1.0},
        "reward.wrong": {"kind": "float", "low": -1.0, "high": 0.75},
    }
    with pytest.raises(UserError, match=r"(?s)reward.correct = 0.5, reward.wrong = 0.75.*must be larger than wrong"):
        refused(space)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"objective": {"metric": "chain-3", "kind": "last"}}, "'chain-3', a benchmark: .* use validation"),
        ({"objective": {"metric": "reward", "kind": "last"}}, "there is validation to tune on"),
        ({"storage": "postgresql://me:secret@host/db"}, "SDPG_TUNE_STORAGE"),
        ({"sampler": "grid"}, "is not divided into values"),
        ({"training_seed": 2000}, "fresh seeds"),
        ({"training_seed": 0}, "tuning on a seed that is reported later"),
        ({"eval_every": 31}, "is more than steps"),
    ],
)
def test_a_wrong_section_is_refused_with_the_remedy(tune: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}") as error:
        tune_params(**tune)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sqlite:////no/such/folder/tune.db", "no folder /no/such/folder"),
        ("sqlite:///:memory:", "in memory is lost"),
        ("nonsense", "is no database address"),
        ("oracle://host/db", "not in oracle"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/db cannot"),
        ("mysql+nodriver://me@127.0.0.1:1/db", "no database address|driver"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDPG_TUNE_STORAGE", address)
    with pytest.raises(UserError, match=message) as error:
        open_storage(tune_params())
    assert "secret" not in str(error.value)


def test_a_study_of_another_space_is_refused_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    first = make_study(tune_params())
    assert make_study(tune_params(), budget=50).uid == first.uid, "a larger budget goes on with it"
    other = {**SPACE, "train.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True}}
    for params, what in (
        (tune_params(other), "space"),
        (tune_params(objective={"metric": "validation", "kind": "area"}), "objective"),
        (tune_params(second="tokens"), "objective"),
        (tune_params(steps=20), "train"),
        (tune_params(tree={"train.weight_decay": 0.0}), "train"),
        (tune_params(tree={"methods.sdpg-ufkl.alpha": 0.5}), "method"),
    ):
        with pytest.raises(UserError, match=f"belongs to another .*{what}.*another name"):
            make_study(params)
    assert make_study(tune_params(tree={"methods.sdpg-ufkl.beta": 2.0})).uid == first.uid, "beta is what is searched"
    assert make_study(tune_params(other), name="t").uid != first.uid


def test_a_trial_is_params_yaml_with_its_values_and_the_budget() -> None:
    params = tune_params(steps=20, eval_every=4, samples=3)
    values = {"train.lr": 2e-4, "methods.sdpg-ufkl.beta": 7.0, "methods.sdpg-ufkl.gate": "all"}
    trial = trial_params(params, values)
    assert (trial.train.lr, trial.methods[METHOD].beta, trial.methods[METHOD].gate) == (2e-4, 7.0, "all")
    assert (trial.train.steps, trial.train.eval_every, trial.evaluation.samples) == (20, 4, 3)
    assert trial.methods["sdpg-urkl"] == params.methods["sdpg-urkl"] and trial.data == params.data
    assert params.train.lr == 3e-4, "the tree itself is left as it was"


def test_applied_sets_leaves_of_a_copy() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}}}
    assert applied(tree, {"a.c.d": 3, "a.b": 4}) == {"a": {"b": 4, "c": {"d": 3}}}
    assert tree == {"a": {"b": 1, "c": {"d": 2}}}


def test_distributions_are_optunas_and_the_grid_is_counted() -> None:
    params = tune_params({
        "methods.sdpg-ufkl.beta": {"kind": "float", "low": 0.0, "high": 1.0, "step": 0.25},
        "methods.sdpg-ufkl.gate": {"kind": "choice", "choices": ["positive", "all"]},
        "train.updates_per_batch": {"kind": "int", "low": 1, "high": 2},
    }, sampler="grid")  # fmt: skip
    space = method_space(params, METHOD)
    assert grid_size(space) == 5 * 2 * 2
    found = optuna_space(space)
    assert found["methods.sdpg-ufkl.beta"].step == 0.25  # pyright: ignore[reportAttributeAccessIssue]
    assert space["methods.sdpg-ufkl.beta"].grid() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert holds(space, {"methods.sdpg-ufkl.beta": 0.5, "methods.sdpg-ufkl.gate": "all"})
    assert not holds(space, {"methods.sdpg-ufkl.beta": 1.5})
    assert not holds(space, {"methods.sdpg-ufkl.gate": "some"})


def test_a_trial_of_several_processes_is_refused() -> None:
    tree = read_yaml(ROOT / "params.yaml")
    tree["train"]["distributed"] = {"processes": 2, "strategy": "ddp", "config": None}
    with pytest.raises(UserError, match=r"train\.distributed\.strategy is ddp.*set it to none"):
        check(parse_params(tree), "sdpg-ufkl")


def test_best_values_hold_for_the_studys_method_alone() -> None:
    params = tune_params()
    values = {"train.lr": 2e-4, "train.dtype": "bfloat16", "rollout.temperature": 0.9, "methods.sdpg-ufkl.beta": 7.0}
    own = own_values(values, METHOD)
    assert list(own) == ["methods.sdpg-ufkl.train.lr", "train.dtype", "rollout.temperature", "methods.sdpg-ufkl.beta"]
    rate = {path: own[path] for path in own if "lr" in path or "beta" in path}
    tuned = parse_params(applied(plain(params), rate))
    for name, method in tuned.methods.items():
        changed = name == METHOD
        assert tuned.train_of(method).lr == (2e-4 if changed else params.train_of(params.methods[name]).lr), name
        assert (method == params.methods[name]) != changed
    assert own_values(own, METHOD) == own, "a study that already searched the method's own rate"


def test_dvc_takes_best_values_also_where_params_yaml_has_no_such_path() -> None:
    paths = {"methods.sdpg-ufkl.train.lr": "0.0002", "methods.sdpg-ufkl.beta": "7.0", "train.lr": "0.0002"}
    tree = read_yaml(ROOT / "params.yaml")
    parser = OverridesParser.create()
    for path, text in paths.items():
        (parsed,) = parser.parse_overrides([override(path, text)])
        there = path in leaves(tree)
        # Without ++, Hydra refuses a path that is not there yet.
        assert parsed.is_force_add() != there and parsed.key_or_group == path


def test_a_method_with_its_own_rate_is_tuned_again_at_that_rate() -> None:
    space = method_space(tune_params(tree={"methods.sdpg-ufkl.train.lr": 1e-4}), METHOD)
    assert "train.lr" not in space and next(iter(space)) == "methods.sdpg-ufkl.train.lr"
    params = tune_params(tree={"methods.sdpg-ufkl.train.lr": 1e-4})
    assert defaults(params, space)["methods.sdpg-ufkl.train.lr"] == 1e-4
    trial = trial_params(params, {"methods.sdpg-ufkl.train.lr": 5e-4})
    assert trial.train_of(trial.methods[METHOD]).lr == 5e-4 and trial.train.lr == params.train.lr
    make_spec = study_spec(params, METHOD, {})
    assert make_spec["method"]["train"]["lr"] == "(searched)"
