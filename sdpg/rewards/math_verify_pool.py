"""Compares pairs of gold answer and answer by math-verify.

Worker processes import this module, so it must import neither torch nor transformers, and math-verify only lazily.
"""

from functools import lru_cache
import logging
import re
from typing import Any

MATH_VERIFY_MEMORY_BYTES = 470 << 20
"""Address space of a worker that runs math-verify alone, which itself takes less than 100 MB."""
PARSED_GOLDS = 1_024
"""Parsed gold answers that a worker keeps: the same problem comes again with every sibling and every step."""

_DEGREE_SIGN = re.compile(r"(?:\{\})?(?:°|º|˚|\\degree(?![a-zA-Z])|\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\}))")

_WARMING = (
    (r"\frac{1}{2}", "0.5"), ("x^2+1", "(x+1)^2-2x"), ("(1,2)", "(1,2)"), ("1,-2", "x=1,x=-2"), ("x<3", r"(-\infty,3)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"336^\circ", r"336\text{ degrees}"),
)  # fmt: skip
"""Pairs of each kind: the first of a kind makes parsers and tables, which takes seconds."""


def warm_math_verify() -> None:
    """Imports math-verify and compares pairs of each kind, so that no answer's time limit pays for the first."""
    import math_verify  # noqa: F401

    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.ERROR)  # else each worker warns of the time limits that we switch off
    for gold, answer in _WARMING:
        math_verify_equal(gold, answer)
    _parsed_gold.cache_clear()


def math_verify_equal(gold: str, answer: str) -> bool:
    """Returns whether math-verify holds ``answer`` to equal ``gold``; runs in a worker process.

    Only LaTeX is parsed: math-verify's other extractor hands its text to a parser that calls ``eval``. Its own time
    limits are off, because they report a time-out as "not equal"; the pool's hard kill is the only limit.
    """
    from math_verify import verify

    # Not symmetric: the gold answer comes first.
    return verify(_parsed_gold(gold), _parsed(answer), timeout_seconds=0)


def _parsed(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    # The LaTeX parser knows none of these signs.
    text = _DEGREE_SIGN.sub(r"^\\circ", text).replace("−", "-")
    config = LatexExtractionConfig(boxed_match_priority=0)
    # The first match is the box. Where that does not parse, a formula somewhere inside is not the answer.
    return parse("\\boxed{" + text + "}", [config], extraction_mode="first_match", parsing_timeout=0)


@lru_cache(PARSED_GOLDS)
def _parsed_gold(text: str) -> list[Any]:
    return _parsed(text)
