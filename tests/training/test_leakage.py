"""Tests the detection of mentions of a given answer and of copies of the privileged solution."""

from pathlib import Path
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pyarrow as pa
import pytest

from benchmarks import plain_records
from sdpg.params import load_params
from sdpg.params.watch import WatchParams
from sdpg.problems.prompts import PreparedRow
from sdpg.training.leakage import QUOTED, WORD, WordRuns, copied_words, leak_shares, mentions, repeats, words

ROOT = Path(__file__).parents[2]
PATTERNS = load_params(ROOT / "params.yaml").watch.mentions


def copied(completion: str, solution: str, prompt: str = "") -> int:
    return copied_words(words(completion), WordRuns(words(solution)), WordRuns(words(prompt)))


def quadratic(completion: list[str], solution: list[str], prompt: list[str]) -> int:
    """The definition read out: every run of the completion is looked up in both texts."""

    def stands(run: list[str], text: list[str]) -> bool:
        return any(text[at : at + len(run)] == run for at in range(len(text) - len(run) + 1))

    places = range(len(completion))
    runs = [(start, end) for start in places for end in range(start + 1, len(completion) + 1)]
    quoted = {
        place
        for start, end in runs
        if end - start >= QUOTED and stands(completion[start:end], prompt)
        for place in range(start, end)
    }
    shared = [(start, end) for start, end in runs if stands(completion[start:end], solution)]
    return max((len(set(range(start, end)) - quoted) for start, end in shared), default=0)


def test_words_ignore_case_spacing_and_signs() -> None:
    assert words("So  $x^2-5x = \\frac{1}{2}$,\nÄhm x_1") == ["so", "x", "2", "5x", "frac", "1", "2", "ähm", "x_1"]


@pytest.mark.parametrize(
    ("completion", "solution", "prompt", "count"),
    [
        ("a b c", "a b c", "", 3),
        ("x a b y", "a b c", "", 2),
        ("a b x b c", "a b c", "", 2),
        # Two separate runs are not one: each has two words.
        ("a b c d", "a b x c d", "", 2),
        ("", "a b", "", 0),
        ("a b", "", "", 0),
        ("A, b! C", "a-b=c", "", 3),
        # The problem restated, four words and more, is a quotation …
        ("p q r s", "p q r s a b", "p q r s", 0),
        # … with what follows it the two new words count …
        ("p q r s a b", "p q r s a b", "p q r s", 2),
        # … and in the middle of a copy it does not end the copy.
        ("a b p q r s c", "a b p q r s c", "p q r s", 3),
        # Three words that stand in the prompt are chance.
        ("a p q r b", "a p q r b", "p q r s", 5),
        # A quotation stays one where the solution has only its end.
        ("p q r s a b", "s a b", "p q r s", 2),
        # Two quotations that overlap quote all of their words.
        ("p q r s t u v", "p q r s t u v", "p q r s t x s t u v", 0),
        # What is quoted need not be all of it in the solution, nor at the same place of the prompt.
        ("p q r s t", "q r s t", "x p q r s", 1),
    ],
)
def test_copied_words_by_hand(completion: str, solution: str, prompt: str, count: int) -> None:
    assert copied(completion, solution, prompt) == count
    assert quadratic(words(completion), words(solution), words(prompt)) == count


LETTERS = st.lists(st.sampled_from("ab"), max_size=14)


@settings(deadline=None)
@given(LETTERS, LETTERS, LETTERS)
def test_copied_words_agree_with_a_quadratic_reference(
    completion: list[str], solution: list[str], prompt: list[str]
) -> None:
    assert copied_words(completion, WordRuns(solution), WordRuns(prompt)) == quadratic(completion, solution, prompt)


MORE_LETTERS = st.lists(st.sampled_from("abcd"), max_size=20)


@settings(deadline=None)
@given(MORE_LETTERS, MORE_LETTERS, MORE_LETTERS, MORE_LETTERS)
def test_copied_words_agree_where_texts_hold_each_other(
    quoted: list[str], start: list[str], middle: list[str], end: list[str]
) -> None:
    completion, solution = start + quoted + middle, quoted + middle + end
    found = copied_words(completion, WordRuns(solution), WordRuns(quoted))
    assert found == quadratic(completion, solution, quoted)


@settings(deadline=None)
@given(st.lists(MORE_LETTERS, min_size=1, max_size=4), MORE_LETTERS, LETTERS, st.integers(1, 7))
def test_a_response_that_is_not_looked_at_closely_repeats_nothing(
    completions: list[list[str]], solution: list[str], prompt: list[str], span_words: int
) -> None:
    one = problem(" ".join(solution), prompt=" ".join(prompt))
    texts = [" ".join(completion) for completion in completions]
    # Half of the responses hold a part of the solution, so that some are long enough.
    texts = [text + " " + " ".join(solution[index:]) for index, text in enumerate(texts)]
    assert repeats(texts, one, span_words) == plain_records.repeats(texts, one, span_words)


@given(st.text(st.one_of(st.characters(codec="ascii"), st.sampled_from("é数ſK_²"))))
def test_words_of_ascii_are_those_of_the_pattern(text: str) -> None:
    assert words(text) == WORD.findall(text.casefold())


def test_patterns_that_are_too_much_together_are_matched_apart() -> None:
    # RE2 takes each of them, and not all of them at once.
    large = [f"{letter}\\pL{{100}}z" for letter in "abcdefgh"]
    with pytest.raises(pa.ArrowInvalid, match="too large"):
        mentions(["text"], ["|".join(large)])
    texts = ["a" + "é" * 100 + "z", "told", "x", "H" + "h" * 100 + "z", "h" * 100 + "z"]
    assert mentions(texts, [*large, "told"]) == [True, True, False, True, False]
    assert mentions(["text", ""], []) == [False, False]


@settings(deadline=None)
@given(LETTERS, LETTERS)
def test_endings_are_the_longest_runs(text: list[str], other: list[str]) -> None:
    joined = "".join(text)
    for end, length in enumerate(WordRuns(text).endings(other), start=1):
        longest = max(n for n in range(end + 1) if "".join(other[end - n : end]) in joined)
        assert length == longest


def problem(solution: str, shown: bool = True, prompt: str = "what is it") -> PreparedRow:
    teacher = f"{prompt} Hint: {solution if shown else 7}"
    return PreparedRow("id", "what", "7", solution, "test", prompt, teacher, 3, 9)


def test_shares_by_hand() -> None:
    watch = WatchParams(mentions=["hint"], span_words=3)
    problems = [problem("one two three four"), problem("five six seven eight", shown=False), problem("")]
    texts = ["one two three", "one two 3", "five six seven", "By the HINT,", "one two three", ""]
    # Only the first problem has a privileged solution; one of its two siblings repeats three words of it.
    assert leak_shares(texts, problems, watch) == {"leak_mentions": 1 / 6, "leak_spans": 1 / 2}
    assert leak_shares(texts[2:], problems[1:], watch)["leak_spans"] is None
    assert leak_shares(texts, problems, WatchParams(mentions=[], span_words=None)) == {
        "leak_mentions": 0.0,
        "leak_spans": None,
    }
    four = watch.model_copy(update={"span_words": 4})
    assert leak_shares(texts, problems, four)["leak_spans"] == 0.0


def test_a_solution_is_a_repeat_of_another_problems_only_by_its_own() -> None:
    watch = WatchParams(mentions=[], span_words=3)
    problems = [problem("one two three"), problem("four five six")]
    assert leak_shares(["four five six", "one two three"], problems, watch)["leak_spans"] == 0.0


@pytest.mark.parametrize(
    "said",
    [
        "The hint says 5, so",
        "as the given solution shows, x = 5",
        "This agrees with the reference\nanswer.",
        "We were given the answer, namely 5.",
        "I was told the answer is 5",
        "since we’re given the solution",
        "the answer has been provided, so",
        "You gave me the answer already.",
        "According to the solution, x = 5.",
        "this matches the PROVIDED final answer",
    ],
)
def test_the_patterns_of_params_find_it(said: str) -> None:
    assert mentions([said], PATTERNS) == [True]


@pytest.mark.parametrize(
    "said",
    [
        "Given that x + y = 5, the solution is given by x = 2.",
        "The answer is \\boxed{5}.",
        "We are given a triangle ABC; the answer is 12.",
        "we have shown that the solution is unique",
        "A solution of 40% acid is given.",
        "we find the solution set {1, 2}",
        "a=9 b=18 c=23 \\boxed{23}",
        "whint, hinterland",
    ],
)
def test_the_patterns_of_params_leave_mathematics_alone(said: str) -> None:
    assert mentions([said], PATTERNS) == [False]


def test_hostile_completions_take_linear_time() -> None:
    patterns = [*PATTERNS, "^(a+)+$", r"(\w+\s?)*(\w+\s?)*(hint )*x{1,500}y", "(a|aa)+b"]
    hostile = ["a" * 100_000 + "!", "the given " * 10_000, "hint " * 20_000, "we were " * 12_500, " " * 100_000]
    solution = "a " * 5_000
    started = time.process_time()
    assert mentions(hostile, patterns)[0] is False
    for text in ("a " * 50_000, "a " * 4_999 + "b " * 45_000, "a b " * 25_000):
        copied(text, solution, solution)
    assert time.process_time() - started < 5, "seconds for about a megabyte; a backtracking engine would never end"


def test_texts_that_are_no_words() -> None:
    assert mentions(["", "\0", "�� 🙂", "\n\n"], PATTERNS) == [False] * 4
    assert copied("∫ — …", "∫ — …") == 0
