"""Scores a file of answers: JSON lines in, JSON lines out, in bounded memory."""

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
from typing import BinaryIO, TextIO

from tqdm import tqdm

from sdpg.errors import UserError
from sdpg.rewards.verifiers import Scorer
from sdpg.rewards.worker_pool import Pair

CHUNK = 1_024
"""The number of answers that are scored, and written, at once."""
PROGRESS_SECONDS = 5
"""Seconds after which a progress bar appears."""


@dataclass(frozen=True)
class Answer:
    """One line of the input; ``truncated`` tells whether the completion hit the token limit."""

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


def parse_answer(line: bytes, where: str) -> Answer:
    """Returns one line of the input as an answer.

    Raises:
        UserError: if the line is wrong; the message names the line and what is wrong with it.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason}): convert the file") from None
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or error
        raise UserError(f"{where}: not valid JSON ({reason}): mend or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is expected, not {_kind(row)}: write {{id, completion, answer}}")
    for name in ("id", "completion", "answer"):
        if name not in row:
            raise UserError(f"{where}: the field {name!r} is missing; there are: {', '.join(row) or 'none'}. Add it")
    identifier, completion, answer = row["id"], row["completion"], row["answer"]
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise UserError(f"{where}: id is {_kind(identifier)}; a string or a whole number is expected")
    if not isinstance(completion, str):
        raise UserError(f"{where}: completion is {_kind(completion)}; a string is expected")
    # Files of AIME problems hold whole numbers as such.
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise UserError(f"{where}: answer is {_kind(answer)}; a string or a whole number is expected: quote it")
    if not str(answer).strip():
        raise UserError(f"{where}: answer is empty, and nothing can be compared with it: fill it in or remove the line")
    truncated = row.get("truncated")
    if not isinstance(truncated, bool | None):
        raise UserError(f"{where}: truncated is {_kind(truncated)}; true, false or null is expected")
    return Answer(identifier, completion, str(answer), bool(truncated))


def score_file(source: str, verifier: Scorer, out: TextIO, keep_pairs: bool = False) -> Scored:
    """Scores every line of a file, in order; writes {id, status, extracted_answer, reward, reason} a line.

    Args:
        source: path of a JSON Lines file of {id, completion, answer}, or ``-`` for standard input. An optional
            ``truncated`` tells of a completion that hit the token limit; further fields are ignored.
        verifier: the verifier that scores.
        out: the stream that gets the lines, each chunk as soon as it is scored.
        keep_pairs: whether ``pairs`` is filled, for an audit.

    Raises:
        UserError: if the file cannot be read or a line is not as expected: before anything is written.
    """
    scored = Scored()
    with _opened(source) as file:
        name = "standard input" if source == "-" else source
        count = sum(1 for _ in _answers(file, name))
        file.seek(0)
        answers = _answers(file, name)
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


def _answers(file: BinaryIO, name: str) -> Iterator[Answer]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield parse_answer(line, f"{name}:{number}")


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    """Yields the file at its begin; what cannot be read twice is copied to a temporary file first."""
    with ExitStack() as stack:
        stream = sys.stdin.buffer
        if source != "-":
            try:
                stream = stack.enter_context(Path(source).open("rb"))
            except OSError as error:
                raise UserError(
                    f"{source} cannot be read ({error.strerror}): name a JSON Lines file, or - for standard input"
                ) from None
            if stream.seekable():
                yield stream
                return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            yield copy


def _kind(value: object) -> str:
    """Returns a value as an error message shows it."""
    if value is None:
        return "null"
    text = json.dumps(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"
