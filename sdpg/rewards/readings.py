r"""Reads an answer into what it is: a number with a unit, a tuple, a set, an equation … Every token has its place.

A gold answer is read first; an answer is then read in its light: the gold's variables are variables there too, and its
words are known words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
import re

from sdpg.rewards.expressions import ONE_ARGUMENT, Expression, Node, NotUnderstoodError, Token, split, symbols
from sdpg.rewards.units import CURRENCIES, MULTIPLES, SINGLE, Unit, is_unit, read_unit
from sdpg.rewards.vocabulary import CHANGES, COUNTED, DENIALS, NAMES, OPERATORS, SAID, WORDS

INFINITY: Node = ("const", "infty")
_AND = ("and", "or")
_EQUALS = ("=", r"\equiv", "is", "equals", "are")
_APPROXIMATES = (r"\approx", r"\sim", r"\cong", r"\simeq")
_ORDERS = {"<": ("<", False), r"\le": ("<", True), ">": (">", False), r"\ge": (">", True)}
_FUNCTIONS = ONE_ARGUMENT | {"pi", "sqrt"}
_PRODUCTS = ("abcd", "ijk", "klmn", "mnk", "pqrst", "rst", "uvw", "xyzw")
_MARKS = frozenset("(){}[],\"'`")
_DERIVED = re.compile(r"^(?:the |an? )?((?:square|cube)(?: root)?|quarter|multiple|factor|divisor)s? of\b")


@dataclass(frozen=True)
class Scalar:
    """A number or an expression, and its unit."""

    node: Node
    unit: Unit | None = None
    place: Fraction | None = None
    """The value of the last digit as written, of a decimal; None for anything else."""
    digits: int = 0
    """The significant digits of a decimal."""
    compound: bool = False
    """Whether it was written in several units."""
    rounded: bool = False
    """Whether the answer calls it an approximation."""


@dataclass(frozen=True)
class Words:
    """Words, a letter or several, as they are compared."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """Values in order: a tuple, an interval, a vector, a ratio, the digits of a number in another base."""

    opening: str
    items: "tuple[Value, ...]"
    closing: str


@dataclass(frozen=True)
class Collection:
    """Values whose order says nothing: a set, several solutions, a union of intervals."""

    items: "tuple[Value, ...]"
    kind: str = "list"


@dataclass(frozen=True)
class Matrix:
    """The rows of a matrix."""

    rows: "tuple[tuple[Value, ...], ...]"
    determinant: bool


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality between expressions: what its left side has more than its right."""

    operation: str
    difference: Node


@dataclass(frozen=True)
class Literal:
    """What is compared as it stands: dots, a set of numbers with a letter of its own."""

    text: str


@dataclass(frozen=True)
class Named:
    """Values that must all be the same, under names before an equals sign or behind."""

    names: tuple[str, ...]
    values: "tuple[Value, ...]"
    relation: Relation | None = None


Value = Scalar | Words | Series | Collection | Matrix | Relation | Literal | Named


class Reader:
    """Reads tokens.

    Args:
        variables: the gold answer's variables; None for reading a gold answer itself.
        words: words that the gold answer holds, in lower case.
        letters: whether letters may be words, as in a gold answer.
    """

    def __init__(
        self, variables: frozenset[str] | None = None, words: frozenset[str] = frozenset(), letters: bool = True
    ):
        self.variables, self.words, self.letters = variables, words, letters
        self.gold = variables is None

    def read(self, tokens: Sequence[Token]) -> Value:
        """Returns what a whole answer is.

        Raises:
            NotUnderstoodError: if a part of it has no meaning here.
        """
        *before, last = split(tokens, r"\implies", r"\therefore")[0]
        for part in before:
            self.name(part)
        return self._list(self._without_label(last))

    def _without_label(self, tokens: list[Token]) -> list[Token]:
        """Returns tokens without words and a colon before them."""
        for at, token in enumerate(tokens):
            if token.text == ":" and at:
                self.name(tokens[:at])
                return tokens[at + 1 :]
            if token.kind != "word" and not (token.kind == "run" and token.text.lower() in NAMES | WORDS | {"answer"}):
                break
        if len(tokens) > 2 and tokens[0].text.lower() in SAID and tokens[1].text == ",":
            return tokens[2:]
        return tokens

    def _list(self, tokens: Sequence[Token]) -> Value:
        parts, separators = split(tokens, ",", ";", *_AND)
        # A comma before "and" separates nothing of its own.
        parts = [part for at, part in enumerate(parts) if part or not (
            0 < at < len(parts) - 1 and (separators[at] in _AND or separators[at - 1] in _AND)
        )]  # fmt: skip
        if len(parts) > 1 and not self.gold and _AND[0] in separators and self._names_only(parts[:-1], parts[-1]):
            return self._item([token for part in parts for token in part])
        items: list[Value] = []
        for part in parts:
            for variant in _variants(part):
                items.append(self._item(variant))
        if len(items) == 1:
            return items[0]
        return _sum_of_units(items) or _solutions(items) or Collection(tuple(items))

    def _names_only(self, parts: list[list[Token]], last: list[Token]) -> bool:
        """Returns whether parts are variables and the last one says what they are: x and y = 204."""
        lone = all(len(part) == 1 and part[0].kind == "run" and len(part[0].text) == 1 for part in parts)
        return lone and any(token.text == "=" for token in last)

    def _item(self, tokens: list[Token]) -> Value:
        if not tokens:
            raise NotUnderstoodError("nothing between two commas")
        sides, relations = split(tokens, *_EQUALS, *_APPROXIMATES, *_ORDERS, r"\in", r"\ne", r"\not")
        if not relations:
            return self._value(tokens)
        if any(relation in _ORDERS for relation in relations):
            return self._inequality(sides, relations)
        if relations == [r"\in"]:
            return self._membership(*sides)
        if r"\ne" in relations or r"\not" in relations or r"\in" in relations:
            raise NotUnderstoodError("a relation that is no equation")
        return self._equation(sides, relations)

    def _equation(self, sides: list[list[Token]], relations: list[str]) -> Value:
        names: list[str] = []
        values: list[Value] = []
        congruent = r"\equiv" in relations
        first = 0 if sides[0] else 1
        if not sides[0] and relations[0] not in _APPROXIMATES:
            raise NotUnderstoodError("an equation without a left side")
        for at in range(first, len(sides)):
            side = sides[at]
            if not side or (side[-1].text == "!" and len(side) > 1 and side[-2].kind == "run"):
                raise NotUnderstoodError("a relation that is no equation")
            if congruent:
                side = _without_modulus(side)
            side = side[:-1] if side[-1].text == ":" else side
            rounded = at > 0 and relations[at - 1] in _APPROXIMATES
            if rounded and len(side) > 1 and side[-1].text == r"\ldots":
                side = side[:-1]
            value = self._side(side)
            if value is None:
                self.name(side)
                names.append(_text(side))
                continue
            if not sides[0] and at == 1 and not isinstance(value, Scalar):
                raise NotUnderstoodError("an approximation of what is no number")
            values.append(replace(value, rounded=True) if rounded and isinstance(value, Scalar) else value)
        relation = None
        if len(sides) == 2 and relations == ["="]:
            relation = self._relation(sides[0], sides[1])
        if self.gold and len(values) != 1 and relation:
            return relation
        if not values:
            if relation:
                return relation
            raise NotUnderstoodError("an equation without a value")
        if not names and len(values) == 1:
            return values[0]
        return Named(tuple(names), tuple(values[-1:] if self.gold else values), relation)

    def _side(self, side: list[Token]) -> Value | None:
        """Returns the value of a side of an equation, or None if it is a name."""
        try:
            value = self._list(side) if len(side) > 1 else self._value(side)
        except NotUnderstoodError:
            texts = {token.text for token in side}
            plain = not texts & set("+-*/(") and any(token.kind == "num" for token in side)
            if self.gold or plain:
                raise
            return None
        if isinstance(value, Words) and (self.gold or value.words):
            return None
        if isinstance(value, Scalar):
            found = symbols(value.node)
            if self.gold:
                return None if _is_name(value.node) else value
            if found and not found <= (self.variables or frozenset()):
                return None
        elif isinstance(value, Series) and all(isinstance(one, Scalar) and symbols(one.node) for one in value.items):
            names = all(isinstance(one, Scalar) and one.node[0] == "sym" for one in value.items)
            return None if names else value
        return value

    def _relation(self, left: list[Token], right: list[Token], operation: str = "=") -> Relation | None:
        try:
            nodes = Expression(left).whole(), Expression(right).whole()
        except NotUnderstoodError:
            return None
        difference = ("-", *nodes)
        return Relation(operation, difference) if symbols(difference) else None

    def _inequality(self, sides: list[list[Token]], relations: list[str]) -> Value:
        if not all(relation in _ORDERS for relation in relations) or not all(sides):
            raise NotUnderstoodError("relations of several kinds")
        directions = {_ORDERS[relation][0] for relation in relations}
        if len(directions) > 1 or len(sides) > 3:
            raise NotUnderstoodError("relations of several directions")
        closed = [_ORDERS[relation][1] for relation in relations]
        if ">" in directions:
            sides, closed = sides[::-1], closed[::-1]
        lone = [at for at, side in enumerate(sides) if len(side) <= 4 and _is_name(self._node(side))]
        bounds = [self._item(side) if at not in lone else None for at, side in enumerate(sides)]
        constant = all(bound is None or (isinstance(bound, Scalar) and not symbols(bound.node)) for bound in bounds)
        if len(lone) != 1 or not constant or (len(sides) == 3 and lone != [1]):
            relation = None if len(sides) > 2 else self._relation(sides[0], sides[1], "<=" if closed[0] else "<")
            if relation is None:
                raise NotUnderstoodError("an inequality")
            return relation
        at = lone[0]
        low = bounds[at - 1] if at else Scalar(("neg", INFINITY))
        high = bounds[at + 1] if at + 1 < len(sides) else Scalar(INFINITY)
        left = "[" if at and closed[at - 1] else "("
        right = "]" if at + 1 < len(sides) and closed[at] else ")"
        assert low is not None and high is not None
        return Named((_text(sides[at]),), (Series(left, (low, high), right),))

    def _node(self, side: list[Token]) -> Node:
        try:
            return Expression(side).whole()
        except NotUnderstoodError:
            return ("none",)

    def _membership(self, name: list[Token], where: list[Token]) -> Value:
        self.name(name)
        value = self._value(where)
        if isinstance(value, Literal):
            return Literal(f"{_text(name)} in {value.text}")
        if not isinstance(value, (Series, Collection)):
            raise NotUnderstoodError("an element of what is no set")
        return Named((_text(name),), (value,))

    def _value(self, tokens: list[Token]) -> Value:
        if not tokens:
            raise NotUnderstoodError("nothing")
        parts = split(tokens, r"\cup")[0]
        if len(parts) > 1:
            values = [self._value(part) for part in parts]
            if not all(isinstance(value, (Series, Collection)) for value in values):
                raise NotUnderstoodError("a union of what are no sets")
            return Collection(tuple(values), "union")
        first = tokens[0].text
        if len(tokens) == 1 and first in (r"\emptyset", r"\R", r"\Z", r"\N", r"\Q", r"\C", r"\ldots"):
            return self._constant(first)
        if first == r"\{" or (first in ("(", "[", r"\langle") and _closes_at_end(tokens)):
            return self._bracketed(tokens)
        if first.startswith(r"\begin{"):
            return self._matrix(tokens)
        ratio = split(tokens, ":", "to")[0]
        if len(ratio) > 1:
            return Series("ratio", tuple(self._scalar(part) for part in ratio), "")
        if based := _base(tokens):
            return based
        if words := self._words(tokens):
            return words
        return self._led(tokens)

    def _constant(self, name: str) -> Value:
        if name == r"\R":
            return Series("(", (Scalar(("neg", INFINITY)), Scalar(INFINITY)), ")")
        return Collection((), "set") if name == r"\emptyset" else Literal(name)

    def _bracketed(self, tokens: list[Token]) -> Value:
        opening, closing, inner = tokens[0].text, tokens[-1].text, tokens[1:-1]
        if opening == r"\{":
            if closing != r"\}":
                raise NotUnderstoodError("a set that does not close")
            for bar in ("|", ":"):
                before, found = split(inner, bar)
                if len(found) == 1:
                    self.name(before[0])
                    return self._list(before[1])
            if not inner:
                return Collection((), "set")
            value = self._list(inner)
            items = value.items if isinstance(value, Collection) and value.kind == "list" else (value,)
            return Collection(items, "set")
        parts = split(inner, ",", ";")[0]
        if len(parts) == 1 and opening == "[" and closing == "]" and inner and inner[0].text.startswith(r"\begin"):
            return self._value(inner)
        if len(parts) == 1 and opening == "(" and closing == ")":
            return self.read(inner)
        variants = [self._item(part) for part in parts]
        return Series("(" if opening == r"\langle" else opening, tuple(variants),
                      ")" if closing == r"\rangle" else closing)  # fmt: skip

    def _matrix(self, tokens: list[Token]) -> Value:
        kind = tokens[0].text[len(r"\begin{") : -1]
        if kind == "cases" and tokens[-1].text == r"\end{cases}":
            return Collection(tuple(self._item(row) for row in split(tokens[1:-1], "\\\\")[0]))
        if tokens[-1].text != rf"\end{{{kind}}}" or not (kind.endswith("matrix") or kind == "array"):
            raise NotUnderstoodError(f"the environment {kind!r}")
        inner = tokens[1:-1]
        if kind == "array":
            end = next((at for at, token in enumerate(inner) if token.text == "}"), -1)
            if not inner or inner[0].text != "{" or not all(set(token.text) <= set("lcr|") for token in inner[1:end]):
                raise NotUnderstoodError("the columns of an array")
            inner = inner[end + 1 :]
        rows = split(inner, "\\\\")[0]
        if rows and not rows[-1]:
            rows.pop()
        return Matrix(tuple(tuple(self._item(cell) for cell in split(row, "&")[0]) for row in rows),
                      kind.lower() == "vmatrix")  # fmt: skip

    def _words(self, tokens: Sequence[Token]) -> Words | None:
        """Returns tokens as words, if they are words alone, or letters that are no product of variables."""
        texts = [token for token in tokens if token.text not in ("(", ")", "'", "-", ",", "{", "}")]
        if not texts or any(token.kind not in ("word", "run") for token in texts):
            return None
        if all(token.text in _FUNCTIONS for token in texts):
            return None
        if not any(token.kind == "word" for token in texts):
            # Without a gold answer that is words, letters are what the expression's grammar makes of them.
            run = texts[0].text
            if not self.letters or (len(texts) == 1 and not (run.isupper() if len(run) == 1 else is_word(run))):
                return None
        return Words(normal_words(tokens))

    def _led(self, tokens: list[Token]) -> Value:
        """Reads a scalar with words before it that say nothing."""
        at = 0
        while at < len(tokens) and tokens[at].kind == "word" and tokens[at].text.lower() in SAID | {"answer"}:
            at += 1
        return self._value(tokens[at:]) if 0 < at < len(tokens) else self._scalar(tokens)

    def _scalar(self, tokens: list[Token], smaller: Unit | None = None) -> Scalar:
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
        return frozenset(words - DENIALS)

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
        other = self._scalar(rest)
        joined = _sum_of_units([scalar, other])
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

    def name(self, tokens: Sequence[Token]) -> None:
        """Checks what stands before an equals sign: variables, calculations, and words that name a quantity.

        Raises:
            NotUnderstoodError: if it takes something back, or says another number of what it names.
        """
        text = " ".join(token.text for token in tokens if token.kind == "word").lower()
        if derived := _DERIVED.match(text):
            raise NotUnderstoodError(f"the name {derived[1]!r} of something")
        for at, token in enumerate(tokens):
            if token.kind in ("word", "run"):
                known = self._may_name(token, tokens, at)
            elif token.kind == "cmd":
                known = token.text[1:] in OPERATORS or token.text.startswith((r"\begin{", r"\end{")) \
                    or not token.text[1:2].isalpha()  # fmt: skip
            else:
                known = token.kind != "sym" or token.text in "+-*/=<>()[]{}^_.,:;|!'$%&"
            if not known:
                kind = {"cmd": "command", "sym": "sign"}.get(token.kind, "word")
                raise NotUnderstoodError(f"the {kind} {token.text!r}")

    def _may_name(self, token: Token, tokens: Sequence[Token], at: int) -> bool:
        word, small = token.text, token.text.lower()
        if small in self.words:
            return True
        bare = token.kind == "run"
        # Capitals side by side are points or variables; a text in capitals is a text.
        if small in DENIALS and not (bare and (word.isupper() or len(word) < 3)):
            return False
        if small in WORDS or small in NAMES or len(word) == 1 or (bare and word.isupper()):
            return True
        if small in MULTIPLES and any(other.kind == "num" for other in tokens):
            return True
        alone = sum(other.block == token.block for other in tokens) == 1
        proper = not bare and word[0].isupper() and word[1:].islower() and (
            alone or (at + 1 < len(tokens) and tokens[at + 1].text == "'")
        )  # fmt: skip
        # Short runs of letters are products of variables.
        return (proper or (bare and len(word) <= 3)) and small not in CHANGES


def is_word(run: str) -> bool:
    """Returns whether letters side by side are a word or a row of letters, and no product of variables."""
    if run in _FUNCTIONS:
        return False
    ordered = run.islower() and list(run) == sorted(run)
    return not (ordered and any(set(run) <= set(family) for family in _PRODUCTS))


def normal_words(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Returns words for comparing: without brackets and articles; in lower case unless all are capitals."""
    words = [token.text for token in tokens if token.text not in _MARKS]
    said = {"the", "an", "a", "there", "is", "are", "it", "answer", "option", "choice", "so", "final", "The", "An",
            "There", "It", "Option", "Choice", "Answer", "So"}  # fmt: skip
    kept = [COUNTED.get(word.lower(), word) for word in words if word not in said] or words
    return tuple(word if word.isupper() else word.lower() for word in kept)


def _text(tokens: Sequence[Token]) -> str:
    return " ".join(token.text for token in tokens)


def _is_name(node: Node) -> bool:
    """Returns whether an expression is a variable alone, or a function of one: x, f(x), f'(2)."""
    return node[0] == "sym" or (node[0] == "*" and node[1][0] == "sym" and node[2][0] in ("sym", "num", "neg"))


def _variants(tokens: list[Token]) -> list[list[Token]]:
    """Returns what plus-minus signs stand for: each with both signs, minus-plus with the opposite one."""
    plus = [at for at, token in enumerate(tokens) if token.text in (r"\pm", r"\mp")]
    if not plus:
        return [tokens]
    together = any(tokens[at].text == r"\mp" for at in plus)
    if len(plus) > 3:
        raise NotUnderstoodError("many plus-minus signs")
    found = []
    for choice in range(2 if together else 2 ** len(plus)):
        signs = {
            at: "+-"[(choice if together else choice >> place & 1) ^ (tokens[at].text == r"\mp")]
            for place, at in enumerate(plus)
        }
        found.append([Token("sym", signs[at]) if at in signs else token for at, token in enumerate(tokens)])
    return found


def _closes_at_end(tokens: Sequence[Token]) -> bool:
    """Returns whether the first token's bracket closes with the last token."""
    depth = 0
    for at, token in enumerate(tokens):
        if token.text in ("(", "[", "{", r"\{", r"\langle"):
            depth += 1
        elif token.text in (")", "]", "}", r"\}", r"\rangle"):
            depth -= 1
            if depth == 0:
                return at == len(tokens) - 1
    return False


def _without_modulus(side: list[Token]) -> list[Token]:
    r"""Returns a side of a congruence without \pmod{…} or (mod …) at its end."""
    for at, token in enumerate(side):
        if token.text in (r"\pmod", r"\mod", r"\bmod") or (token.text == "mod" and at):
            return side[: at - 1] if at and side[at - 1].text == "(" else side[:at]
    return side


def _base(tokens: list[Token]) -> Series | None:
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


def _sum_of_units(items: Sequence[Value]) -> Scalar | None:
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


def _solutions(items: list[Value]) -> Value | None:
    """Returns a union of the intervals that inequalities in one variable say."""
    if not all(isinstance(item, Named) and isinstance(item.values[0], Series) for item in items):
        return None
    names = {item.names for item in items if isinstance(item, Named)}
    values = tuple(item.values[0] for item in items if isinstance(item, Named))
    if len(names) != 1 or any(value.opening not in "([" for value in values if isinstance(value, Series)):
        return None
    return Named(names.pop(), (Collection(values, "union"),))
