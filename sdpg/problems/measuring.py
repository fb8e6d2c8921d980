"""Measures a set of problems before anything is trained on it, and proposes token limits from what it finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math

from transformers import PreTrainedTokenizerBase

from sdpg.errors import UserError
from sdpg.params import PromptParams
from sdpg.problems.prepare import aligned, dropped_text
from sdpg.problems.prompts import prepare_row, prompt_ids
from sdpg.problems.sources import Overlap, ProblemSet, overlap

LOOKED_AT = 2_000
"""The largest number of training problems whose tokens are counted; they are spread over the whole set."""
STEP = 32
"""Limits are multiples of so many tokens."""
SHORTEST_RESPONSE = 64
USUAL_RESPONSE = 1_024
"""The limit of a response, in tokens, where no worked solution shows how long one is."""


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens: the median, the one that 99 of 100 do not exceed, and the longest."""

    median: int
    most: int
    longest: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> "Lengths | None":
        """Returns the lengths of some counts; ``None`` where there are none."""
        if not counts:
            return None
        ordered = sorted(counts)
        return cls(*(ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99, 1.0)))


@dataclass(frozen=True)
class Measured:
    """What a problem set and its benchmarks hold.

    Attributes:
        train: the problem set.
        solved: how many of its problems have a worked solution.
        student: the lengths of the student's prompts.
        teacher: those of the teacher's prompts, where a problem allows one.
        solutions: those of the worked solutions.
        benchmarks: name → problems, the lengths of the student's prompts, and what the training set holds of them.
    """

    train: ProblemSet
    solved: int
    student: Lengths
    teacher: Lengths | None
    solutions: Lengths | None
    benchmarks: dict[str, tuple[int, Lengths, Overlap]]


@dataclass(frozen=True)
class Limits:
    """Limits in tokens, as params.yaml has them."""

    student: int
    teacher: int
    response: int


def measure(
    train: ProblemSet,
    benchmarks: Mapping[str, ProblemSet],
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptParams,
    ngram: int,
) -> Measured:
    """Counts problems, worked solutions, tokens and overlap.

    Args:
        train: the problems to train on, of which :data:`LOOKED_AT` at most are rendered.
        benchmarks: name → problems, all of which are rendered.
        tokenizer: the model's tokenizer.
        prompts: the templates; their limits are not read.
        ngram: the words of the n-grams by which overlap is measured.

    Raises:
        UserError: if a set has no problem, or the tokenizer cannot render the prompts.
    """
    for name, problems in {"the problems": train, **benchmarks}.items():
        if not problems.problems:
            raise UserError(
                f"{name}: none of {problems.read} rows can be used (dropped: {dropped_text(problems.dropped)}): "
                "correct the file or its columns"
            )
    step = math.ceil(len(train.problems) / LOOKED_AT)
    rows = [prepare_row(tokenizer, problem, prompts) for problem in train.problems[::step]]
    student = Lengths.of([row.student_tokens for row in rows])
    assert student is not None, "there is a problem"
    held: dict[str, tuple[int, Lengths, Overlap]] = {}
    for name, problems in benchmarks.items():
        asked = Lengths.of([prepare_row(tokenizer, one, prompts).student_tokens for one in problems.problems])
        assert asked is not None, "there is a problem"
        held[name] = (len(problems.problems), asked, overlap(train.problems, problems.problems, ngram))
    return Measured(
        train=train,
        solved=sum(bool(problem.solution) for problem in train.problems),
        student=student,
        teacher=Lengths.of([row.teacher_tokens for row in rows if row.teacher_tokens is not None]),
        solutions=Lengths.of([len(prompt_ids(tokenizer, row.solution)) for row in rows if row.solution]),
        benchmarks=held,
    )


def propose_limits(measured: Measured, context: int | None) -> Limits:
    """Returns limits under which each benchmark's prompts and 99 of 100 training prompts fit the model's context.

    A response may be twice as long as 99 of 100 worked solutions, as far as the context allows.

    Raises:
        UserError: if the prompts leave no room for a response.
    """
    asked = max(measured.student.most, *(lengths.longest for _, lengths, _ in measured.benchmarks.values()))
    student = _rounded(asked)
    teacher = max(student, _rounded((measured.teacher or measured.student).most))
    response = USUAL_RESPONSE
    if measured.solutions is not None:
        response = max(SHORTEST_RESPONSE, _rounded(2 * measured.solutions.most))
    if context is not None:
        room = (context - teacher) // STEP * STEP
        if room < SHORTEST_RESPONSE:
            raise UserError(
                f"prompts of {teacher} tokens leave {max(0, context - teacher)} of the model's {context} for a "
                "response: use shorter problems or solutions, prompts.hint: answer, or a model with a longer context"
            )
        response = min(response, room)
    return Limits(student, teacher, response)


def _rounded(tokens: int) -> int:
    return math.ceil(tokens / STEP) * STEP


def described(measured: Measured) -> str:
    """Returns what was measured, for people."""
    train, count = measured.train, len(measured.train.problems)
    lost = dropped_text(train.dropped)
    lines = [
        f"{train.read} rows, {count} problems{f' (dropped: {lost})' if lost else ''}; "
        f"{measured.solved} ({measured.solved / count:.0%}) with a worked solution",
        "",
    ]
    lengths = {
        "student's prompts": measured.student,
        "teacher's prompts": measured.teacher,
        "worked solutions": measured.solutions,
        **{f"prompts of {name}": held for name, (_, held, _) in measured.benchmarks.items()},
    }
    table: list[Sequence[object]] = [("tokens", "median", "99 of 100", "longest")]
    table += [
        (name, "–", "–", "–") if held is None else (name, held.median, held.most, held.longest)
        for name, held in lengths.items()
    ]
    shared: list[Sequence[object]] = [("benchmark", "problems", "also among yours", "n-gram in common")]
    shared += [(name, count, held.exact, held.ngram_problems) for name, (count, _, held) in measured.benchmarks.items()]
    return "\n".join([*lines, *aligned(table), "", *aligned(shared)])
