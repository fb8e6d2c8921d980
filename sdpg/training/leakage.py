"""Finds signs that a response saw the privileged context: mentions of it, and long copies of its solution.

Axes: P prompts, G responses per prompt, B = P·G responses.
"""

from collections.abc import Sequence
import re
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from sdpg.params.watch import WatchParams

if TYPE_CHECKING:  # who asks about texts alone, such as the app, loads no tokenizer
    from sdpg.problems.prompts import PreparedRow

COLUMNS = ("leak_mentions", "leak_spans")
QUOTED = 4
"""The number of words in a row that make a quotation if they stand in the student prompt too; fewer may be chance."""
WORD = re.compile(r"\w+")
SPACED = str.maketrans({chr(code): " " for code in range(128) if not WORD.match(chr(code))})
"""The ASCII characters that are no part of a word, and a space: looking them up is faster than matching."""


class Privileged(Protocol):
    """What a response is compared with: a privileged text, and the prompt that the student saw."""

    @property
    def solution(self) -> str: ...

    @property
    def student_prompt(self) -> str: ...


def words(text: str) -> list[str]:
    """Returns the runs of letters, digits and underscores in lower case, without spacing, signs and backslashes."""
    folded = text.casefold()
    return folded.translate(SPACED).split() if folded.isascii() else WORD.findall(folded)


class WordRuns:
    """Every run of consecutive words of a text, as a suffix automaton: linear in the text, time and memory."""

    def __init__(self, text: Sequence[str]) -> None:
        self.following: list[dict[str, int]] = [{}]
        self.shorter = [-1]
        """State → the state of its longest suffix that can also be followed by other words."""
        self.longest = [0]
        last = 0
        for word in text:
            state = self._add({}, self.longest[last] + 1)
            before = last
            while before >= 0 and word not in self.following[before]:
                self.following[before][word] = state
                before = self.shorter[before]
            if before < 0:
                self.shorter[state] = 0
            else:
                known = self.following[before][word]
                if self.longest[known] > self.longest[before] + 1:
                    known = self._split(known, before, word)
                self.shorter[state] = known
            last = state

    def _add(self, following: dict[str, int], longest: int, shorter: int = -1) -> int:
        self.following.append(following)
        self.longest.append(longest)
        self.shorter.append(shorter)
        return len(self.longest) - 1

    def _split(self, known: int, before: int, word: str) -> int:
        clone = self._add(self.following[known].copy(), self.longest[before] + 1, self.shorter[known])
        self.shorter[known] = clone
        while before >= 0 and self.following[before].get(word) == known:
            self.following[before][word] = clone
            before = self.shorter[before]
        return clone

    def endings(self, other: Sequence[str]) -> list[int]:
        """Returns, for each word of ``other``, the length of the longest run of the text's words that ends with it."""
        state = length = 0
        lengths = []
        for word in other:
            while state and word not in self.following[state]:
                state = self.shorter[state]
                length = self.longest[state]
            if word in self.following[state]:
                state = self.following[state][word]
                length += 1
            lengths.append(length)
        return lengths


def _quoted(lengths: Sequence[int]) -> list[bool]:
    """Says of each word whether it lies in a run of at least QUOTED words, given the lengths of runs that end at
    each."""
    quoted, left = [False] * len(lengths), 0
    for place in range(len(lengths) - 1, -1, -1):
        # A longer run that ends later also gives a run that ends here, so that lengths[place] is at least ``left``.
        if lengths[place] >= QUOTED:
            left = lengths[place]
        quoted[place] = left > 0
        left = max(0, left - 1)
    return quoted


def copied_words(completion: Sequence[str], solution: WordRuns, prompt: WordRuns) -> int:
    """Returns the largest number of unquoted words in a run that completion and solution have in common.

    A word of the completion is quoted if it lies in a run of :data:`QUOTED` or more words of the completion that also
    stands in the student prompt. Of every run of words that stands both in the completion and in the solution, the
    words that are not quoted are counted; the largest count is returned. So a restated problem is no copy, and a copy
    is not hidden by a restated problem in its middle.
    """
    own = [0]
    for quoted in _quoted(prompt.endings(completion)):
        own.append(own[-1] + (not quoted))
    runs = enumerate(solution.endings(completion), start=1)
    return max((own[end] - own[end - length] for end, length in runs), default=0)


def mentions(texts: Sequence[str], patterns: Sequence[str]) -> list[bool]:
    """Says of each of B texts whether it matches any of the patterns.

    RE2 matches in time linear in the text, whatever the pattern is. Runs of whitespace count as one space, so that a
    pattern need not consider line breaks.
    """
    if not patterns:
        return [False] * len(texts)
    return _match_any(pa.array([" ".join(text.split()) for text in texts], pa.large_string()), patterns)


def _match_any(array: pa.Array, patterns: Sequence[str]) -> list[bool]:
    """Matches all patterns in one pass, or in several where they are too much for RE2 together."""
    options = pc.MatchSubstringOptions("|".join(f"(?:{pattern})" for pattern in patterns), ignore_case=True)
    try:
        return pc.call_function("match_substring_regex", [array], options).to_pylist()
    except pa.ArrowInvalid:
        if len(patterns) == 1:
            raise
    half = len(patterns) // 2
    first, second = (_match_any(array, some) for some in (patterns[:half], patterns[half:]))
    return [a or b for a, b in zip(first, second, strict=True)]


def repeats(texts: Sequence[str], problem: Privileged, span_words: int) -> list[bool]:
    """Says of each of G responses whether it repeats at least ``span_words`` words of the problem's solution; see
    :func:`copied_words`."""
    copied, completions = words(problem.solution), [words(text) for text in texts]
    solution, prompt = WordRuns(copied), WordRuns(words(problem.student_prompt))
    # A run of ``span_words`` words holds one of these blocks whole: most responses have none, and need no closer look.
    size = (span_words + 1) // 2
    blocks = [f" {' '.join(copied[at : at + size])} " for at in range(0, len(copied) - size + 1, size)]
    joined = (f" {' '.join(completion)} " for completion in completions)
    suspects = [any(block in text for block in blocks) for text in joined]
    return [
        suspect and copied_words(completion, solution, prompt) >= span_words
        for suspect, completion in zip(suspects, completions, strict=True)
    ]


def leak_shares(texts: Sequence[str], problems: "Sequence[PreparedRow]", watch: WatchParams) -> dict[str, float | None]:
    """Returns the metrics ``leak_mentions`` and ``leak_spans`` of a step.

    Args:
        texts: (B) completions, siblings side by side.
        problems: (P) the step's problems; only a solution that the teacher prompt shows is privileged, and the other
            problems have no spans.
        watch: the patterns and the length of a span.
    """
    siblings = len(texts) // len(problems)
    copies: list[bool] = []
    for index, problem in enumerate(problems):
        if watch.span_words and problem.solution and problem.solution in (problem.teacher_prompt or ""):
            copies += repeats(texts[index * siblings : (index + 1) * siblings], problem, watch.span_words)
    return {
        "leak_mentions": sum(mentions(texts, watch.mentions)) / len(texts),
        "leak_spans": sum(copies) / len(copies) if copies else None,
    }
