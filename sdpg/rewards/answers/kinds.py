"""What an answer can be: a number with a unit, words, a tuple, a set, a matrix, an equation."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from sdpg.rewards.answers.arithmetic import TooHardError, UndefinedError, exact
from sdpg.rewards.answers.expressions import Node, symbols
from sdpg.rewards.answers.tokens import Token
from sdpg.rewards.answers.units import Unit


class Kind(StrEnum):
    """What a gold answer is."""

    INTEGER = "integer"
    RATIONAL = "rational"
    DECIMAL = "decimal"
    E_NOTATION = "e-notation"
    PERCENT = "percent"
    QUANTITY = "quantity"
    TUPLE = "tuple or interval"
    LIST = "list"
    SET = "set"
    UNION = "union"
    MATRIX = "matrix"
    RATIO = "ratio"
    BASE = "number in a base"
    EQUATION = "equation"
    ASSIGNMENT = "assignment"
    LETTER = "letter"
    WORDS = "words"
    EXPRESSION = "expression"
    OTHER = "other"
    """Nothing that the grammar knows: equal as it stands, or for math-verify."""


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


def kind_of(value: Value, tokens: Sequence[Token]) -> Kind:
    """Returns the kind of a gold answer."""
    match value:
        case Scalar(unit=unit) if unit is not None:
            return Kind.PERCENT if unit.name == "percent" else Kind.QUANTITY
        case Scalar(node=node, place=place):
            if any(token.kind == "num" and "e" in token.text.lower() for token in tokens):
                return Kind.E_NOTATION
            if place is not None:
                return Kind.DECIMAL
            literal = node[1] if node[0] == "neg" else node
            if literal[0] == "num" and literal[1].denominator == 1:
                return Kind.INTEGER
            return Kind.RATIONAL if not symbols(node) and _is_rational(node) else Kind.EXPRESSION
        case Words(words=words):
            return Kind.LETTER if len(words) == 1 and len(words[0]) == 1 else Kind.WORDS
        case Series(opening=opening):
            return {"ratio": Kind.RATIO, "base": Kind.BASE}.get(opening, Kind.TUPLE)
        case Collection(kind=kind):
            return {"set": Kind.SET, "union": Kind.UNION}.get(kind, Kind.LIST)
        case Matrix():
            return Kind.MATRIX
        case Relation():
            return Kind.EQUATION
        case Named(values=values):
            return Kind.ASSIGNMENT if isinstance(values[0], Scalar) else kind_of(values[0], tokens)
    return Kind.OTHER


def has_words(value: Value) -> bool:
    """Returns whether an answer is words or letters, or has such parts."""
    return isinstance(value, Words) or (
        isinstance(value, (Series, Collection)) and any(map(has_words, value.items))
    )  # fmt: skip


def _is_rational(node: Node) -> bool:
    try:
        return exact(node) is not None
    except (TooHardError, UndefinedError):
        return False


def variables(value: Value) -> frozenset[str]:
    """Returns the variables that stand in an answer, but for names before an equals sign."""
    match value:
        case Scalar(node=node):
            return symbols(node)
        case Relation(difference=node):
            return symbols(node)
        case Series(items=parts) | Collection(items=parts) | Named(values=parts):
            return frozenset().union(*map(variables, parts))
        case Matrix(rows=rows):
            return frozenset().union(*(variables(cell) for row in rows for cell in row))
    return frozenset()
