"""Gets solutions from a dataset, whose rows are found by the problem's text."""

from collections.abc import Sequence
from pathlib import Path
import re
import unicodedata

from sdpg.params import FileSource
from sdpg.problems.sources import Problem, load_solutions
from sdpg.solutions.candidates import Candidate
from sdpg.solutions.settings import DatasetSettings

_WRAPPERS = (
    re.compile(
        r"\ASolve the following math problem step by step\. The last line of your response should be of the form "
        r"Answer: \$Answer \(without quotes\) where \$Answer is the answer to the problem\.\s*"
    ),
    re.compile(r"\s*Remember to put your answer on its own line after \"Answer:\"\.?\s*\Z"),
    re.compile(r"\AReturn your final response within \\boxed\{\}\.\s*"),
    re.compile(
        r"\s*(?:Please|Let's) (?:reason|think) step by step,? and put your final answer within \\boxed\{\}\.\s*\Z"
    ),
)
"""What datasets write around a problem to say how to answer it."""
_SAME = str.maketrans({"−": "-", "–": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " "})
_DELIMITERS = re.compile(r"\\[()\[\]]|(?<!\\)\$+")
_LOOKS = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\(?=[dt]frac(?![a-zA-Z]))[dt]frac|\\[,;:!]|\\ |~")
_SPACE = re.compile(r"\s+(?=\W)|(?<=\W)\s+")


def join_key(text: str) -> str:
    r"""Returns the key by which a problem is found in another dataset.

    The key is equal for texts that differ in instructions around the problem, in math delimiters, in spaces beside
    signs, and in what LaTeX needs for looks alone (``\left``, ``\dfrac``, ``\,``). Letters, digits and their case
    count, and so does the space between two of them.
    """
    text = unicodedata.normalize("NFC", text).translate(_SAME)
    for wrapper in _WRAPPERS:
        text = wrapper.sub("", text)
    text = _DELIMITERS.sub(" ", text)
    text = _LOOKS.sub(lambda match: "\\frac" if match[0].endswith("frac") else " ", text)
    text = re.sub(r"\s+", " ", text)
    return _SPACE.sub("", text).strip()


class DatasetSource:
    """Solutions from a dataset, which is read once; only rows that belong to a problem are kept.

    The class is a :class:`~sdpg.solutions.candidates.SolutionSource`.
    """

    rounds = 1

    def __init__(self, settings: DatasetSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.name = f"dataset {settings.name}"
        self._counts = {"rows": 0, "joined": 0}

    def used(self) -> dict[str, int]:
        """Returns the number of rows that were read, and of those that belong to a problem."""
        return dict(self._counts)

    def find_candidates(self, problems: Sequence[Problem], attempt: int) -> list[list[Candidate]]:
        """Returns for each problem every row with the same text, in the dataset's order."""
        source = self.settings.source
        read = load_solutions(source, f"--dataset {self.settings.name}", self.folder)
        revision = read.commit or (None if isinstance(source, FileSource) else source.revision)
        origin = f"{read.origin}:{source.columns.solution}" + (f"@{revision}" if revision else "")
        found: dict[str, list[Candidate]] = {join_key(problem.problem): [] for problem in problems}
        for text, solution in read.pairs:
            self._counts["rows"] += 1
            if solution and (candidates := found.get(join_key(text))) is not None:
                self._counts["joined"] += 1
                candidates.append(Candidate(solution, origin))
        return [found[join_key(problem.problem)] for problem in problems]
