"""Finds where two verifiers disagree about the stored answers of runs, the commonest first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from sdpg.evaluation.rescoring import StoredRun, stored_rows
from sdpg.params import RewardParams
from sdpg.rewards.own import make_verifier


@dataclass(frozen=True)
class Opinion:
    """One verifier's verdict on an answer."""

    answer: str | None
    """The answer as this verifier extracted it."""
    status: str
    reason: str


@dataclass(frozen=True)
class Disagreement:
    """Answers to problems with the same gold that one verifier takes for right and the other does not."""

    gold: str
    first: Opinion
    second: Opinion
    count: int


@dataclass(frozen=True)
class Comparison:
    """The outcome of comparing two verifiers."""

    verifiers: dict[str, str]
    """Verifier → version, the first one first."""
    answers: int
    disagreements: list[Disagreement]
    """Where one says right and the other does not, the commonest first."""

    @property
    def differing(self) -> int:
        """Returns the number of answers on which the verifiers disagree."""
        return sum(one.count for one in self.disagreements)


def compare_verifiers(runs: Sequence[StoredRun], first: RewardParams, second: RewardParams) -> Comparison:
    """Scores every stored answer with two verifiers.

    Args:
        runs: the runs, each with its files of rollouts and evaluations.
        first: the reward section of one verifier.
        second: that of the other.
    """
    found: Counter[tuple[str, Opinion, Opinion]] = Counter()
    answers = 0
    files = [(path, kind) for run in runs for path, kind in run.files.items()]
    with make_verifier(first) as one, make_verifier(second) as other:
        for path, kind in tqdm(files, desc="audit", unit="file", delay=5, leave=False):
            rows = stored_rows(path, kind)
            asked = ([row["completion"] for row in rows], [row["gold"] for row in rows],
                     [bool(row["truncated"]) for row in rows])  # fmt: skip
            answers += len(rows)
            for gold, *verdicts in zip(asked[1], one.score(*asked), other.score(*asked), strict=True):
                opinions = [Opinion(each.extracted_answer, str(each.status), each.reason) for each in verdicts]
                if len({opinion.status == "correct" for opinion in opinions}) > 1:
                    found[gold, opinions[0], opinions[1]] += 1
        versions = {one.name: one.version, other.name: other.version}
    ranked = [Disagreement(*key, count) for key, count in found.most_common()]
    return Comparison(versions, answers, ranked)
