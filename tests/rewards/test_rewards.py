"""Tests answers and their verdicts: by hand, against math-verify itself, and under hostile input."""

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from sdpg.files import read_json_lines
from sdpg.params import RewardParams
from sdpg.rewards.extraction import MAX_ANSWER_CHARACTERS, MAX_NESTING, normalise_answer
from sdpg.rewards.math_verify_pool import math_verify_equal
from sdpg.rewards.verifiers import Status, Verdict, Verifier
from tests.helpers.hostile import ENDLESS

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT.parent / "shared" / "data"
CALLS = "SDPG_TEST_VERIFY_CALLS"


def scripted_verify(gold: str, answer: str) -> bool:
    """Runs in a worker: writes the call down, then does what the answer says."""
    with open(os.environ[CALLS], "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {gold} {answer}\n")
    if answer == "sleep":
        time.sleep(1000)
    elif answer == "exit":
        os._exit(1)
    elif answer == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif answer == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    elif answer == "allocate":
        bytearray(8 << 30)
    return answer in ("same", "terminated")


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(RewardParams()) as shared:
        yield shared


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CALLS, str(tmp_path_factory.mktemp("calls") / "calls"))
        with Verifier(RewardParams(timeout=1.0), verify=scripted_verify) as shared:
            yield shared


def calls() -> list[str]:
    path = Path(os.environ[CALLS])
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def score_one(verifier: Verifier, answer: str, gold: str) -> Verdict:
    [verdict] = verifier.score([f"\\boxed{{{answer}}}"], [gold], [False])
    return verdict


# Verdicts


@pytest.mark.parametrize(
    ("answer", "gold", "status"),
    [
        ("204", "204", Status.CORRECT),
        ("205", "204", Status.WRONG),
        ("027", "27", Status.CORRECT),
        ("1{,}234.0", "1234", Status.CORRECT),
        ("9" * 900 + "8", "9" * 901, Status.WRONG),
        ("0" * 90 + "9" * 900, "9" * 900, Status.CORRECT),
        ("0.5", r"\frac{1}{2}", Status.CORRECT),
        (r"\tfrac12", "1/2", Status.CORRECT),
        ("1+x^2", "x^2+1", Status.CORRECT),
        ("x=5", "5", Status.CORRECT),
        ("336", r"336^\circ", Status.CORRECT),
        ("336°", r"336^\circ", Status.CORRECT),
        (r"336^{\circ}", r"336^\circ", Status.CORRECT),
        (r"336^\circ", "336", Status.CORRECT),
        ("335", r"336^\circ", Status.WRONG),
        ("−\\frac12", "-0.5", Status.CORRECT),
        (r"204 \text{ or } 205", "204", Status.WRONG),
        (r"\{204, 205\}", "204", Status.WRONG),
        ("(1, 2)", "(2,1)", Status.WRONG),
    ],
)
def test_math_verify_verdicts(verifier: Verifier, answer: str, gold: str, status: Status) -> None:
    assert score_one(verifier, answer, gold) == Verdict(status, answer, 1.0 if status is Status.CORRECT else -1.0)


def test_missing_and_truncated_answers(verifier: Verifier) -> None:
    verdicts = verifier.score(
        ["so it is 5", "so it is", r"\boxed{5} and further", r"\boxed{}", r"\boxed{6} and"],
        ["5"] * 5,
        [False, True, True, False, True],
    )
    assert [v.status.value for v in verdicts] == ["no_answer", "truncated", "correct", "no_answer", "wrong"]
    assert [v.extracted_answer for v in verdicts] == [None, None, "5", None, "6"]
    assert [v.reward for v in verdicts] == [-1.0, -1.0, 1.0, -1.0, -1.0]


def test_rewards_come_from_the_params() -> None:
    with Verifier(RewardParams(correct=2.0, wrong=0.0)) as verifier:
        assert [v.reward for v in verifier.score([r"\boxed{1}", ""], ["1", "1"], [False, False])] == [2.0, 0.0]


def test_lists_of_different_lengths_are_refused(verifier: Verifier) -> None:
    with pytest.raises(ValueError, match="zip"):
        verifier.score(["a", "b"], ["1"], [False, False])


def test_answer_line_format() -> None:
    with Verifier(RewardParams(answer_format="answer_line")) as verifier:
        verdicts = verifier.score(
            ["\\boxed{6}\nAnswer: $5$.", "Answer: \\boxed{5}", "\\boxed{5}", "Answer: 4}", "Answer: 4} \\boxed{5"],
            ["5"] * 5,
            [False] * 5,
        )
    assert [v.status.value for v in verdicts] == ["correct", "correct", "no_answer", "wrong", "wrong"]


def test_names_and_versions() -> None:
    assert Verifier(RewardParams()).name == "math_verify"
    assert Verifier(RewardParams()).version == f"{version('math-verify')}+rules.6"
    assert Verifier(RewardParams(verifier="math_verify_only")).version == f"{version('math-verify')}+rules.6"
    assert Verifier(RewardParams(verifier="exact")).version == "6"
    assert Verifier(RewardParams(verifier="string_match")).name == "string_match"
    assert Verifier(RewardParams(verifier="string_match")).version == "2"


def test_string_match() -> None:
    padding = "x" * 600
    cases = [
        (r"\boxed{204}", "204", Status.CORRECT),
        (r"\boxed{ 1{,}234 }", "1234", Status.CORRECT),
        (r"\boxed{336}", r"336^\circ", Status.CORRECT),
        (r"\boxed{0.5}", r"\frac{1}{2}", Status.WRONG),
        (r"\boxed{27.0}", "27", Status.WRONG),
        (r"\boxed{204}" + padding, "204", Status.NO_ANSWER),
        (padding + "\nAnswer: 204", "204", Status.CORRECT),
        ("\\boxed{205}\nAnswer: 204", "204", Status.WRONG),
    ]
    with Verifier(RewardParams(verifier="string_match"), verify=scripted_verify) as verifier:
        verdicts = verifier.score([c for c, _, _ in cases], [g for _, g, _ in cases], [False] * len(cases))
    assert [v.status for v in verdicts] == [status for _, _, status in cases]


# Against math-verify, and on the benchmarks


def test_the_integer_fast_path_agrees_with_math_verify(verifier: Verifier) -> None:
    rng = random.Random(0)
    pairs = []
    for _ in range(300):
        gold = rng.randint(-20_000, 20_000)
        number = gold if rng.random() < 0.5 else gold + rng.choice([-10, -1, 1, 10, -2 * gold - 1])
        pairs.append((str(gold), rng.choice([f"{number}", f"{number:,}", f"{number}.0", f"${number}$"])))
    verdicts = verifier.score([f"\\boxed{{{a}}}" for _, a in pairs], [g for g, _ in pairs], [False] * len(pairs))
    assert [v.status is Status.CORRECT for v in verdicts] == [math_verify_equal(*pair) for pair in pairs]
    assert {v.status for v in verdicts} == {Status.CORRECT, Status.WRONG}


def test_exact_arithmetic_agrees_with_math_verify() -> None:
    at = random.Random(0)

    def written() -> str:
        a, b = at.randint(-9, 9), at.choice([1, 2, 3, 4, 8])
        return at.choice([str(a), f"{a}/{b}", f"\\frac{{{a}}}{{{b}}}", f"-\\tfrac{{{abs(a)}}}{{{b}}}", f"{a / 8}"])

    verifier = Verifier(RewardParams())
    decided = Counter()
    for _ in range(400):
        gold, answer = normalise_answer(written()), normalise_answer(at.choice(["", "x="]) + written())
        if outcome := verifier.decide(gold, answer):
            decided[outcome.status] += 1
            assert (outcome.status is Status.CORRECT) == math_verify_equal(gold, answer)
    assert min(decided[Status.CORRECT], decided[Status.WRONG]) > 10


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"no benchmark files in {BENCHMARKS}")
@pytest.mark.parametrize("kind", ["math_verify", "string_match"])
def test_gold_answers_of_the_benchmarks_verify_against_themselves(kind: str, verifier: Verifier) -> None:
    golds = [row["answer"] for path in sorted(BENCHMARKS.glob("*.jsonl")) for row in read_json_lines(path)]
    assert golds
    used = verifier if kind == "math_verify" else Verifier(RewardParams(verifier="string_match"))
    for form in (r"So \boxed{%s}.", r"\boxed{ $%s$ }"):
        verdicts = used.score([form % gold for gold in golds], golds, [False] * len(golds))
        assert {v.status for v in verdicts} == {Status.CORRECT}
    assert all(math_verify_equal(gold, gold) for gold in golds)


# Hostile input


def test_hostile_answers_end_in_time_and_earn_nothing() -> None:
    endless = ENDLESS[:2]
    answers = [
        r"\frac{" * 300 + "1" + "}{2}" * 300,  # over the length limit
        "204\x00",
        "\x00",
        "٢٠٤",
        "²⁰⁴",
        "\ud800",
        "9" * MAX_ANSWER_CHARACTERS,
        "9" * 100_000,
        "(" * 150 + "204",
        r"\begin{pmatrix}" * 20,
        r"204 \neq 205",
        "__import__('os').system('exit 1')",
    ]
    texts = [f"\\boxed{{{answer}}}" for answer in answers]
    texts += [r"\boxed{204", r"\boxed{204\}", r"\boxed{1}" * 900, "204" * 40_000, "\\" * 100_000, "{" * 100_000]
    with Verifier(RewardParams(timeout=1.0)) as verifier:
        for answer in endless:
            assert score_one(verifier, answer, "204") == Verdict(Status.TIMEOUT, answer, -1.0)
        assert verifier.failures == 2
        verdicts = verifier.score(texts, ["204"] * len(texts), [False] * len(texts))
        assert not [v for v in verdicts if v.status is Status.CORRECT or v.reward != -1.0]
        assert score_one(verifier, r"\frac{2}{6}", r"\frac{1}{3}").status is Status.CORRECT


# The pool


@pytest.mark.parametrize("fate", ["sleep", "exit", "segfault", "allocate"])
def test_a_failed_worker_is_a_timeout_and_the_pool_lives_on(scripted: Verifier, fate: str) -> None:
    before = scripted.failures
    verdicts = scripted.score(
        [rf"\boxed{{{a}}}" for a in ("same", fate, "other")], [f"other same {fate}"] * 3, [False] * 3
    )
    assert [v.status.value for v in verdicts] == ["correct", "timeout", "wrong"]
    assert [v.reward for v in verdicts] == [1.0, -1.0, -1.0]
    assert scripted.failures == before + 1


def test_distinct_pairs_are_verified_once_and_order_is_kept(scripted: Verifier) -> None:
    before = len(calls())
    answers = ["same", "other", "same", "7", "$same$", "other"]
    texts = [rf"\boxed{{{a}}}" for a in answers]
    expected = ["correct", "wrong", "correct", "wrong", "correct", "wrong"]
    for _ in range(2):  # the second time from the cache
        verdicts = scripted.score(texts, ["same other"] * 6, [False] * 6)
        assert [v.status.value for v in verdicts] == expected
        assert [v.extracted_answer for v in verdicts] == answers
    assert sorted(line.split(" ", 1)[1] for line in calls()[before:]) == [
        "same other 7",
        "same other other",
        "same other same",
    ]
    scripted.score([r"\boxed{same}"], ["same as b"], [False])
    assert len(calls()) == before + 4


def test_integers_and_equal_strings_need_no_worker(scripted: Verifier) -> None:
    before = len(calls())
    verdicts = scripted.score([r"\boxed{5}", r"\boxed{6}", r"\boxed{x}"], ["5", "5", "$x$"], [False] * 3)
    assert [v.status.value for v in verdicts] == ["correct", "wrong", "correct"]
    assert len(calls()) == before


def test_what_bounded_exact_arithmetic_decides_needs_no_worker(verifier: Verifier) -> None:
    asked = [
        ("1/2", r"\frac{2}{4}", Status.CORRECT),
        ("1/2", "0.5", Status.CORRECT),
        ("1/2", r"\frac{1}{3}", Status.WRONG),
        ("1/3", "0.333333", Status.WRONG),
        ("204", r"\frac{408}{2}", Status.CORRECT),
        ("204", r"m+n=204\text{ cm}^2", Status.CORRECT),
        ("204", "204.0000001", Status.WRONG),
        ("(1,x)", r"\left( 1, x \right)", Status.CORRECT),
        (r"\frac{1}{2026!}", r"\frac{1}{2024!}", Status.WRONG),
    ]
    for gold, answer, status in asked:
        outcome = verifier.decide(gold, answer)
        assert outcome is not None and outcome.status is status


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("2", r"\sqrt{2}^2"), ("204", r"204^{\pi-\pi+1}"), ("x+1", "1+x"), ("x=y", "2x=2y"), ("204", r"(10^8)!")],
)
def test_what_needs_floating_point_is_asked(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.decide(gold, answer) is None


def test_different_whole_numbers_of_any_length_need_no_worker(scripted: Verifier) -> None:
    before = len(calls())
    assert scripted.compare([("9" * 5000, "9" * 900), ("9" * 5000, "-1")]) == [Status.WRONG] * 2
    assert len(calls()) == before


@pytest.mark.parametrize("name", ["math_verify", "math_verify_only"])
def test_deep_or_long_or_unbalanced_answers_need_no_worker(scripted: Verifier, name: Any) -> None:
    before = len(calls())
    verifier = Verifier(RewardParams(verifier=name), verify=scripted_verify)
    deep = ["(" * (MAX_NESTING + 1) + "x", "{" * (MAX_NESTING + 1) + "x" + "}" * (MAX_NESTING + 1)]
    answers = [*deep, "x+" * MAX_ANSWER_CHARACTERS, "x}", ""]
    assert verifier.compare([("y", answer) for answer in answers]) == [Status.WRONG] * 5
    assert len(calls()) == before


def test_time_outs_are_not_cached(scripted: Verifier) -> None:
    before = len(calls())
    for _ in range(2):
        assert score_one(scripted, "exit", "exit uncached").status is Status.TIMEOUT
    assert len(calls()) == before + 4  # what breaks a worker is tried once more, alone


def test_an_idle_worker_that_died_is_replaced(scripted: Verifier) -> None:
    score_one(scripted, "same", "same before the death")
    os.kill(int(calls()[-1].split()[0]), signal.SIGKILL)
    failures = scripted.failures
    assert score_one(scripted, "same", "same after the death").status is Status.CORRECT
    assert scripted.failures == failures


def test_a_sigterm_to_every_process_of_a_job_changes_no_verdict(scripted: Verifier) -> None:
    assert score_one(scripted, "terminated", "terminated by a scheduler").status is Status.CORRECT


def test_workers_neither_run_the_main_module_again_nor_import_torch(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(
        "import sys\ndef verify(gold, answer):\n    return not {'torch', 'transformers', 'marker'} & set(sys.modules)\n"
    )
    (tmp_path / "marker.py").write_text("")
    (tmp_path / "stage.py").write_text(
        "import sys, marker, helper\n"
        "from sdpg.params import RewardParams\n"
        "from sdpg.rewards.verifiers import Verifier\n"
        "assert not {'torch', 'transformers', 'sympy'} & set(sys.modules)\n"
        "print('main')\n"
        "with Verifier(RewardParams(), helper.verify) as verifier:\n"
        "    print(verifier.score([r'\\boxed{a}'], ['b'], [False])[0].status)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-m", "stage"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.split(), done.stderr) == (["main", "correct"], "")
