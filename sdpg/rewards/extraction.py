"""Extracts a response's final answer and strips its packaging. The module imports nothing of the project."""

import re

MAX_ANSWER_CHARACTERS = 1_000
"""A longer extracted answer is wrong without a look: no gold answer comes near, and parsing it would cost seconds."""
MAX_NESTING = 12
"""An answer with deeper brackets is wrong too: math-verify's parser takes time that is exponential in the depth."""
STRING_MATCH_WINDOW = 500
"""D18: the public code looks for \\boxed in so many final characters only."""

_TOKEN = re.compile(r"(?P<box>\\boxed\s*\{)|(?P<skip>\\[{}]|\\\\(?!boxed))|(?P<open>\{)|(?P<close>\})")
_BOXES = re.compile(
    r"(?P<box>\\boxed\s*\{)|(?P<frame>\\fbox\s*\{)|(?P<skip>\\[{}]|\\\\(?!boxed|fbox))|(?P<open>\{)|(?P<close>\})"
    # Without braces a number or a letter, as written for people.
    r"|\\boxed[ \t]+(?P<bare>-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?|[A-Z])(?![0-9a-zA-Z{\\^_/])"
)
_ANSWER_LINE = re.compile(r"^[ \t*#>]*(?:final[ \t]+)?answer[ \t*]*:[ \t*]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_DELIMITERS = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_ELLIPSIS = re.compile(r"(?:\.|…|dots)\s*\.$")
_NUMBER = re.compile(r"([+-]?)([0-9]+|[1-9][0-9]{0,2}(?:(?:,(?:\\[!,]\s*)?|\{,\}|\\,)[0-9]{3})+)(?:\.0*)?")
_INTEGER = re.compile(r"-?[0-9]+")

_UNWRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|overline|boxed)\{([^{}]*)\}")
_UNITS = re.compile(
    r"(?<=[0-9}])(?:square|sq|cubic)?(?:degrees?|dollars?|cents?|units?|percent|points?|hours?|minutes?|seconds?|days?|"
    r"(?:centi|kilo)?met(?:er|re)s?|inch(?:es)?|feet|foot|miles?|mph|[ck]m)(?:\^\{?[23]\}?)?$"
)
_DROPPED = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ]|\s|\^\{?\\circ\}?|°|\\?[$%]")


def extract_boxed(text: str) -> str | None:
    """Returns the trimmed content of the last balanced ``\\boxed{…}`` after the last ``</think>``, or ``None``.

    "Last" goes by where a box opens, so of nested boxes the inner one counts. ``\\boxed 70`` is a box too; of a text
    without one, ``\\fbox{…}`` is. One pass: linear in the text's length.
    """
    text = text.rpartition("</think>")[2]
    opened: list[tuple[str, int] | None] = []
    last = {"box": (-1, -1), "frame": (-1, -1)}
    for token in _BOXES.finditer(text):
        if token["box"] or token["frame"]:
            opened.append(("box" if token["box"] else "frame", token.end()))
        elif token["open"]:
            opened.append(None)
        elif token["bare"]:
            last["box"] = max(last["box"], token.span("bare"))
        elif token["close"] and opened and (box := opened.pop()):
            kind, start = box
            last[kind] = max(last[kind], (start, token.start()))
    begin, end = last["box"] if last["box"][0] >= 0 else last["frame"]
    return text[begin:end].strip() if begin >= 0 else None


def extract_answer_line(text: str) -> str | None:
    """Returns what follows the last ``Answer:`` that begins a line after the last ``</think>``, or ``None``."""
    lines = _ANSWER_LINE.findall(text.rpartition("</think>")[2])
    return lines[-1].rstrip(" \t\r*") or None if lines else None


def normalise_answer(text: str) -> str:
    r"""Returns an answer without its packaging: spaces, math delimiters, ``\text{…}`` around all of it, a final period.

    Whole numbers come out in their one canonical form: ``1,234``, ``027``, ``27.0`` and ``+5`` become ``1234``, ``27``,
    ``27`` and ``5``. Anything else (``336^\circ``, ``\frac{1}{2}``) stays as written. Gold answers are treated alike.
    """
    before = None
    while text != before:
        before = text
        text = text.strip().removeprefix("\\$").strip("$").strip()
        # Several periods are an ellipsis: what they stand for is not known.
        if text.endswith(".") and not text.endswith(("\\right.", "\\left.")) and not _ELLIPSIS.search(text):
            text = text[:-1]
        if match := _DELIMITERS.fullmatch(text):
            text = match[1] or match[2] or ""
        elif (match := _WRAPPER.fullmatch(text)) and balanced(match[1]):
            text = match[1]
    if match := _NUMBER.fullmatch(text.replace("−", "-")):
        # Digits are compared as text, so numbers beyond Python's 4300-digit limit of int() are no special case.
        digits = re.sub(r"[^0-9]", "", match[2]).lstrip("0") or "0"
        return f"-{digits}" if match[1] == "-" and digits != "0" else digits
    return text


def normalise_string(text: str) -> str:
    """Returns the string_match verifier's form (D18): no spaces, sizing, wrappers, units, dollar signs, number commas.

    It follows Minerva's normalisation, as the public code does; ``027`` and ``27.0`` stay different from ``27``.
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
    return without_commas if is_integer(without_commas) else text


def balanced(text: str) -> bool:
    """Returns whether every brace closes and none closes that was not open; ``\\{`` and ``\\}`` are no braces."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += bool(token["box"] or token["open"]) - bool(token["close"])
        if depth < 0:
            return False
    return depth == 0


def nesting(text: str) -> int:
    """Returns the most brackets of any kind that are open at once; one that never closes stays open."""
    depth = deepest = 0
    for bracket in re.findall(r"[(\[{)\]}]", text):
        depth = depth + 1 if bracket in "([{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def is_integer(text: str) -> bool:
    """Returns whether a normalised answer is a whole number."""
    return _INTEGER.fullmatch(text) is not None
