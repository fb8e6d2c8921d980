"""A user's own verifier: a function that says whether one response is right, or a class that scores many at once.

A worker process imports this module, so it must import neither torch nor transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
import inspect
from typing import Any, Self

from sdpg.errors import UserError
from sdpg.params import Imported, RewardParams
from sdpg.params.imported import check_call, load_part
from sdpg.records.code import source_digest
from sdpg.records.provenance import fingerprint
from sdpg.rewards.extraction import extract_answer_line, extract_boxed
from sdpg.rewards.gym import GymVerifier
from sdpg.rewards.verifiers import Status, Verdict, Verifier
from sdpg.rewards.worker_pool import WORKER_MEMORY_BYTES, NoWorker, PairPool

FIELD = "reward.verifier"
EXAMPLE = ("2 + 5 is 7. \\boxed{7}", "7")
"""A response and its gold answer, with which a verifier is tried before anything runs."""


def make_verifier(params: RewardParams) -> "Verifier | OwnVerifier":
    """Makes the verifier that ``params.verifier`` names; a context manager, as it may hold worker processes.

    Raises:
        UserError: if an own verifier cannot be imported, or not be called as it has to be, or reasoning-gym is missing.
    """
    if isinstance(params.verifier, Imported):
        return OwnVerifier(params, params.verifier)
    return GymVerifier(params) if params.verifier == "reasoning_gym" else Verifier(params)


def check_verifier(params: RewardParams) -> None:
    """Makes the verifier and, where it is a user's own, has it score an example.

    Raises:
        UserError: if it cannot be made, raises an exception, takes too long, or returns something else than it
            has to.
    """
    with make_verifier(params) as verifier:
        if isinstance(verifier, OwnVerifier):
            [verdict] = verifier.score([EXAMPLE[0]], [EXAMPLE[1]], [False])
            if verdict.status is Status.TIMEOUT:
                raise UserError(
                    f"{FIELD}: {verifier.name} gave no verdict on {EXAMPLE[0]!r} within reward.timeout "
                    f"({params.timeout:g} seconds; importing its module does not count) and the memory of a worker: "
                    "make it lighter, raise reward.timeout, or name a class, which has neither limit"
                )


class OwnVerifier:
    """Scores responses with a function or a class of a user's own.

    A function ``(completion, gold, **options)`` returns whether the response is right, or None where it holds no
    answer. It runs in the worker processes of :class:`PairPool`, each call under the time limit ``params.timeout``.
    A class is called with the options, and its object's ``score(completions, golds, truncated)`` returns a
    :class:`Verdict` for each response; it runs in this process and without a time limit.

    Args:
        params: the ``reward`` section.
        part: the function or class.
    """

    def __init__(self, params: RewardParams, part: Imported) -> None:
        self.params = params
        self.name = part.path
        """Which verifier this is, for records."""
        self.version = fingerprint(source_digest(part.path), part.options)
        """Changes with the code behind the verifier, and with its options."""
        found = load_part(part, FIELD)
        self._scorer: Any = None
        self._pool: PairPool[Status] | None = None
        if inspect.isclass(found):
            check_call(found, part, FIELD)
            self._scorer = _called(found, part)
            if not callable(getattr(self._scorer, "score", None)):
                raise UserError(
                    f"{FIELD}.path is {part.path!r}, a class without a method score(completions, golds, truncated): "
                    "add it, or name a function (completion, gold) that returns True or False"
                )
        else:
            check_call(found, part, FIELD, "completion", "gold")
            judge = _Judge(part)
            self._pool = PairPool(judge, params.workers, params.timeout, judge.warm)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    def score(self, completions: Sequence[str], golds: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        """Returns one verdict per response, in order; ``truncated`` tells which responses hit the token limit.

        Raises:
            UserError: if the user's code raises an exception, or returns something else than it has to.
        """
        if self._pool is None:
            return self._scored(list(completions), list(golds), list(truncated))
        pairs = list(zip(golds, completions, strict=True))
        try:
            statuses = self._pool.run(dict.fromkeys(pairs))
        except NoWorker as error:
            raise UserError(
                f"{FIELD}: {self.name} can be imported here, but not in a worker process, which has "
                f"{WORKER_MEMORY_BYTES >> 30} GiB of address space ({error}). Make what it imports lighter, or name a "
                "class, which runs in this process"
            ) from None
        return [
            self._verdict(completion, statuses[gold, completion] or Status.TIMEOUT, cut)
            for (gold, completion), cut in zip(pairs, truncated, strict=True)
        ]

    def _verdict(self, completion: str, status: Status, cut: bool) -> Verdict:
        extract = extract_boxed if self.params.answer_format == "boxed" else extract_answer_line
        answer = None if status is Status.NO_ANSWER else extract(completion) or None
        if status is Status.NO_ANSWER and cut:
            status = Status.TRUNCATED
        return Verdict(status, answer, self.params.correct if status is Status.CORRECT else self.params.wrong)

    def _scored(self, completions: list[str], golds: list[str], truncated: list[bool]) -> list[Verdict]:
        try:
            verdicts = list(self._scorer.score(completions, golds, truncated))
        # Whatever it is, its author has to see what raised it.
        except Exception as error:
            raise UserError(
                f"{FIELD}: {self.name}.score raised {type(error).__name__}: {error}, for {len(completions)} responses, "
                f"the first of which is {completions[0][:200] if completions else ''!r}. Correct it"
            ) from error
        if len(verdicts) != len(completions) or not all(isinstance(one, Verdict) for one in verdicts):
            raise UserError(
                f"{FIELD}: {self.name}.score returned {len(verdicts)} values for {len(completions)} responses, the "
                f"first of which is {verdicts[0] if verdicts else None!r}: return a sdpg.rewards.verifiers.Verdict each"
            )
        return verdicts


def _called(found: Callable[..., Any], part: Imported, *arguments: str) -> Any:
    try:
        return found(*arguments, **part.options)
    # Whatever it is, its author has to see what raised it.
    except Exception as error:
        said = "".join(f" {name} {text[:200]!r}" for name, text in zip(("completion", "gold"), arguments, strict=False))
        raise UserError(
            f"{FIELD}: {part.path} raised {type(error).__name__}: {error}{' for' if said else ''}{said}. Correct "
            "it; for a response without an answer, return None"
        ) from None


@cache
def _loaded(path: str) -> Callable[..., Any]:
    return load_part(Imported(kind="import", path=path), FIELD)


@dataclass(frozen=True)
class _Judge:
    """The user's function as a worker calls it."""

    part: Imported

    def warm(self) -> None:
        """Imports the function's module, so that no response's time limit pays for it."""
        _loaded(self.part.path)

    def __call__(self, gold: str, completion: str) -> Status:
        answer = _called(_loaded(self.part.path), self.part, completion, gold)
        if answer is None:
            return Status.NO_ANSWER
        # bool_ is numpy's.
        if type(answer).__name__ not in ("bool", "bool_"):
            raise UserError(
                f"{FIELD}: {self.part.path} returned {answer!r} for completion {completion[:200]!r} and gold {gold!r}: "
                "return True, False, or None where the response holds no answer"
            )
        return Status.CORRECT if answer else Status.WRONG
