"""A user's own verifier: what its answers become, and what is said where it does not do what it has to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
import pytest

from sdpg.errors import UserError
from sdpg.params import Imported, RewardParams, load_params, parse_params, read_yaml
from sdpg.records.run_inputs import stage_code, train_sections
from sdpg.rewards.own import OwnVerifier, check_verifier, make_verifier
from sdpg.rewards.verifiers import Status, Verdict, Verifier
from tests.helpers.own_modules import own_modules

ROOT = Path(__file__).parents[2]
MODULE = """
import time
from own_table import LONGEST
from sdpg.rewards.verifiers import Status, Verdict


def judge(completion, gold, slack=0):
    if completion == "slow":
        time.sleep(60)
    if completion == "odd":
        return "yes"
    if completion == "broken":
        raise KeyError("no such form")
    if not completion:
        return None
    return abs(len(completion) - int(gold)) <= slack


class Batch:
    def __init__(self, worth=1.0):
        self.worth = worth

    def score(self, completions, golds, truncated):
        if "broken" in completions:
            raise KeyError("no such form")
        if "odd" in completions:
            return [True for _ in completions]
        return [Verdict(Status.CORRECT, one, self.worth) for one in completions if one != "lost"]


class Empty:
    pass


class Picky:
    def __init__(self):
        raise OSError("no server")
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own_rule.py").write_text(MODULE)
    (tmp_path / "own_table.py").write_text("LONGEST = 3\n")
    with own_modules(tmp_path):
        yield tmp_path


def reward(path: str, timeout: float = 20.0, **options: Any) -> RewardParams:
    own = Imported(kind="import", path=f"own_rule:{path}", options=options)
    return RewardParams(verifier=own, correct=2.0, wrong=-0.5, timeout=timeout)


def test_a_functions_answers_become_verdicts(project: Path) -> None:
    completions = ["four", "fourteen", "", "", "\\boxed{5}", "four"]
    with make_verifier(reward("judge")) as verifier:
        assert isinstance(verifier, OwnVerifier) and verifier.name == "own_rule:judge"
        verdicts = verifier.score(completions, ["4", "4", "4", "4", "9", "4"], [False, False, False, True, True, False])
    right, wrong = Verdict(Status.CORRECT, None, 2.0), Verdict(Status.WRONG, None, -0.5)
    none, cut = Verdict(Status.NO_ANSWER, None, -0.5), Verdict(Status.TRUNCATED, None, -0.5)
    assert verdicts == [right, wrong, none, cut, Verdict(Status.CORRECT, "5", 2.0), right]
    with make_verifier(reward("judge", slack=4)) as verifier:
        assert [one.status for one in verifier.score(["fourteen"], ["4"], [False])] == [Status.CORRECT]
    assert isinstance(make_verifier(RewardParams(verifier="exact")), Verifier)


def test_a_function_that_hangs_is_killed_and_the_others_are_scored(project: Path) -> None:
    with make_verifier(reward("judge", timeout=1.0)) as verifier:
        statuses = [one.status for one in verifier.score(["four", "slow", "four"], ["4"] * 3, [False] * 3)]
    assert statuses == [Status.CORRECT, Status.TIMEOUT, Status.CORRECT]


def test_the_import_of_the_module_takes_no_time_of_a_response(project: Path) -> None:
    text = "import time\ntime.sleep(1.5)\n\n\ndef judge(completion, gold):\n    return completion == gold\n"
    Path("own_rule.py").write_text(text)
    with make_verifier(reward("judge", timeout=0.5)) as verifier:
        verdicts = verifier.score(["a", "b", "b"], ["a", "a", "b"], [False] * 3)
    assert [one.status for one in verdicts] == [Status.CORRECT, Status.WRONG, Status.CORRECT]


def test_a_module_that_no_worker_can_import_is_named(project: Path) -> None:
    Path("own_rule.py").write_text(
        "import multiprocessing, os\nif multiprocessing.parent_process():\n    os._exit(3)\n\n\n"
        "def judge(completion, gold):\n    return True\n"
    )
    said = r"^reward\.verifier: own_rule:judge can be imported here, but not in a worker process.*exit code 3"
    with make_verifier(reward("judge")) as verifier, pytest.raises(UserError, match=said):
        verifier.score(["a"], ["a"], [False])


def test_a_class_scores_a_batch(project: Path) -> None:
    with make_verifier(reward("Batch", worth=3.0)) as verifier:
        assert verifier.score(["a", "b"], ["a", "c"], [False, False]) == [
            Verdict(Status.CORRECT, "a", 3.0), Verdict(Status.CORRECT, "b", 3.0)
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "completion", "said"),
    [
        ("judge", "odd", r"own_rule:judge returned 'yes' for completion 'odd' and gold '4': return True, False"),
        ("judge", "broken", r"own_rule:judge raised KeyError: 'no such form' for completion 'broken' gold '4'"),
        ("Batch", "odd", r"own_rule:Batch\.score returned 1 values for 1 responses, the first of which is True"),
        ("Batch", "lost", r"own_rule:Batch\.score returned 0 values for 1 responses"),
        ("Batch", "broken", r"own_rule:Batch\.score raised KeyError: .*the first of which is 'broken'"),
    ],
)
def test_wrong_answers_of_own_code_are_never_a_reward(project: Path, path: str, completion: str, said: str) -> None:
    with make_verifier(reward(path)) as verifier, pytest.raises(UserError, match=rf"^reward\.verifier: {said}"):
        verifier.score([completion], ["4"], [False])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (reward("nothing"), r"own_rule\.py has no nothing; it has: .*judge"),
        (reward("judge", slak=1), r"judge\(completion, gold, slack=0\) cannot be called as .*unexpected keyword"),
        (reward("Empty"), r"a class without a method score\(completions, golds, truncated\)"),
        (reward("Batch", gain=1), r"Batch\(worth=1\.0\) cannot be called as \(gain=1\)"),
        (reward("Picky"), r"own_rule:Picky raised OSError: no server\. Correct it"),
    ],
)
def test_what_cannot_score_is_refused_before_anything_runs(project: Path, params: RewardParams, said: str) -> None:
    with pytest.raises(UserError, match=rf"^reward\.verifier.*{said}"):
        check_verifier(params)


def test_the_example_is_scored(project: Path) -> None:
    check_verifier(reward("judge"))
    check_verifier(RewardParams())
    with pytest.raises(UserError, match=r"own_rule:judge gave no verdict .* within reward\.timeout \(0\.5 seconds"):
        Path("own_rule.py").write_text("import time\n\n\ndef judge(completion, gold):\n    time.sleep(60)\n")
        check_verifier(reward("judge", timeout=0.5))
    Path("own_rule.py").write_text("def judge(completion, gold):\n    return completion.missing\n")
    with pytest.raises(UserError, match=r"raised AttributeError.* for completion '2 \+ 5 is 7"):
        check_verifier(reward("judge"))


def test_the_version_changes_with_code_and_options_alone(project: Path) -> None:
    def version(**options: Any) -> str:
        return OwnVerifier(params := reward("judge", **options), params.verifier).version  # pyright: ignore

    before = version()
    Path("own_rule.py").write_text(MODULE + "\n# A remark.\n")
    assert version() == before != version(slack=1)
    Path("own_table.py").write_text("LONGEST = 4\n")
    assert version() != before


def test_a_runs_fingerprint_covers_the_own_code(project: Path) -> None:
    params = load_params(ROOT / "params.yaml").model_copy(update={"reward": reward("judge")})
    assert train_sections(params, "grpo")["reward"]["verifier"]["path"] == "own_rule:judge"
    for stage, reads in (("prepare", False), ("base", True), ("train", True), ("evaluate", True), ("tabulate", False)):
        assert ({"own_rule.py", "own_table.py"} <= stage_code(stage, params, "grpo").modules.keys()) == reads


def test_an_own_verifier_named_again_keeps_its_options() -> None:
    params = reward("judge", slack=3)
    again = params.override({"verifier": Imported(kind="import", path="own_rule:judge"), "workers": 2})
    assert again.verifier == params.verifier and again.workers == 2
    assert params.override({"verifier": "exact"}).verifier_name == "exact"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("maths", r"reward\.verifier: Input should be 'math_verify'.*\(got 'maths'\)"),
        ({"kind": "import", "path": "rule.py"}, r"reward\.verifier\.path: String should match pattern.*'rule\.py'"),
        ({"kind": "import", "path": "a:b", "option": {}}, r"reward\.verifier\.option: unknown key"),
    ],
)
def test_params_yaml_takes_a_name_or_an_own_part(value: Any, said: str) -> None:
    tree = read_yaml(ROOT / "params.yaml")
    tree["reward"]["verifier"] = value
    with pytest.raises(UserError, match=said):
        parse_params(tree)
    with pytest.raises(ValidationError):
        RewardParams(verifier=value)
