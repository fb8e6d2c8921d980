"""Measures answers scored per second, and what caching distinct pairs saves against one math-verify call per answer."""

from collections.abc import Callable, Sequence
import random
import statistics
import time

from tqdm import tqdm

from benchmarks.figures import Figure, Target, show
from sdpg.errors import UserError
from sdpg.params import RewardParams
from sdpg.rewards.extraction import extract_boxed, normalise_answer
from sdpg.rewards.math_verify_pool import math_verify_equal
from sdpg.rewards.verifiers import Status, Verifier

PROBLEMS, SIBLINGS, WORKERS, REPEATS = 1_500, 8, 2, 3
BATCH = 1_024
"""The number of responses scored at once, as in a training step of the paper."""
DUPLICATES, DISTINCT = 2_000, 50

SHARES = {
    "integer, right": 0.42,
    "integer, wrong": 0.33,
    "integer in another form": 0.05,
    "expression, right": 0.08,
    "expression, wrong": 0.07,
    "no answer": 0.05,
}
"""The shares of the ordinary answers; 4 of 5 problems have a whole number as gold answer."""

RATE = Target("score_rate", f"ordinary answers a second on {WORKERS} workers", ">= 2000")
DUPLICATES_VS_ONE_BY_ONE = Target("score_duplicates_vs_one_by_one", "math-verify on every answer of the batch", ">= 5")

Response = tuple[str, str]
"""A completion and its gold answer."""


def ordinary_rate() -> Figure:
    """Returns the figure whose ratio is the answers a second, with workers that are running.

    There are eight responses a problem, some of them alike.
    """
    batches = [ordinary(PROBLEMS, SIBLINGS, seed) for seed in range(REPEATS)]
    lonely = [ordinary(PROBLEMS, 1, seed) for seed in range(REPEATS)]
    with_siblings, without = rates(batches, "siblings"), rates(lonely, "no siblings")
    asked = asked_share(batches[0]), asked_share(lonely[0])
    show(
        f"Ordinary answers a second, {WORKERS} workers, batches of {BATCH:,}, {REPEATS} runs",
        ["answers", "count", "a second", "least", "most", "a worker is asked for"],
        [(name, f"{len(first):,}", *[f"{each(speed):,.0f}" for each in (statistics.median, min, max)], f"{share:.1%}")
         for name, first, speed, share in (("8 responses a problem", batches[0], with_siblings, asked[0]),
                                           ("1 response a problem", lonely[0], without, asked[1]))],
        ", ".join(f"{name} {share:.0%}" for name, share in SHARES.items()),
    )  # fmt: skip
    return RATE.measured(
        statistics.median(with_siblings),
        range=[min(with_siblings), max(with_siblings)],
        without_siblings=statistics.median(without),
        shares=SHARES,
        distinct_pairs_for_math_verify={"8 responses a problem": asked[0], "1 response a problem": asked[1]},
        workers=WORKERS,
        repeats=REPEATS,
    )


def duplicates_vs_one_by_one() -> Figure:
    """Returns the figure whose ratio is math-verify's seconds on every answer, in this process, over ours.

    The answers are expressions only, which no string rule of ours decides; both start with empty caches.
    """
    at = random.Random(0)
    distinct = [expression(at, right=index % 2 == 0) for index in range(DISTINCT)]
    batch = [at.choice(distinct) for _ in range(DUPLICATES)]
    ours, theirs = [], []
    verdicts: list[Status] = []
    equal: list[bool] = []
    math_verify_equal("1", "2")  # the first call imports math-verify, which is not measured
    for _ in tqdm(range(REPEATS), desc="duplicates", leave=False):
        with Verifier(RewardParams(workers=WORKERS)) as verifier:
            start_workers(verifier)
            begin = time.perf_counter()
            verdicts = [verdict.status for verdict in verifier.score(*columns(batch))]
            ours.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        equal = [math_verify_equal(normalise_answer(gold), normalise_answer(extract_boxed(text) or ""))
                 for text, gold in batch]  # fmt: skip
        theirs.append(time.perf_counter() - begin)
    if [status is Status.CORRECT for status in verdicts] != equal:
        raise UserError("the batch and math-verify one at a time differ in a verdict")
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    show(
        f"{DUPLICATES:,} answers, {len(set(batch))} distinct, {REPEATS} runs",
        ["way", "seconds", "answers/s"],
        [(name, f"{statistics.median(each):.2f}", f"{DUPLICATES / statistics.median(each):,.0f}")
         for name, each in (("batch", ours), ("one at a time", theirs))],
    )  # fmt: skip
    return DUPLICATES_VS_ONE_BY_ONE.measured(
        ratio,
        seconds={"batch": statistics.median(ours), "one by one": statistics.median(theirs)},
        answers=DUPLICATES,
        distinct=len(set(batch)),
        workers=WORKERS,
        repeats=REPEATS,
    )


def rates(batches: Sequence[list[Response]], title: str) -> list[float]:
    """Returns the answers a second of each list; nothing is cached from one list to the next."""
    measured = []
    for responses in tqdm(batches, desc=f"scoring, {title}", leave=False):
        with Verifier(RewardParams(workers=WORKERS)) as verifier:
            start_workers(verifier)
            begin = time.perf_counter()
            for at in range(0, len(responses), BATCH):
                verdicts = verifier.score(*columns(responses[at : at + BATCH]))
                if any(verdict.status is Status.TIMEOUT for verdict in verdicts):
                    raise UserError("an ordinary answer ran into the time limit: the machine is too busy to measure")
            measured.append(len(responses) / (time.perf_counter() - begin))
    return measured


def start_workers(verifier: Verifier) -> None:
    """Waits until every worker has imported math-verify: starting takes a second, once a run."""
    verifier.compare([(f"\\sqrt{{{index}}}", f"0+\\sqrt{{{index}}}") for index in range(40 * WORKERS)])


def columns(responses: Sequence[Response]) -> tuple[list[str], list[str], list[bool]]:
    """Returns completions, gold answers, and False for each, as no response was cut."""
    return [text for text, _ in responses], [gold for _, gold in responses], [False] * len(responses)


def asked_share(responses: Sequence[Response]) -> float:
    """Returns the number of distinct pairs that need a worker, over the number of all answers."""
    verifier = Verifier(RewardParams())
    pairs = {(normalise_answer(gold), normalise_answer(answer)) for text, gold in responses
             if (answer := extract_boxed(text))}  # fmt: skip
    return sum(verifier.decide(*pair) is None for pair in pairs) / len(responses)


def ordinary(problems: int, siblings: int, seed: int) -> list[Response]:
    """Returns responses as long as a short solution, ``siblings`` a problem, with answers in the given shares.

    The wrong answers of one problem are drawn from four, as a policy makes the same mistakes again.
    """
    at = random.Random(seed)
    integers = {name: share for name, share in SHARES.items() if name.startswith("integer")}
    others = {name: share for name, share in SHARES.items() if name.startswith("expression")}
    whole = sum(integers.values()) / (sum(integers.values()) + sum(others.values()))
    responses = []
    for _ in range(problems):
        kinds = integers if at.random() < whole else others
        make = integer_answers(at) if kinds is integers else expression_answers(at)
        for _ in range(siblings):
            [kind] = at.choices(list(kinds), list(kinds.values()))
            gold, answer = make(kind)
            reasoning = "".join(f"Step {at.randint(1, 9)}: so {at.randint(1, 999)}. " for _ in range(60))
            boxed = "" if at.random() < SHARES["no answer"] else f"The answer is \\boxed{{{answer}}}."
            responses.append((f"{reasoning}{boxed}", gold))
    return responses


def integer_answers(at: random.Random) -> Callable[[str], Response]:
    """Returns, for one problem with a whole number as answer, a function from a kind to a response."""
    gold = at.randint(0, 999)
    wrong = [gold + step for step in at.sample([*range(-30, 0), *range(1, 31)], 4)]

    def make(kind: str) -> Response:
        if kind == "integer, wrong":
            return str(gold), str(at.choice(wrong))
        if kind == "integer in another form":
            return str(gold), at.choice(
                [f"x={gold}", f"{gold}\\text{{ cm}}", f"\\frac{{{2 * gold}}}{{2}}", f"{gold}+0"]
            )
        return str(gold), at.choice([str(gold), f"{gold:03}", f"${gold}$", f"{gold}.0"])

    return make


def expression_answers(at: random.Random) -> Callable[[str], Response]:
    """Returns, for one problem with an expression as answer, a function from a kind to a response."""
    gold, right = expression_forms(at)
    wrong = [expression_forms(at)[1] for _ in range(4)]
    return lambda kind: (gold, right if kind == "expression, right" else at.choice(wrong))


def expression(at: random.Random, right: bool) -> Response:
    """Returns a response with an answer that no string rule decides."""
    gold, same = expression_forms(at)
    return f"\\boxed{{{same if right else expression_forms(at)[1]}}}", gold


def expression_forms(at: random.Random) -> tuple[str, str]:
    """Returns a fraction, decimal, multiple of π, surd, polynomial or pair, written in two ways."""
    a, b, c = at.randint(2, 40), at.choice([3, 7, 11, 13]), at.choice([2, 3, 5, 6])
    return at.choice([
        (f"\\frac{{{a}}}{{{b}}}", f"{2 * a}/{2 * b}"), (f"\\frac{{{a}}}{{4}}", f"{a / 4}"),
        (f"\\frac{{{a}\\pi}}{{{b}}}", f"\\frac{{{a}}}{{{b}}}\\pi"), (f"{a}\\sqrt{{{c}}}", f"\\sqrt{{{a * a * c}}}"),
        (f"x^2+{a}x", f"x(x+{a})"), (f"({a},{b})", f"\\left({a}, {b}\\right)"),
    ])  # fmt: skip
