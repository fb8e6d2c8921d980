"""Reads a number or an expression with its unit, also one in several units, and its precision as written."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
import re

from sdpg.rewards.answers.expressions import Expression, Node
from sdpg.rewards.answers.kinds import Scalar, Series, Value, Words
from sdpg.rewards.answers.tokens import NotUnderstoodError, Token
from sdpg.rewards.answers.units import CURRENCIES, MULTIPLES, SINGLE, Unit, is_unit, read_unit
from sdpg.rewards.answers.vocabulary import DENIALS


class QuantityReader:
    """Reads quantities.

    Args:
        variables: the gold answer's variables; None for reading a gold answer itself.
        words: words that the gold answer holds, in lower case.
    """

    def __init__(self, variables: frozenset[str] | None, words: frozenset[str]):
        self.variables, self.words = variables, words
        self.gold = variables is None

    def read(self, tokens: list[Token]) -> Scalar:
        """Returns the number or expression that tokens are, with its unit.

        Raises:
            NotUnderstoodError: if a part has no meaning here.
        """
        if not tokens:
            raise NotUnderstoodError("nothing")
        currency = next((token.text for token in tokens[:2] if token.text in CURRENCIES), None)
        begin = tokens[1:2] if tokens[0].text == "-" else tokens[:1]
        if currency and begin and begin[0].text == currency:
            tokens = [token for token in tokens if token.text != currency]
        else:
            currency = None
        parser = Expression(tokens, self._unit_runs(tokens))
        node = parser.sum()
        if parser.pending:
            raise NotUnderstoodError("letters")
        read, rest = list(parser.tokens[: parser.at]), list(parser.tokens[parser.at :])
        while rest and rest[0].text.lower() in MULTIPLES:
            node = ("*", node, ("num", Fraction(MULTIPLES[rest.pop(0).text.lower()])))
        node, name = _without_sign(node)
        unit = Unit(dimensions=frozenset({(name, 1)})) if name else None
        if currency:
            unit = read_unit([Token("word", CURRENCIES[currency])], self.words)
        next_number = next((at for at, token in enumerate(rest) if token.kind == "num" and not _is_power(rest, at)),
                           len(rest))  # fmt: skip
        phrase, rest = rest[:next_number], rest[next_number:]
        if name == "degree" and phrase and phrase[0].text in ("C", "F"):
            phrase = [Token("word", {"C": "celsius", "F": "fahrenheit"}[phrase[0].text]), *phrase[1:]]
        if found := read_unit(phrase, self._known(phrase)) if phrase else None:
            if unit and not (found.name == unit.name or unit.name == "degree"):
                raise NotUnderstoodError("two units")
            unit = found
        scalar = Scalar(node, unit, *_precision(read))
        if rest:
            return self._with_minutes(scalar, rest) if name == "degree" else self._compound(scalar, rest)
        return scalar

    def _known(self, phrase: Sequence[Token]) -> frozenset[str]:
        if not self.gold:
            return self.words
        words = {token.text.lower() for token in phrase if token.kind == "word" and len(token.text) > 1}
        # An ordinal is no quantity: 3rd.
        return frozenset(words - DENIALS - {"st", "nd", "rd", "th"})

    def _unit_runs(self, tokens: Sequence[Token]) -> frozenset[str]:
        """Returns the runs of letters that are units here and not products of the gold answer's variables."""
        runs = {token.text for token in tokens if token.kind == "run"}
        if self.gold:
            degrees = {b.text for a, b in pairwise(tokens) if a.text == r"\circ"}
            slash = any(token.text == "/" for token in tokens[1:]) and tokens[0].kind == "num"
            return frozenset(run for run in runs if is_unit(run) and (
                len(run) > 1 or (slash and run in SINGLE) or (run in "CF" and run in degrees)
            ))  # fmt: skip
        free = self.variables or frozenset()
        degrees = {b.text for a, b in pairwise(tokens) if a.text == r"\circ" and b.text in "CF"}
        return frozenset(degrees) | frozenset(run for run in runs if not set(run) <= free and is_unit(run, self.words)
                                   and (len(run) > 1 or run in SINGLE))  # fmt: skip

    def _compound(self, scalar: Scalar, rest: list[Token]) -> Scalar:
        other = self.read(rest)
        joined = sum_of_units([scalar, other])
        if joined is None:
            raise NotUnderstoodError("several numbers with words between them")
        return joined

    def _with_minutes(self, scalar: Scalar, rest: list[Token]) -> Scalar:
        texts = [token.text for token in rest]
        node, size = scalar.node, 60
        while len(texts) >= 2 and texts[0].replace(".", "").isdecimal():
            marks = 1 if size == 60 else 2
            if texts[1 : 1 + marks] != ["'"] * marks or size > 3600:
                break
            node = ("+", node, ("/", ("num", Fraction(texts[0])), ("num", Fraction(size))))
            texts, size = texts[1 + marks :], size * 60
        if texts:
            raise NotUnderstoodError(f"{texts[0]!r}")
        return replace(scalar, node=node, compound=True, place=None, digits=0)


def _without_sign(node: Node) -> tuple[Node, str]:
    """Returns an expression in degrees or percent without the signs, and which it is in; as it is if in neither."""
    for sign, name in (("deg", "degree"), ("pct", "percent")):
        if (stripped := _stripped(node, sign)) is not None:
            return stripped, name
    return node, ""


def _stripped(node: Node, sign: str) -> Node | None:
    if node[0] == sign:
        return node[1]
    if node[0] == "neg":
        inner = _stripped(node[1], sign)
        return None if inner is None else ("neg", inner)
    if node[0] in ("+", "-"):
        parts = _stripped(node[1], sign), _stripped(node[2], sign)
        return None if None in parts else (node[0], *parts)
    if node[0] == "*":
        left, right = _stripped(node[1], sign), _stripped(node[2], sign)
        if (left is None) != (right is None):
            return ("*", left or node[1], right or node[2])
    return None


def _is_power(tokens: Sequence[Token], at: int) -> bool:
    """Returns whether a number is the power of a unit before it."""
    before = [token.text for token in tokens[max(0, at - 3) : at]]
    return before[-1:] == ["^"] or before[-2:] in (["^", "{"], ["^", "-"]) or before == ["^", "{", "-"]


def _precision(tokens: Sequence[Token]) -> tuple[Fraction | None, int]:
    """Returns the value of a decimal's last digit and its significant digits, of 6.63 times a power of ten too."""
    texts = [token.text for token in tokens if token.text not in ("-", "%", r"\%", "{", "}", "(", ")")]
    if not texts or not (match := re.fullmatch(r"([0-9]*)\.([0-9]+)(?:[eE]([-+]?[0-9]+))?", texts[0])):
        return None, 0
    exponent = int(match[3] or 0)
    if len(texts) > 1:
        if texts[1:4] != ["*", "10", "^"] or len(texts) != 5 or not texts[4].isdecimal():
            return None, 0
        exponent += int(texts[4]) * (-1 if any(token.text == "-" for token in tokens[1:]) else 1)
    if abs(exponent) > 1_000:
        return None, 0
    return Fraction(10) ** (exponent - len(match[2])), len((match[1] + match[2]).lstrip("0"))


def sum_of_units(items: Sequence[Value]) -> Scalar | None:
    """Returns one quantity of several in ever smaller units of the same kind: 5 hours 30 minutes."""
    quantities = [
        item for item in items if isinstance(item, Scalar) and item.unit and item.unit.name and not item.unit.any
    ]
    if len(quantities) != len(items) or len(items) < 2:
        return None
    units = [item.unit for item in quantities if item.unit]
    falling = all(a.size > b.size and a.dimensions == b.dimensions for a, b in pairwise(units))
    if not falling:
        return None
    node = quantities[0].node
    for item, unit in zip(quantities[1:], units[1:], strict=True):
        node = ("+", node, ("*", item.node, ("num", unit.size / units[0].size)))
    return Scalar(node, units[0], compound=True)


def read_base(tokens: list[Token]) -> Series | None:
    """Returns a number in another base than ten: its digits and its base."""
    texts = [token.text for token in tokens]
    if len(texts) > 4 and (texts[0], texts[2]) == ("(", ")"):
        tokens, texts = [tokens[1], *tokens[3:]], [texts[1], *texts[3:]]
    if len(texts) < 3 or texts[1] != "_" or tokens[0].kind != "num" or not texts[0].isdecimal():
        return None
    base = texts[3:-1] if texts[2] == "{" and texts[-1] == "}" else texts[2:]
    names = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
             "twelve": "12", "sixteen": "16"}  # fmt: skip
    if len(base) != 1 or not (base[0].isdecimal() or base[0] in names):
        raise NotUnderstoodError("a base")
    return Series("base", (Words((texts[0].lstrip("0"),)), Words((names.get(base[0], base[0]),))), "")
