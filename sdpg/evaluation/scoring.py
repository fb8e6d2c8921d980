"""Scores a file of answers: rows in, JSON lines out, in bounded memory."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
import json
from pathlib import Path
import shutil
import sys
import tempfile
import time
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

from sdpg.errors import UserError
from sdpg.problems.rows.columns import Unusable, text_of
from sdpg.problems.rows.files import opened, rows_in, split_name
from sdpg.rewards.verifiers import Scorer
from sdpg.rewards.worker_pool import Pair

CHUNK = 1_024
"""The number of answers that are scored, and written, at once."""
PROGRESS_SECONDS = 5
"""Seconds after which a progress bar appears."""


@dataclass(frozen=True)
class Answer:
    """One row of the input; ``truncated`` tells whether the completion hit the token limit."""

    id: str | int
    completion: str
    answer: str
    truncated: bool


@dataclass
class Scored:
    """The outcome of scoring a file."""

    statuses: Counter[str] = field(default_factory=Counter)
    pairs: Counter[Pair] = field(default_factory=Counter)
    """(gold, extracted answer) → how many answers have it; filled where the caller asks for it."""
    seconds: float = 0.0

    @property
    def answers(self) -> int:
        """Returns the number of lines that were scored."""
        return self.statuses.total()

    def summary(self, verifier: Scorer) -> str:
        """Returns one sentence for people."""
        counts = ", ".join(f"{status} {count:,}" for status, count in sorted(self.statuses.items()))
        rate = f" ({self.answers / self.seconds:,.0f} a second)" if self.answers else ""
        return (
            f"{self.answers:,} answers in {self.seconds:.1f} s{rate} with {verifier.name} {verifier.version}"
            f"{': ' if counts else ''}{counts}"
        )


def parse_answer(row: dict[str, Any], where: str) -> Answer:
    """Returns one row of the input as an answer.

    Raises:
        UserError: if the row is wrong; the message begins with ``where`` and says what is wrong with it.
    """
    for name in ("id", "completion", "answer"):
        if name not in row:
            raise UserError(f"{where}: the field {name!r} is missing; there are: {', '.join(row) or 'none'}. Add it")
    identifier, completion = row["id"], row["completion"]
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise UserError(f"{where}: id is {_kind(identifier)}; a string or a whole number is expected")
    if not isinstance(completion, str):
        raise UserError(f"{where}: completion is {_kind(completion)}; a string is expected")
    try:
        answer = text_of(row["answer"], "answer")
    except Unusable as error:
        raise UserError(f"{where}: {error}") from None
    if not answer:
        raise UserError(f"{where}: answer is empty, and nothing can be compared with it: fill it in or remove the line")
    truncated = row.get("truncated")
    if not isinstance(truncated, bool | None):
        raise UserError(f"{where}: truncated is {_kind(truncated)}; true, false or null is expected")
    return Answer(identifier, completion, answer, bool(truncated))


def score_file(source: str, verifier: Scorer, out: TextIO, keep_pairs: bool = False) -> Scored:
    """Scores every line of a file, in order; writes {id, status, extracted_answer, reward, reason} a line.

    Args:
        source: path of a file of rows with id, completion and answer, or ``-`` for standard input, which is read as
            JSON Lines, as files of other endings are. An optional ``truncated`` tells of a completion that hit the
            token limit; further fields are ignored.
        verifier: the verifier that scores.
        out: the stream that gets the lines, each chunk as soon as it is scored.
        keep_pairs: whether ``pairs`` is filled, for an audit.

    Raises:
        UserError: if the file cannot be read or a line is not as expected: before anything is written.
    """
    scored = Scored()
    split = split_name(Path(source).name)
    kind = ".jsonl" if split is None else split[1]
    with _opened(source) as file:
        name = "standard input" if source == "-" else source
        count = sum(1 for _ in _answers(file, name, kind))
        answers = _answers(file, name, kind)
        begin = time.perf_counter()
        with tqdm(
            total=count, desc="score", unit="answer", delay=PROGRESS_SECONDS, leave=False, file=sys.stderr
        ) as bar:
            while chunk := list(islice(answers, CHUNK)):
                golds = [one.answer for one in chunk]
                verdicts = verifier.score([one.completion for one in chunk], golds, [one.truncated for one in chunk])
                for one, verdict in zip(chunk, verdicts, strict=True):
                    scored.statuses[verdict.status] += 1
                    if keep_pairs and verdict.extracted_answer:
                        scored.pairs[one.answer, verdict.extracted_answer] += 1
                    line = {"id": one.id, "status": verdict.status, "extracted_answer": verdict.extracted_answer,
                            "reward": verdict.reward, "reason": verdict.reason}  # fmt: skip
                    # In ASCII, so that half a surrogate pair is written as it was read.
                    out.write(json.dumps(line) + "\n")
                out.flush()
                bar.update(len(chunk))
        scored.seconds = time.perf_counter() - begin
    return scored


def _answers(file: BinaryIO, name: str, kind: str) -> Iterator[Answer]:
    for place, row in rows_in(file, name, kind):
        yield parse_answer(row, f"{name}, {place}")


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    """Yields a file that can be read twice; what cannot is copied to a temporary file first."""
    with ExitStack() as stack:
        stream = sys.stdin.buffer
        if source != "-":
            stream = stack.enter_context(opened(Path(source), "name a file of answers, or - for standard input"))
            if stream.seekable():
                yield stream
                return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            yield copy


def _kind(value: object) -> str:
    """Returns a value as an error message shows it."""
    if value is None:
        return "null"
    text = json.dumps(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"
