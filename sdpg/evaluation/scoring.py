"""Scores a file of answers: rows in, JSON lines out, in bounded memory."""

from collections import Counter
from collections.abc import Iterator, Mapping
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
from sdpg.problems.rows.columns import MissingColumn, Unusable, text_of, value_at
from sdpg.problems.rows.files import opened, rows_in, split_name
from sdpg.rewards.verifiers import Scorer
from sdpg.rewards.worker_pool import Pair

CHUNK = 1_024
"""The number of answers that are scored, and written, at once."""
PARTS = ("id", "completion", "answer", "truncated")
"""The columns of a row, unless a map names others."""
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


def parse_answer(row: dict[str, Any], where: str, columns: Mapping[str, str] | None = None) -> Answer:
    """Returns one row of the input as an answer.

    Args:
        row: the row.
        where: its place, for messages.
        columns: a part of :data:`PARTS` → the column, or the path into what it holds, where its name is another.

    Raises:
        UserError: if the row is wrong; the message begins with ``where`` and says what is wrong with it.
    """
    named = columns or {}
    values: dict[str, Any] = {}
    for part in PARTS:
        try:
            values[part] = value_at(row, named.get(part, part))
        except MissingColumn:
            if part == "truncated" and part not in named:
                continue
            raise UserError(
                f"{where}: the field {named.get(part, part)!r} is missing; there are: {', '.join(row) or 'none'}. Add "
                f"it, or say where it stands: --columns {part}=…"
            ) from None
        except Unusable as error:
            raise UserError(f"{where}: {error}") from None
    identifier, completion = values["id"], values["completion"]
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise UserError(f"{where}: id is {_kind(identifier)}; a string or a whole number is expected")
    if not isinstance(completion, str):
        raise UserError(f"{where}: completion is {_kind(completion)}; a string is expected")
    try:
        answer = text_of(values["answer"], named.get("answer", "answer"))
    except Unusable as error:
        raise UserError(f"{where}: {error}") from None
    if not answer:
        raise UserError(f"{where}: answer is empty, and nothing can be compared with it: fill it in or remove the line")
    truncated = values.get("truncated")
    if not isinstance(truncated, bool | None):
        raise UserError(f"{where}: truncated is {_kind(truncated)}; true, false or null is expected")
    return Answer(identifier, completion, answer, bool(truncated))


def score_file(
    source: str, verifier: Scorer, out: TextIO, keep_pairs: bool = False, columns: Mapping[str, str] | None = None
) -> Scored:
    """Scores every line of a file, in order; writes {id, status, extracted_answer, reward, reason} a line.

    Args:
        source: path of a file of rows with id, completion and answer, or ``-`` for standard input, which is read as
            JSON Lines, as files of other endings are. An optional ``truncated`` tells of a completion that hit the
            token limit; further fields are ignored.
        verifier: the verifier that scores.
        out: the stream that gets the lines, each chunk as soon as it is scored.
        keep_pairs: whether ``pairs`` is filled, for an audit.
        columns: where the parts of a row stand under other names; see :func:`parse_answer`.

    Raises:
        UserError: if the file cannot be read or a line is not as expected: before anything is written.
    """
    scored = Scored()
    split = split_name(Path(source).name)
    kind = ".jsonl" if split is None else split[1]
    with _opened(source) as file:
        name = "standard input" if source == "-" else source
        count = sum(1 for _ in _answers(file, name, kind, columns))
        answers = _answers(file, name, kind, columns)
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


def _answers(file: BinaryIO, name: str, kind: str, columns: Mapping[str, str] | None) -> Iterator[Answer]:
    for place, row in rows_in(file, name, kind):
        yield parse_answer(row, f"{name}, {place}", columns)


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
