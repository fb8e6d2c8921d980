"""Verifiable rewards: extract a response's final answer, compare it with the gold answer, name what happened.

A worker process imports this module, so it must import neither torch nor transformers, and math-verify only lazily.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
import logging
from multiprocessing.context import SpawnContext, SpawnProcess
import re
import resource
import signal
import sys
import threading
from types import ModuleType

from pebble import ProcessExpired, ProcessPool

from sdpg.params import RewardParams

MAX_ANSWER_CHARACTERS = 1_000
"""A longer extracted answer is wrong without a look: no gold answer comes near, and parsing it would cost seconds."""
STRING_MATCH_WINDOW = 500
"""D18: the public code looks for \\boxed in so many final characters only."""
STRING_MATCH_VERSION = "1"
"""To be raised whenever a rule of :func:`normalise_string` or its extraction changes."""
WORKER_MEMORY_BYTES = 4 << 30
"""Address space of one worker: an answer like 9^{9^9} must exhaust its worker, not the machine."""
ORPHAN_SECONDS = 10.0
"""How long past its time limit a worker ends itself: only where the process that should have killed it is gone."""
CACHE_SIZE = 65_536
"""Verified (gold, answer) pairs remembered across calls."""

_TOKEN = re.compile(r"(?P<box>\\boxed\s*\{)|(?P<skip>\\[{}]|\\\\(?!boxed))|(?P<open>\{)|(?P<close>\})")
_ANSWER_LINE = re.compile(r"^[ \t*#>]*(?:final[ \t]+)?answer[ \t*]*:[ \t*]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_DELIMITERS = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\s*\{(.*)\}", re.DOTALL)
_NUMBER = re.compile(r"([+-]?)([0-9]+|[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+)(?:\.0*)?")
_INTEGER = re.compile(r"-?[0-9]+")

_UNWRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|overline|boxed)\{([^{}]*)\}")
_UNITS = re.compile(
    r"(?<=[0-9}])(?:square|sq|cubic)?(?:degrees?|dollars?|cents?|units?|percent|points?|hours?|minutes?|seconds?|days?|"
    r"(?:centi|kilo)?met(?:er|re)s?|inch(?:es)?|feet|foot|miles?|mph|[ck]m)(?:\^\{?[23]\}?)?$"
)
_DROPPED = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ]|\s|\^\{?\\circ\}?|°|\\?[$%]")


class Status(StrEnum):
    """What became of one response."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """The response ended by itself without an answer in the asked-for form."""
    TRUNCATED = "truncated"
    """No answer, and the response was cut at the token limit. An answer found in a cut response is verified."""
    TIMEOUT = "timeout"
    """Verifying took too long or broke its worker: nobody knows, and the reward is that of a wrong answer."""


@dataclass(frozen=True)
class Verdict:
    """The outcome for one response."""

    status: Status
    extracted_answer: str | None
    """As the response wrote it, trimmed; ``None`` where none was found."""
    reward: float


def extract_boxed(text: str) -> str | None:
    """The trimmed content of the last balanced ``\\boxed{…}`` after the last ``</think>``; ``None`` without one.

    "Last" goes by where a box opens, so of nested boxes the inner one counts. One pass: linear in the text's length.
    """
    text = text.rpartition("</think>")[2]
    opened: list[int | None] = []
    last = (-1, -1)
    for token in _TOKEN.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token["open"]:
            opened.append(None)
        elif token["close"] and opened:
            start = opened.pop()
            if start is not None:
                last = max(last, (start, token.start()))
    return text[last[0] : last[1]].strip() if last[0] >= 0 else None


def extract_answer_line(text: str) -> str | None:
    """What follows the last ``Answer:`` that begins a line after the last ``</think>``; ``None`` without one."""
    lines = _ANSWER_LINE.findall(text.rpartition("</think>")[2])
    return lines[-1].rstrip(" \t\r*") or None if lines else None


def normalise_answer(text: str) -> str:
    r"""An answer without its packaging: spaces, math delimiters, ``\text{…}`` around all of it, a final period.

    Whole numbers come out in their one canonical form: ``1,234``, ``027``, ``27.0`` and ``+5`` become ``1234``, ``27``,
    ``27`` and ``5``. Anything else (``336^\circ``, ``\frac{1}{2}``) stays as it is written. For gold answers too.
    """
    before = None
    while text != before:
        before = text
        text = text.strip().removeprefix("\\$").strip("$").strip()
        if text.endswith(".") and not text.endswith(("\\right.", "\\left.")):
            text = text[:-1]
        if match := _DELIMITERS.fullmatch(text):
            text = match[1] or match[2] or ""
        elif (match := _WRAPPER.fullmatch(text)) and _balanced(match[1]):
            text = match[1]
    if match := _NUMBER.fullmatch(text.replace("−", "-")):
        # Digits are compared as text, so numbers beyond Python's 4300-digit limit of int() are no special case.
        digits = re.sub(r"[^0-9]", "", match[2]).lstrip("0") or "0"
        return f"-{digits}" if match[1] == "-" and digits != "0" else digits
    return text


def normalise_string(text: str) -> str:
    """The string_match verifier's form (D18): spaces, sizing, wrappers, units, dollar signs and number commas removed.

    In the manner of Minerva's normalisation, as the public code; ``027`` and ``27.0`` stay different from ``27``.
    """
    text = _DROPPED.sub("", text.split("=")[-1])
    before = None
    while text != before:
        before = text
        text = _UNWRAPPED.sub(r"\1", text)
    text = _UNITS.sub("", text.rstrip("."))
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac([0-9a-z])([0-9a-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt([0-9a-z])", r"\\sqrt{\1}", text)
    without_commas = text.replace("{,}", "").replace(",", "")
    return without_commas if _INTEGER.fullmatch(without_commas) else text


def math_verify_equal(gold: str, answer: str) -> bool:
    """Whether math-verify holds ``answer`` to equal ``gold``; runs in a worker process.

    Only LaTeX is parsed: math-verify's other extractor hands its text to a parser that calls ``eval``. Its own time
    limits are off, because they report a time-out as "not equal"; the pool's hard kill is the only limit.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    def parsed(text: str) -> list:
        # The LaTeX parser knows neither sign.
        text = text.replace("°", "^\\circ").replace("−", "-")
        config = LatexExtractionConfig(boxed_match_priority=0)
        return parse("\\boxed{" + text + "}", extraction_config=[config], parsing_timeout=0)

    # Not symmetric: the gold answer comes first.
    return verify(parsed(gold), parsed(answer), timeout_seconds=0)


def _balanced(text: str) -> bool:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += bool(token["box"] or token["open"]) - bool(token["close"])
        if depth < 0:
            return False
    return depth == 0


def _start_worker() -> None:
    # pebble's SIGTERM handler waits for a bytecode boundary, which a power of large integers reaches minutes later.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    hard_limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = WORKER_MEMORY_BYTES if hard_limit == resource.RLIM_INFINITY else min(WORKER_MEMORY_BYTES, hard_limit)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Imported here so that no answer's time limit pays for it.
    import math_verify  # noqa: F401

    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.ERROR)  # else each worker warns of the time limits that we switch off


def _limited(verify: Callable[[str, str], bool], timeout: float, gold: str, answer: str) -> bool:
    signal.setitimer(signal.ITIMER_REAL, timeout + ORPHAN_SECONDS)  # SIGALRM has no handler here: the process ends
    try:
        return verify(gold, answer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


_MAIN_LOCK = threading.Lock()


class _WorkerProcess(SpawnProcess):
    """A spawned process that does not run the parent's main module again.

    Spawning, so that no thread of torch is forked, normally imports ``__main__`` in the child: for a training stage
    that is torch and transformers, seconds and gigabytes of address space for every worker and every restart.
    """

    def start(self) -> None:
        with _MAIN_LOCK:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _WorkerProcess


class Verifier:
    """Scores responses with the configured verifier; a context manager, as it may hold worker processes.

    math_verify decides in this order: equal normalised strings are equal; two whole numbers that differ are different
    (the fast path, exact, without a worker); math-verify decides the rest, each distinct pair once, in a worker that is
    killed at ``params.timeout``. Each worker's memory is limited too.

    Args:
        params: the ``reward`` section.
        verify: ``(gold, answer) → equal``, run in the workers; must be importable by name, from a module free of torch.
    """

    def __init__(self, params: RewardParams, verify: Callable[[str, str], bool] = math_verify_equal):
        self.params = params
        self.failures = 0
        """Verifications that ended in a time-out or a crashed worker, so far."""
        self._verify = verify
        self._pool: ProcessPool | None = None
        self._cache: OrderedDict[tuple[str, str], Status] = OrderedDict()

    @property
    def name(self) -> str:
        """Which verifier this is, for records."""
        return self.params.verifier

    @property
    def version(self) -> str:
        """math-verify's version, or that of our string match."""
        return STRING_MATCH_VERSION if self.name == "string_match" else version("math-verify")

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; a later :meth:`score` starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def score(self, completions: Sequence[str], golds: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        """One verdict per response, in order; ``truncated`` tells which responses hit the token limit."""
        normalise = normalise_string if self.name == "string_match" else normalise_answer
        answers = [self._extract(completion) for completion in completions]
        pairs = [
            (normalise(gold), normalise(answer)) if answer and len(answer) <= MAX_ANSWER_CHARACTERS else None
            for gold, answer in zip(golds, answers, strict=True)
        ]
        statuses = self._compare(dict.fromkeys(pair for pair in pairs if pair))
        verdicts = []
        for answer, pair, cut in zip(answers, pairs, truncated, strict=True):
            if answer is None:
                status = Status.TRUNCATED if cut else Status.NO_ANSWER
            else:
                status = statuses[pair] if pair else Status.WRONG
            reward = self.params.correct if status is Status.CORRECT else self.params.wrong
            verdicts.append(Verdict(status, answer, reward))
        return verdicts

    def _extract(self, text: str) -> str | None:
        if self.name == "string_match":
            text = text[-STRING_MATCH_WINDOW:]
        if self.params.answer_format == "answer_line":
            answer = extract_answer_line(text)
            return extract_boxed(answer or "") or answer
        answer = extract_boxed(text)
        if answer is None and self.name == "string_match":
            answer = extract_answer_line(text)
        return answer or None

    def _compare(self, pairs: dict[tuple[str, str], None]) -> dict[tuple[str, str], Status]:
        statuses: dict[tuple[str, str], Status] = {}
        hard = []
        for pair in pairs:
            status = self._decide(*pair) or self._cache.get(pair)
            if status is None:
                hard.append(pair)
            else:
                statuses[pair] = status
                if pair in self._cache:
                    self._cache.move_to_end(pair)
        for pair, status in self._run(hard).items():
            statuses[pair] = status
            if status is not Status.TIMEOUT:  # it may have been the machine's fault, so the next time tries again
                self._cache[pair] = status
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return statuses

    def _decide(self, gold: str, answer: str) -> Status | None:
        """The verdict where none but string comparison is needed, else ``None``."""
        if gold == answer and answer:
            return Status.CORRECT
        two_integers = _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer)
        # An unbalanced answer could close the box in which math-verify gets it and open another.
        if not answer or two_integers or self.name == "string_match" or not _balanced(answer):
            return Status.WRONG
        return None

    def _run(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Status]:
        statuses: dict[tuple[str, str], Status] = {}
        for retried in (False, True):
            left = [pair for pair in pairs if pair not in statuses]
            if not left:
                break
            pool = self._running_pool()
            limit = self.params.timeout
            futures = {pair: pool.schedule(_limited, args=(self._verify, limit, *pair), timeout=limit) for pair in left}
            for pair, future in futures.items():
                try:
                    statuses[pair] = Status.CORRECT if future.result() else Status.WRONG
                except (TimeoutError, ProcessExpired, MemoryError, RecursionError):
                    statuses[pair] = Status.TIMEOUT
                    self.failures += 1
                except BrokenProcessPool:
                    # An idle worker died (say, of the kernel's memory killer): one new pool; twice is a broken install.
                    if retried:
                        raise
        return statuses

    def _running_pool(self) -> ProcessPool:
        if self._pool is not None and not self._pool.active:
            self.close()
        if self._pool is None:
            self._pool = ProcessPool(self.params.workers, initializer=_start_worker, context=_Context())
        return self._pool
