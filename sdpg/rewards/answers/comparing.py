"""Compares answers that were read: within the gold answer's kind, numbers exactly or to its written precision."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
import re

from sdpg.rewards.answers.arithmetic import TooHardError, at_point, equal, exact, points
from sdpg.rewards.answers.expressions import Node, symbols
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
    variables,
)

SIGNIFICANT = 3
"""A gold decimal with at least so many significant digits may be rounded: an answer that rounds to it is right."""


class WrongError(Exception):
    """The answer is wrong; the message says by which rule."""


def compare(gold: Value, answer: Value, hard: bool) -> None:
    """Returns where an answer equals a gold answer.

    Raises:
        WrongError: if it does not; the message says why.
        TooHardError: without ``hard``, if bounded exact arithmetic does not tell.
    """
    match gold, answer:
        case Named(), Named() if _apart(gold.names, answer.names):
            raise WrongError("another name")
        case Named(relation=Relation()), Named(relation=Relation()) if variables(gold):
            _compare_either(gold, answer, hard)
        case Named(relation=Relation() as wanted), Relation():
            _compare_relations(wanted, answer, hard)
        case Named(values=[wanted]), _:
            compare(wanted, answer, hard)
        case Relation(), Named(relation=Relation() as relation):
            _compare_relations(gold, relation, hard)
        case Relation(), Relation():
            _compare_relations(gold, answer, hard)
        case Scalar(node=("num", zero)), Named(names=names) if zero == 0 and any(_is_equation(name) for name in names):
            raise WrongError("an equation against a number")
        case _, Named(values=values):
            _compare_chain(gold, values, hard)
        case Scalar(), Scalar():
            _compare_scalars(gold, answer, hard)
        case Scalar(), Series(opening="ratio", items=(hour, Scalar(node=("num", minutes), unit=unit))) if (
            minutes == 0 and unit and unit.name in ("am", "pm")
        ):
            compare(gold, replace(hour, unit=unit) if isinstance(hour, Scalar) else hour, hard)
        case Scalar(), Series(opening="base", items=(Words(words=(digits,)), Words(words=(base,)))):
            _compare_scalars(gold, Scalar(("num", Fraction(_in_base(digits, int(base))))), hard)
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


def _is_equation(name: str) -> bool:
    """Returns whether a side that equals zero is a sum with numbers in it, and no name of a quantity: 3x - y + 13."""
    return bool(re.search(r"[0-9]", name) and re.search(r"[-+]", name))


def _in_base(digits: str, base: int) -> int:
    try:
        return int(digits or "0", base)
    except ValueError:
        raise WrongError("digits that the base has not") from None


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
    try:
        value, wanted = exact(given), exact(gold.node)
    except TooHardError:
        if not hard:
            raise
        value = wanted = None
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
    units = {item.unit for item in gold.items if isinstance(item, Scalar)}
    bare = any(isinstance(item, Scalar) and item.unit is None for item in answer.items)
    several = {_family(name) for item in named for name in item.names[:1]}
    if any(isinstance(item, (Words, Literal)) for item in gold.items) or len(several) > 1 or (len(units) > 1 and bare):
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
