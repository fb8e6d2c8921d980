r"""Reads an answer into what it is: a number with a unit, a tuple, a set, an equation … Every token has its place.

A gold answer is read first; an answer is then read in its light: the gold's variables are variables there too, and its
words are known words.
"""

from collections.abc import Sequence
from dataclasses import replace

from sdpg.rewards.answers.expressions import Expression, Node, symbols
from sdpg.rewards.answers.kinds import (
    Collection,
    Literal,
    Matrix,
    Named,
    Relation,
    Scalar,
    Series,
    Value,
    Words,
)
from sdpg.rewards.answers.names import FUNCTIONS, check_name, is_word, normal_words
from sdpg.rewards.answers.quantities import QuantityReader, read_base, sum_of_units
from sdpg.rewards.answers.tokens import NotUnderstoodError, Token, closes_at_end, split
from sdpg.rewards.answers.units import CURRENCIES
from sdpg.rewards.answers.vocabulary import NAMES, WORDS

INFINITY: Node = ("const", "infty")
_AND = ("and", "or")
_EQUALS = ("=", r"\equiv", "is", "equals", "are")
_APPROXIMATES = (r"\approx", r"\sim", r"\cong", r"\simeq")
_ORDERS = {"<": ("<", False), r"\le": ("<", True), ">": (">", False), r"\ge": (">", True)}
_LEADS = frozenset({"the", "an", "final", "result", "so", "thus", "hence", "therefore", "we", "get", "have", "is",
                    "are", "equals", "exactly", "answer", "total", "it"})  # fmt: skip


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
        self._quantities = QuantityReader(variables, words)

    def read(self, tokens: Sequence[Token]) -> Value:
        """Returns what a whole answer is.

        Raises:
            NotUnderstoodError: if a part of it has no meaning here.
        """
        *before, last = split(tokens, r"\implies", r"\therefore")[0]
        for part in before:
            self._name(part)
        return self._list(self._without_label(last))

    def _name(self, tokens: Sequence[Token]) -> None:
        check_name(tokens, self.words)

    def _without_label(self, tokens: list[Token]) -> list[Token]:
        """Returns tokens without words and a colon before them."""
        for at, token in enumerate(tokens):
            if token.text == ":" and at:
                self._name(tokens[:at])
                return tokens[at + 1 :]
            if token.kind != "word" and not (token.kind == "run" and token.text.lower() in NAMES | WORDS | {"answer"}):
                break
        if is_choice(tokens):
            return tokens[3:]
        if len(tokens) > 2 and _leads(tokens[0]) and tokens[1].text == ",":
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
        return sum_of_units(items) or _solutions(items) or Collection(tuple(items))

    def _names_only(self, parts: list[list[Token]], last: list[Token]) -> bool:
        """Returns whether parts are variables and the last one says what they are: x and y = 204."""
        lone = all(len(part) == 1 and part[0].kind == "run" and len(part[0].text) == 1 for part in parts)
        return lone and any(token.text == "=" for token in last)

    def _item(self, tokens: list[Token]) -> Value:
        if not tokens:
            raise NotUnderstoodError("nothing between two commas")
        sides, relations = split(tokens, *_EQUALS, *_APPROXIMATES, *_ORDERS, r"\in", r"\ne", r"\not")
        if not self.gold and "mod" not in self.words and len(shorter := _without_modulus(sides[-1])) < len(sides[-1]):
            if r"\equiv" in relations:
                self._name([token for side in sides[:-1] for token in side])
                return self._value(shorter)
            sides[-1] = shorter
            tokens = shorter
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
        first = 0 if sides[0] else 1
        if not sides[0] and relations[0] not in _APPROXIMATES:
            raise NotUnderstoodError("an equation without a left side")
        for at in range(first, len(sides)):
            side = sides[at]
            if not side:
                raise NotUnderstoodError("a relation that is no equation")
            side = side[:-1] if side[-1].text == ":" else side
            rounded = at > 0 and relations[at - 1] in _APPROXIMATES
            if rounded and len(side) > 1 and side[-1].text == r"\ldots":
                side = side[:-1]
            value = self._side(side)
            if value is None:
                self._name(side)
                names.append(_text(side))
                continue
            if not sides[0] and at == 1 and not isinstance(value, Scalar):
                raise NotUnderstoodError("an approximation of what is no number")
            values.append(replace(value, rounded=True) if rounded and isinstance(value, Scalar) else value)
        if any(isinstance(value, Scalar) and value.unit and value.unit.name == "degree" for value in values):
            # The angle in radians says the same.
            values = [value for value in values if not (isinstance(value, Scalar) and _is_inverse(value.node))]
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
            # What begins with a number and calculates nothing is no name.
            plain = all(
                (token.kind != "cmd" and token.text not in "+-*/(") or token.text == r"\ldots" for token in side
            )
            if self.gold or (plain and side[0].kind == "num"):
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
        self._name(name)
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
        if first == r"\{" or (first in ("(", "[", r"\langle") and closes_at_end(tokens)):
            return self._bracketed(tokens)
        if first.startswith(r"\begin{"):
            return self._matrix(tokens)
        ratio = split(tokens, ":", "to")[0]
        if len(ratio) > 1:
            return Series("ratio", tuple(self._quantities.read(part) for part in ratio), "")
        if based := read_base(tokens):
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
                    self._name(before[0])
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
        if all(token.text in FUNCTIONS for token in texts):
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
        while at < len(tokens) and _leads(tokens[at]):
            at += 1
        return self._value(tokens[at:]) if 0 < at < len(tokens) else self._quantities.read(tokens)


def is_choice(tokens: Sequence[Token]) -> bool:
    """Returns whether the letter of a choice stands in brackets before its value: (B) 12."""
    return (
        [token.text for token in tokens[:3:2]] == ["(", ")"]
        and tokens[1].text in ("A", "B", "C", "D", "E")
        and any(token.kind == "num" or token.text in (*CURRENCIES, r"\frac", r"\sqrt") for token in tokens[3:4])
    )


def _leads(token: Token) -> bool:
    return token.kind in ("word", "run") and len(token.text) > 1 and token.text.lower() in _LEADS


def _text(tokens: Sequence[Token]) -> str:
    return " ".join(token.text for token in tokens)


def _is_name(node: Node) -> bool:
    """Returns whether an expression is a variable alone, or a function of one: x, f(x), f'(2)."""
    return node[0] == "sym" or (node[0] == "*" and node[1][0] == "sym" and node[2][0] in ("sym", "num", "neg"))


def _is_inverse(node: Node) -> bool:
    return node[0] == "fun" and node[1].startswith("arc")


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


def _without_modulus(side: list[Token]) -> list[Token]:
    r"""Returns a side of a congruence without \pmod{…} or (mod …) at its end."""
    for at, token in enumerate(side):
        if at and (token.text == r"\pmod" or (token.text in ("mod", r"\mod", r"\bmod") and side[at - 1].text == "(")):
            closing = side[at - 1].text == "("
            rest = side[at + 1 :]
            if closing and not (rest and rest[-1].text == ")"):
                return side
            if len(rest) - closing == 1 or (
                rest and rest[0].text == "{" and closes_at_end(rest[: len(rest) - closing])
            ):
                return side[: at - closing]
    return side


def _solutions(items: list[Value]) -> Value | None:
    """Returns a union of the intervals that inequalities in one variable say."""
    if not all(isinstance(item, Named) and isinstance(item.values[0], Series) for item in items):
        return None
    names = {item.names for item in items if isinstance(item, Named)}
    values = tuple(item.values[0] for item in items if isinstance(item, Named))
    if len(names) != 1 or any(value.opening not in "([" for value in values if isinstance(value, Series)):
        return None
    return Named(names.pop(), (Collection(values, "union"),))
