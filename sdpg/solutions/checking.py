"""Checks whether a candidate may be shown to the teacher.

Its final answer must be right, and it must be whole and hold nothing that is not plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import re
from typing import Any
import unicodedata

from sdpg.params import PromptParams
from sdpg.problems.prompts import chat_prompt, prompt_ids, render_student, render_teacher
from sdpg.problems.sources import Problem
from sdpg.rewards.verifiers import Scorer, Status
from sdpg.solutions.candidates import Candidate, is_bare

LONGEST = 400_000
"""Characters of the longest candidate that is looked at; longer ones fit no teacher prompt."""


@dataclass(frozen=True)
class Checked:
    """A checked candidate: ``text`` is what the teacher would see, where ``reason`` is ``None``."""

    text: str
    reason: str | None


def final_part(text: str) -> str:
    """Returns what a response says after thinking aloud; the verifier looks for the answer there too."""
    return text.rpartition("</think>")[2].strip()


def _plain(text: str) -> bool:
    return all(c in "\n\t\r" or unicodedata.category(c) not in ("Cc", "Cs") for c in text)


class Checker:
    """Checks candidates with a verifier and the tokenizer of the policy that will read them."""

    def __init__(self, verifier: Scorer, tokenizer: Any, prompts: PromptParams) -> None:
        self.verifier, self.tokenizer, self.prompts = verifier, tokenizer, prompts
        special = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}, key=len, reverse=True)
        # A tokenizer reads these as control tokens wherever they stand, so a solution could end the user's turn.
        self._control = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def usable(self, problem: Problem) -> bool:
        """Returns whether the problem itself fits the student prompt; otherwise no solution is of use."""
        prompt = chat_prompt(self.tokenizer, render_student(self.prompts, problem), self.prompts)
        return len(prompt_ids(self.tokenizer, prompt)) <= self.prompts.max_student_tokens

    def check(self, pairs: Sequence[tuple[Problem, Candidate]]) -> list[Checked]:
        """Returns one result per candidate, in order; all answers are verified together."""
        texts = [final_part(candidate.text) for _, candidate in pairs]
        reasons = [
            self._look(problem, candidate, text) for (problem, candidate), text in zip(pairs, texts, strict=True)
        ]
        undecided = [at for at, reason in enumerate(reasons) if reason is None]
        verdicts = self.verifier.score(
            [texts[at] for at in undecided],
            [pairs[at][0].answer for at in undecided],
            [False] * len(undecided),
        )
        for at, verdict in zip(undecided, verdicts, strict=True):
            if verdict.status is not Status.CORRECT:
                reasons[at] = str(verdict.status)
            elif not self._fits(pairs[at][0], texts[at]):
                reasons[at] = "teacher_prompt_too_long"
        return [Checked(text, reason) for text, reason in zip(texts, reasons, strict=True)]

    def _look(self, problem: Problem, candidate: Candidate, text: str) -> str | None:
        if candidate.failure is not None:
            return candidate.failure
        if candidate.truncated:
            return "truncated"
        if not text:
            return "empty"
        if len(text) > LONGEST:
            return "teacher_prompt_too_long"
        if not _plain(text):
            return "unprintable"
        if self._control.search(text):
            return "control_tokens"
        if is_bare(text, problem.answer):
            return "bare_answer"
        return None

    def _fits(self, problem: Problem, text: str) -> bool:
        hinted = render_teacher(self.prompts, replace(problem, solution=text))
        assert hinted is not None, "there is a solution"
        prompt = chat_prompt(self.tokenizer, hinted, self.prompts)
        return len(prompt_ids(self.tokenizer, prompt)) <= self.prompts.max_teacher_tokens
