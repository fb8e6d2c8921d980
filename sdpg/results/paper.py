"""Holds what the paper reports in its Tables 1 and 2 (arXiv 2606.04036).

Its models and benchmarks differ from ours, so the numbers are never mixed with ours.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: method → (Last, Best) for each benchmark in order."""

    number: int
    model: str
    benchmarks: tuple[str, ...]
    rows: dict[str, tuple[tuple[float, float], ...]]

    @property
    def label(self) -> str:
        """Returns the name of the table wherever it is shown."""
        *others, last = self.benchmarks
        return (f"As reported by the paper, Table {self.number}: {self.model} on {', '.join(others)} and {last}, "
                "mean@32 (not measured here)")  # fmt: skip


TABLES = (
    PaperTable(
        number=1,
        model="Qwen3-4B",
        benchmarks=("AIME24", "AIME25", "AMC23"),
        rows={
            "GRPO": ((0.280, 0.316), (0.242, 0.279), (0.714, 0.739)),
            "RLSD": ((0.378, 0.395), (0.300, 0.304), (0.813, 0.813)),
            "SDPG-URKL": ((0.380, 0.401), (0.307, 0.308), (0.863, 0.863)),
            "SDPG-UFKL": ((0.380, 0.408), (0.327, 0.335), (0.858, 0.870)),
        },
    ),
    PaperTable(
        number=2,
        model="Qwen3-1.7B",
        benchmarks=("AIME24", "AIME25", "AMC23"),
        rows={
            "GRPO": ((0.096, 0.115), (0.118, 0.118), (0.467, 0.467)),
            "RLSD": ((0.177, 0.199), (0.158, 0.185), (0.573, 0.582)),
            "OPCD": ((0.017, 0.125), (0.013, 0.140), (0.245, 0.474)),
            "SDPG-URKL": ((0.191, 0.197), (0.189, 0.192), (0.620, 0.620)),
            "SDPG-UFKL": ((0.192, 0.212), (0.182, 0.188), (0.637, 0.666)),
        },
    ),
)
