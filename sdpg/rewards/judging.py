r"""Judges an answer against a gold answer: first what kind the gold is, then a comparison within that kind.

A worker process imports this module, so it must import neither torch nor transformers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
import re

from sdpg.rewards.expressions import Node, NotUnderstoodError, Token, symbols, tokenise
from sdpg.rewards.packaging import unpack
from sdpg.rewards.readings import (
    Collection,
    Literal,
    Matrix,
    Named,
    Reader,
    Relation,
    Scalar,
    Series,
    Value,
    Words,
    normal_words,
)
from sdpg.rewards.values import TooHardError, UndefinedError, at_point, equal, exact, points

SIGNIFICANT = 3
"""A gold decimal with at least so many significant digits may be rounded: an answer that rounds to it is right."""
GOLDS = 4_096
"""Gold answers that are kept as they were read: the same problem comes again with every sibling and every step."""
_STRUCTURE = frozenset({"frac", "sqrt", "text", "{", "}", "(", ")", "+", "-", "*", "/", "^", "=", "_", ","})


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
class Judgement:
    """Whether an answer is right, and why."""

    correct: bool
    reason: str
    """The gold answer's kind and the rule that decided: ``quantity: another unit``."""


@dataclass(frozen=True)
class Gold:
    """A gold answer as it was read once."""

    tokens: tuple[Token, ...]
    value: Value | None
    kind: Kind
    variables: frozenset[str]
    words: frozenset[str]


class WrongError(Exception):
    """The answer is wrong; the message says by which rule."""


@lru_cache(GOLDS)
def read_gold(text: str) -> Gold:
    """Returns a gold answer with its kind; one that cannot be read is of the kind ``other``."""
    unpacked = _thousands_joined(unpack(text))
    try:
        tokens = tuple(tokenise(unpacked))
    except NotUnderstoodError:
        return Gold((), None, Kind.OTHER, frozenset(), frozenset())
    words = frozenset(token.text.lower() for token in tokens if token.kind in ("word", "run") and len(token.text) > 1)
    try:
        value = Reader().read(tokens)
    except (NotUnderstoodError, RecursionError):
        return Gold(tokens, None, Kind.OTHER, frozenset(), words)
    return Gold(tokens, value, _kind(value, tokens), _variables(value), words)


def judge(gold: str, answer: str, hard: bool = False) -> Judgement:
    """Returns the verdict on an answer.

    Args:
        gold: the gold answer.
        answer: what the response's box holds, neither empty nor deeply nested.
        hard: whether unbounded arithmetic is allowed, as in a worker that can be killed.

    Raises:
        TooHardError: without ``hard``, if bounded exact arithmetic does not tell.
    """
    wanted = read_gold(gold)
    try:
        tokens = tokenise(_thousands_joined(unpack(answer)))
        if [(token.text, token.kind) for token in tokens] == [(token.text, token.kind) for token in wanted.tokens]:
            return Judgement(True, f"{wanted.kind}: the same text")
        if wanted.value is None:
            return _judge_other(gold, wanted, answer, tokens, hard)
        if isinstance(wanted.value, Words):
            _compare_words(wanted.value, _spoken(tokens, wanted), wanted)
        else:
            value = Reader(wanted.variables, wanted.words, _has_words(wanted.value)).read(tokens)
            compare(wanted.value, value, hard)
    except NotUnderstoodError as error:
        return Judgement(False, f"{wanted.kind}: not understood: {error}")
    except RecursionError:
        return Judgement(False, f"{wanted.kind}: not understood: deep nesting")
    except WrongError as error:
        return Judgement(False, f"{wanted.kind}: {error}")
    except UndefinedError as error:
        return Judgement(False, f"{wanted.kind}: no value: {error}")
    return Judgement(True, f"{wanted.kind}: equal")


def judge_hard(gold: str, answer: str) -> Judgement:
    """Returns the verdict on an answer that needs a worker."""
    return judge(gold, answer, hard=True)


def _judge_other(gold: str, wanted: Gold, answer: str, tokens: Sequence[Token], hard: bool) -> Judgement:
    """Judges by math-verify, which drops what it does not know: an answer may hold only what the gold does."""
    known = {token.text.lstrip("\\") for token in wanted.tokens} | _STRUCTURE
    for token in tokens:
        if token.kind != "num" and token.text.lstrip("\\") not in known:
            return Judgement(False, f"{wanted.kind}: not understood: {token.text!r}")
    if any(token.kind == "word" for token in (*wanted.tokens, *tokens)):
        return Judgement(False, f"{wanted.kind}: another text")
    if not hard:
        raise TooHardError
    from sdpg.rewards.math_verify_pool import math_verify_equal

    same = math_verify_equal(gold, answer)
    return Judgement(same, f"{wanted.kind}: {'equal' if same else 'unequal'} for math-verify")


_GROUPED = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])")


def _thousands_joined(text: str) -> str:
    """Returns a text whose numbers outside all brackets have no marks of thousands."""
    found, depth, at = [], 0, 0
    for match in re.finditer(rf"[(\[]|\\\{{|[)\]]|\\\}}|{_GROUPED.pattern}", text):
        if match[0] in ("(", "[", r"\{"):
            depth += 1
        elif match[0] in (")", "]", r"\}"):
            depth -= 1
        elif depth == 0:
            found += [text[at : match.start()], match[0].replace(",", "")]
            at = match.end()
    return "".join([*found, text[at:]])


def _spoken(tokens: list[Token], gold: Gold) -> Sequence[Token]:
    """Returns an answer's words without a name or a label before them."""
    reader = Reader(frozenset(), gold.words)
    for at in range(len(tokens) - 1, 0, -1):
        if tokens[at].text in ("=", ":", "is") and at < len(tokens) - 1:
            reader.name(tokens[:at])
            return tokens[at + 1 :]
    return tokens


def _compare_words(gold: Words, tokens: Sequence[Token], wanted: Gold) -> None:
    said = normal_words(tokens)
    folded = [tuple(word.lower() for word in words) for words in (gold.words, said)]
    letters = len(gold.words) == 1 and gold.words[0].isupper()
    # Letters stand for themselves: ix is not IX. The letter of a choice in brackets may be small.
    bracketed = wanted.tokens[0].text == "("
    if said != gold.words and not (folded[0] == folded[1] and (not letters or bracketed)):
        raise WrongError("another text")


def _kind(value: Value, tokens: Sequence[Token]) -> Kind:
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
            return Kind.ASSIGNMENT if isinstance(values[0], Scalar) else _kind(values[0], tokens)
    return Kind.OTHER


def _has_words(value: Value) -> bool:
    return isinstance(value, Words) or (
        isinstance(value, (Series, Collection)) and any(map(_has_words, value.items))
    )  # fmt: skip


def _is_rational(node: Node) -> bool:
    try:
        return exact(node) is not None
    except (TooHardError, UndefinedError):
        return False


def _variables(value: Value) -> frozenset[str]:
    match value:
        case Scalar(node=node):
            return symbols(node)
        case Relation(difference=node):
            return symbols(node)
        case Series(items=parts) | Collection(items=parts) | Named(values=parts):
            return frozenset().union(*map(_variables, parts))
        case Matrix(rows=rows):
            return frozenset().union(*(_variables(cell) for row in rows for cell in row))
    return frozenset()


def compare(gold: Value, answer: Value, hard: bool) -> None:
    """Returns where an answer equals a gold answer.

    Raises:
        WrongError: if it does not; the message says why.
        TooHardError: without ``hard``, if bounded exact arithmetic does not tell.
    """
    match gold, answer:
        case Named(), Named() if _apart(gold.names, answer.names):
            raise WrongError("another name")
        case Named(relation=Relation()), Named(relation=Relation()) if _variables(gold):
            _compare_either(gold, answer, hard)
        case Named(relation=Relation() as wanted), Relation():
            _compare_relations(wanted, answer, hard)
        case Named(values=[wanted]), _:
            compare(wanted, answer, hard)
        case Relation(), Named(relation=Relation() as relation):
            _compare_relations(gold, relation, hard)
        case Relation(), Relation():
            _compare_relations(gold, answer, hard)
        case _, Named(values=values):
            _compare_chain(gold, values, hard)
        case Scalar(), Scalar():
            _compare_scalars(gold, answer, hard)
        case Series(), Series():
            if (gold.opening, gold.closing) != (answer.opening, answer.closing):
                raise WrongError("other brackets")
            _compare_in_order(gold.items, answer.items, hard)
        case Series(opening="(", closing=")"), Collection(items=items) if _in_order_of_names(items):
            _compare_in_order(gold.items, items, hard)
        case Matrix(), Matrix():
            if gold.determinant != answer.determinant or list(map(len, gold.rows)) != list(map(len, answer.rows)):
                raise WrongError("another shape")
            for wanted, given in zip(gold.rows, answer.rows, strict=True):
                _compare_in_order(wanted, given, hard)
        case Collection(), _:
            _compare_collections(gold, answer, hard)
        case ((Words() | Literal()), _):
            if gold != answer:
                raise WrongError("another text")
        case _:
            raise WrongError("another kind")


def _in_order_of_names(items: Sequence[Value]) -> bool:
    """Returns whether all are variables with a value, in the order of the alphabet: x = 3, y = 4."""
    names = [item.names[0] for item in items if isinstance(item, Named) and len(item.names) == 1]
    return len(names) == len(items) and names == sorted(set(names)) and all(len(name) == 1 for name in names)


def _apart(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Returns whether both name a single variable, and not the same one."""
    return len(one) == len(other) == 1 and all(len(names[0]) == 1 for names in (one, other)) and one != other


def _compare_either(gold: Named, answer: Named, hard: bool) -> None:
    try:
        _compare_chain(gold.values[0], answer.values, hard)
    except WrongError:
        if not (gold.relation and answer.relation):
            raise
        _compare_relations(gold.relation, answer.relation, hard)


def _compare_chain(gold: Value, values: Sequence[Value], hard: bool) -> None:
    """Compares each side of a chain of equations; one that is called an approximation only has to be near."""
    stated = [value for value in values if not (isinstance(value, Scalar) and value.rounded)]
    for value in stated:
        compare(gold, value, hard)
    for value in values:
        if isinstance(value, Scalar) and value.rounded:
            _compare_approximation(gold, value, bool(stated), hard)


def _compare_approximation(gold: Value, answer: Scalar, beside: bool, hard: bool) -> None:
    if not isinstance(gold, Scalar):
        raise WrongError("an approximation of an answer that is exact")
    if gold.place is not None or not beside:
        if gold.place is None:
            raise WrongError("an approximation of an answer that is exact")
        _compare_scalars(gold, replace(answer, rounded=False), hard)
        return
    if not hard:
        raise TooHardError
    one, other = at_point(gold.node, answer.node, {}, 50)
    if abs(one - other) > abs(one) / 20:
        raise WrongError("an approximation that is far off")


def _compare_in_order(gold: Sequence[Value], answer: Sequence[Value], hard: bool) -> None:
    if len(gold) != len(answer):
        raise WrongError("another number of parts")
    for wanted, given in zip(gold, answer, strict=True):
        compare(wanted, given, hard)


def _compare_scalars(gold: Scalar, answer: Scalar, hard: bool) -> None:
    if answer.rounded and gold.place is None:
        raise WrongError("an approximation of an answer that is exact")
    if not symbols(answer.node) <= symbols(gold.node):
        raise WrongError("a variable that the gold answer has not")
    required = gold.compound or (gold.unit and gold.unit.name in ("percent", "am", "pm"))
    if required and not answer.unit:
        raise WrongError("no unit")
    if answer.unit and answer.unit.name == "percent" and not gold.unit:
        raise WrongError("a percentage against a number that is none")
    if answer.compound and not gold.unit:
        raise WrongError("several numbers with words between them")
    wanted, given = gold.node, answer.node
    if gold.unit and answer.unit:
        if not gold.unit.fits(answer.unit):
            raise WrongError("another unit")
        if not (gold.unit.any or answer.unit.any) and gold.unit.size != answer.unit.size:
            given = ("*", given, ("num", answer.unit.size / gold.unit.size))
    if ("infty" in (_infinite(wanted), _infinite(given))) or "-infty" in (_infinite(wanted), _infinite(given)):
        if _infinite(wanted) != _infinite(given):
            raise WrongError("another value")
        return
    if not (equal(wanted, given, hard) or _rounds_to(gold, given, hard)):
        raise WrongError("another value")


def _infinite(node: Node) -> str:
    return {("const", "infty"): "infty", ("neg", ("const", "infty")): "-infty"}.get(node, "")


def _rounds_to(gold: Scalar, given: Node, hard: bool) -> bool:
    """Returns whether an answer rounds to a gold decimal as that is written."""
    if gold.place is None or gold.digits < SIGNIFICANT:
        return False
    value = exact(given)
    wanted = exact(gold.node)
    if value is not None and wanted is not None:
        return abs(value - wanted) <= gold.place / 2
    if not hard:
        raise TooHardError
    one, other = at_point(gold.node, given, {}, 50)
    return not getattr(other, "imag", 0) and abs(one - other) * gold.place.denominator * 2 <= gold.place.numerator


def _compare_collections(gold: Collection, answer: Value, hard: bool) -> None:
    names = [item for item in gold.items if isinstance(item, Named)]
    if len(names) == len(gold.items) and len({name for item in names for name in item.names}) == len(names) > 1:
        _compare_assignments(names, answer, hard)
        return
    if not isinstance(answer, Collection) or (gold.kind == "union") != (answer.kind == "union"):
        raise WrongError("another kind")
    if len(gold.items) != len(answer.items):
        raise WrongError("another number of parts")
    named = [item for item in answer.items if isinstance(item, Named)]
    several = {_family(name) for item in named for name in item.names[:1]}
    if any(isinstance(item, (Words, Literal)) for item in gold.items) or len(several) > 1:
        _compare_in_order(gold.items, answer.items, hard)
        return
    left = list(answer.items)
    # A name before the first item of a list names them all.
    for wanted in gold.items:
        match = next(_equal_ones(wanted, left, hard), None)
        if match is None:
            raise WrongError("another part")
        left.pop(match)


def _family(name: str) -> str:
    return name.split("_")[0]


def _equal_ones(wanted: Value, answers: Sequence[Value], hard: bool) -> Iterator[int]:
    for at, answer in enumerate(answers):
        try:
            compare(wanted, answer, hard)
        except WrongError:
            continue
        yield at


def _compare_assignments(gold: Sequence[Named], answer: Value, hard: bool) -> None:
    """Compares values of several variables: by name, or in order where an answer names none."""
    if isinstance(answer, Series) and answer.opening == "(":
        _compare_in_order([item.values[0] for item in gold], answer.items, hard)
        return
    if not isinstance(answer, Collection) or len(answer.items) != len(gold):
        raise WrongError("another number of parts")
    if not all(isinstance(item, Named) for item in answer.items):
        _compare_in_order([item.values[0] for item in gold], answer.items, hard)
        return
    named = {item.names: item for item in answer.items if isinstance(item, Named)}
    for item in gold:
        if item.names not in named:
            raise WrongError("another name")
        compare(item, named[item.names], hard)


def _compare_relations(gold: Relation, answer: Relation, hard: bool) -> None:
    """Compares equations up to a factor, and inequalities up to a positive one."""
    if gold.operation != answer.operation:
        raise WrongError("another relation")
    names = sorted(symbols(gold.difference))
    if names != sorted(symbols(answer.difference)):
        raise WrongError("other variables")
    if not hard:
        raise TooHardError
    ratios = []
    for point in points(names):
        one, other = at_point(gold.difference, answer.difference, point, 60)
        if other == 0 or one == 0:
            raise WrongError("another relation")
        ratios.append(one / other)
    first = ratios[0]
    near = all(abs(ratio / first - 1) < 1e-40 for ratio in ratios)
    if not near or (gold.operation != "=" and (getattr(first, "imag", 0) or first < 0)):
        raise WrongError("another relation")
