"""Draws what the teacher is shown beside each rollout's problem: a hint that is made from its group, once verified.

Axes: P prompts, G responses per prompt, B = P·G rollouts. A hint is used as it is or not at all: one that would make
the prompt longer than ``prompts.max_teacher_tokens``, or whose text spells a special token, is passed over, and the
next in the order of ``hint_choice`` is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
import random
from typing import Any

from sdpg.params import MethodParams, PromptParams
from sdpg.params.method import CONTRAST_TEMPLATES
from sdpg.problems.prompts import PreparedRow, chat_prompt, fill_teacher, fill_template, generation_header, prompt_ids
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.seeds import derive_seed

SHOWN = {"sibling": Status.CORRECT, "wrong_sibling": Status.WRONG, "wrong_answer": Status.WRONG}
"""Hint → the verdict on the siblings that it may show. A response that was cut, has no answer or could not be verified
is neither right nor wrong."""
NONE = "none"
"""The kind of a hint that does not exist."""


@dataclass(frozen=True)
class Hint:
    """What the teacher is shown on one rollout.

    Attributes:
        kind: a value of ``methods.<name>.hint`` or ``contrast_hint``; for the prepared prompt, that of
            ``prompts.hint``; :data:`NONE` where the teacher does not read the rollout.
        prompt: the rendered prompt; None where there is none.
        ids: the prompt's tokens; empty where there is none.
        sibling: the place in the group of the response that is shown; None where none is.
        fell_back: whether it is the prepared prompt because the hint that was asked for does not exist.
        refused: how many hints were passed over.
    """

    kind: str
    prompt: str | None
    ids: list[int]
    sibling: int | None = None
    fell_back: bool = False
    refused: int = 0


MISSING = Hint(NONE, None, [])


@dataclass(frozen=True)
class Group:
    """A problem with its verified responses, (G) each.

    Attributes:
        problem: the problem.
        texts: the responses, decoded without special tokens.
        lengths: their tokens.
        verdicts: the verifier's verdicts.
    """

    problem: PreparedRow
    texts: Sequence[str]
    lengths: Sequence[int]
    verdicts: Sequence[Verdict]

    @staticmethod
    def cut(
        problems: Sequence[PreparedRow], texts: Sequence[str], lengths: Sequence[int], verdicts: Sequence[Verdict]
    ) -> "list[Group]":
        """Cuts the rollouts of a step, (B) each, siblings side by side, into the groups of its (P) problems."""
        size = len(texts) // len(problems)
        spans = [slice(at * size, (at + 1) * size) for at in range(len(problems))]
        return [
            Group(problem, texts[span], lengths[span], verdicts[span])
            for problem, span in zip(problems, spans, strict=True)
        ]


@dataclass(frozen=True)
class _Candidate:
    """A hint that may be shown: what is filled into its template, and the sibling whose response it is from."""

    values: dict[str, str]
    sibling: int | None = None


class HintDrawer:
    """Draws the hints of one run.

    Args:
        tokenizer: the policies' tokenizer.
        prompts: the templates and the limit.
        method: which hints.
        seed: the run's seed; random choices depend on it, the step and the rollout alone.
    """

    def __init__(self, tokenizer: Any, prompts: PromptParams, method: MethodParams, seed: int) -> None:
        self.tokenizer, self.prompts, self.method, self.seed = tokenizer, prompts, method, seed
        self.header = prompt_ids(tokenizer, generation_header(tokenizer, prompts))

    def draw(self, groups: Sequence[Group], step: int) -> list[Hint]:
        """Returns the hint of each rollout's teacher, (B)."""
        kind, hints = self.method.hint, []
        drawn = None
        if kind != "prompts":
            drawn = [found[0] for found in self._drawn(kind, kind, groups, derive_seed(self.seed, "hint", step))]
        for group in groups:
            prepared = self._prepared(group.problem)
            for _ in group.texts:
                hint = prepared if drawn is None else drawn[len(hints)]
                if hint.kind == NONE and self.method.hint_missing == "fall_back":
                    hint = replace(prepared, fell_back=True, refused=hint.refused)
                hints.append(hint)
        return hints

    def draw_contrast(self, groups: Sequence[Group], step: int) -> list[list[Hint]] | None:
        """Returns the wrong hints of each rollout: lists of (B), of which the first holds the first of each rollout,
        and as many as ``contrast_count``; None where the method has no contrast."""
        kind, count = self.method.contrast_hint, self.method.contrast_count
        if kind == "none":
            return None
        seed = derive_seed(self.seed, "contrast_hint", step)
        drawn = self._drawn(kind, CONTRAST_TEMPLATES[kind], groups, seed, count)
        return [[hints[place] if place < len(hints) else MISSING for hints in drawn] for place in range(count)]

    def _prepared(self, problem: PreparedRow) -> Hint:
        if problem.teacher_prompt is None:
            return MISSING
        return Hint(self.prompts.hint, problem.teacher_prompt, prompt_ids(self.tokenizer, problem.teacher_prompt))

    def _drawn(self, kind: str, template: str, groups: Sequence[Group], seed: int, count: int = 1) -> list[list[Hint]]:
        """Returns for each rollout the first of its hints that can be shown, up to ``count``, or one of kind none."""
        hints: list[list[Hint]] = []
        for group in groups:
            # Siblings that are shown the same have one prompt, which is made once.
            made: dict[str, tuple[str, list[int]] | None] = {}
            for own in range(len(group.texts)):
                refused = 0
                found: list[Hint] = []
                for candidate in self._candidates(kind, group, own, derive_seed(seed, "sibling", len(hints))):
                    text = fill_teacher(self.prompts, template, group.problem, **candidate.values)
                    if text not in made:
                        made[text] = self._rendered(text, candidate)
                    if (shown := made[text]) is None:
                        refused += 1
                        continue
                    found.append(Hint(kind, *shown, sibling=candidate.sibling))
                    if len(found) == count:
                        break
                first, *others = found or [MISSING]
                hints.append([replace(first, refused=refused), *others])
        return hints

    def _candidates(self, kind: str, group: Group, own: int, seed: int) -> Iterator[_Candidate]:
        """Returns the hints of a kind that a rollout may be shown, the preferred one first, never its own response."""
        if kind in SHOWN:
            for sibling in self._siblings(SHOWN[kind], group, own, seed):
                extracted = group.verdicts[sibling].extracted_answer or ""
                if kind == "wrong_answer":
                    if extracted:
                        yield _Candidate({"answer": extracted}, sibling)
                else:
                    yield _Candidate({"response": group.texts[sibling], "extracted": extracted}, sibling)
        elif kind == "feedback":
            verdict = group.verdicts[own]
            if (sentence := self.prompts.feedback.get(str(verdict.status))) is not None:  # pyright: ignore[reportArgumentType]
                extracted = verdict.extracted_answer or ""
                told = fill_template(sentence, {"extracted": extracted})
                yield _Candidate({"feedback": told, "extracted": extracted, "response": group.texts[own]})
        elif kind == "answer" or group.problem.solution:
            yield _Candidate({})

    def _siblings(self, status: Status, group: Group, own: int, seed: int) -> list[int]:
        """Returns the other responses with a verdict, in the order of ``hint_choice``; ties by their place."""
        found = [at for at, verdict in enumerate(group.verdicts) if at != own and verdict.status is status]
        match self.method.hint_choice:
            case "shortest":
                found.sort(key=lambda at: group.lengths[at])
            case "longest":
                found.sort(key=lambda at: -group.lengths[at])
            case "random":
                random.Random(seed).shuffle(found)
        return found

    def _rendered(self, text: str, candidate: _Candidate) -> tuple[str, list[int]] | None:
        """Returns the rendered prompt and its tokens; None where the teacher cannot be shown it."""
        # A response that spells the end of the user's turn would end it.
        if any(
            special in value for value in candidate.values.values() for special in self.tokenizer.all_special_tokens
        ):
            return None
        rendered = chat_prompt(self.tokenizer, text, self.prompts)
        ids = prompt_ids(self.tokenizer, rendered)
        # The response must start at the same tokens as behind the student's prompt.
        fits = len(ids) <= self.prompts.max_teacher_tokens and ids[-len(self.header) :] == self.header
        return (rendered, ids) if fits else None
