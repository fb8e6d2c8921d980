"""One check: what is expected, what was found, and what an error makes of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
import gc
from pathlib import Path
import time
import traceback
from typing import Any

import torch

from benchmarks.figures import SkippedError

OK, FAILED, MISSED, SKIPPED, MEASURED = "ok", "FAILED", "missed", "skipped", "measured"
"""States of a row. A goal of speed or memory that is missed fails nothing; ``measured`` has nothing to compare with."""
PROJECT = Path(__file__).parents[2]


class DeviceLostError(Exception):
    """After such an error no call to the GPU succeeds in this process; the next part needs another one."""


@dataclass(frozen=True)
class Answer:
    """What a check found.

    Attributes:
        found: in words.
        holds: whether that is what was expected; None where nothing was.
        goal: what was expected is a goal of speed or memory, which fails nothing where it is missed.
        values: numbers for the JSON file.
    """

    found: str
    holds: bool | None = None
    goal: bool = False
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """That of the row."""
        if self.holds is None:
            return MEASURED
        return OK if self.holds else MISSED if self.goal else FAILED


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    part: int
    check: str
    expected: str
    found: str
    state: str
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return asdict(self)


@dataclass
class Run:
    """A part at work.

    Attributes:
        part: its number.
        device: what it is tried on.
        toy: sizes that a CPU computes in a moment.
        deadline: when the time is up, as :func:`time.monotonic` counts.
        report: is told of each row.
    """

    part: int
    device: torch.device
    toy: bool
    deadline: float
    report: Callable[[Row], None]

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one."""
        return self.device.type == "cuda"

    def check(self, name: str, expected: str, function: Callable[[], Answer], seconds: float = 0.0) -> Answer | None:
        """Reports what ``function`` found; an exception becomes a row and does not go further.

        Args:
            name: of the check.
            expected: in words.
            function: the check.
            seconds: that it takes at full size; with less time left it is skipped.

        Returns:
            What was found; None where nothing was.

        Raises:
            DeviceLostError: if the GPU cannot be used any more in this process.
        """
        start, answer, lost = time.monotonic(), None, False
        left = self.deadline - start
        try:
            if not self.toy and seconds > left:
                raise SkippedError(f"it takes about {seconds:.0f} s, and {max(0, left):.0f} s are left")
            answer = function()
            row = (answer.found, answer.state, answer.values)
        except SkippedError as reason:
            row = (str(reason), SKIPPED, {})
        except Exception as error:
            row = (last_line(error), FAILED, {"traceback": traceback.format_exc()[-4000:]})
            lost = self.on_gpu and device_is_lost(error)
            # Its frames hold tensors.
            traceback.clear_frames(error.__traceback__)
        found, state, values = row
        self.report(Row(self.part, name, expected, found, state, round(time.monotonic() - start, 2), values))
        if lost:
            raise DeviceLostError(found)
        self.release()
        return answer

    def release(self) -> None:
        """Gives back the memory of what is not used any more."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


def last_line(error: BaseException) -> str:
    """The last line of a traceback with the project's own line that it leads to."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0][:400]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PROJECT) and "site-packages" not in
            frame.filename]  # fmt: skip
    if not ours:
        return text
    return f"{text} ({Path(ours[-1].filename).relative_to(PROJECT)}:{ours[-1].lineno})"


def device_is_lost(error: Exception) -> bool:
    """Whether an error leaves the GPU unusable for the process: a kernel that failed, not memory that ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
