"""Compares the values of expressions: rational ones exactly, others to a hundred digits and at several points."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import reduce
import math
import operator
import random
from typing import Any

from sdpg.rewards.answers.expressions import Node, symbols

EASY_BITS = 40_000
"""Bits of numerator and denominator beyond which exact arithmetic is left to a worker."""
HARD_BITS = 4_000_000
"""Bits beyond which a worker goes over to floating point."""
_DIGITS = (50, 120)
_AGREE = 100
"""Significant digits in which equal values agree at the higher precision."""
MAX_TERMS = 100_000
"""Terms of a sum or product beyond which it is not evaluated."""
_MAX_POWER = 10**30
"""Exponents beyond which floating point would take as many digits as the exponent has."""
POINTS = 6
"""Points at which expressions with variables are compared."""


class TooHardError(Exception):
    """The values need more than bounded exact arithmetic: a worker has to compare them."""


class UndefinedError(ValueError):
    """An expression has no value: a division by zero, a function outside its domain."""


def exact(node: Node, bits: int = EASY_BITS) -> Fraction | None:
    """Returns the value of an expression if arithmetic on rational numbers finds it, else None.

    Raises:
        TooHardError: if a number on the way has more than ``bits`` bits.
        UndefinedError: if it divides by zero.
    """
    match node:
        case ("num", value):
            return value
        case ("sym" | "const", _):
            return None
        case ("neg", inner):
            value = exact(inner, bits)
            return None if value is None else -value
        case ("pct", inner):
            value = exact(inner, bits)
            return None if value is None else value / 100
        case ("fun", name, arguments):
            found = [exact(one, bits) for one in arguments]
            values = [value for value in found if value is not None]
            return _exact_function(name, values, bits) if len(values) == len(found) else None
        case ("!", inner):
            value = exact(inner, bits)
            return None if value is None else _factorial(value, bits)
        case (("sum" | "prod") as name, index, low, high, body):
            return _exact_large(name, index, low, high, body, bits)
        case (operation, left, right):
            a, b = exact(left, bits), exact(right, bits)
            return None if a is None or b is None else _exact_binary(operation, a, b, bits)
    return None


def _size(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _exact_binary(operation: str, a: Fraction, b: Fraction, bits: int) -> Fraction | None:
    if _size(a) + _size(b) > 2 * bits:
        raise TooHardError
    match operation:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            if b == 0:
                raise UndefinedError("a division by zero")
            return a / b
        case "^":
            return _power(a, b, bits)
        case "root":
            if b.denominator != 1 or not 2 <= b <= 64 or a < 0:
                return None
            upper, lower = _root(a.numerator, int(b)), _root(a.denominator, int(b))
            return None if upper is None or lower is None else Fraction(upper, lower)
    return None


def _power(base: Fraction, exponent: Fraction, bits: int) -> Fraction | None:
    if exponent.denominator != 1:
        return _exact_binary("root", base**exponent.numerator, Fraction(exponent.denominator), bits) if (
            base > 0 and abs(exponent.numerator) * _size(base) < bits
        ) else None  # fmt: skip
    if base in (1, 0, -1):
        if base == 0 and exponent <= 0:
            raise UndefinedError("a power of zero")
        return base ** int(exponent % 2 if base == -1 else 1)
    if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > bits:
        raise TooHardError
    return base ** int(exponent)


def _root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    if value.bit_length() > 2_000:
        return None
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < value else (low, middle)
    return low if low**degree == value else None


def _factorial(value: Fraction, bits: int) -> Fraction | None:
    if value.denominator != 1 or value < 0:
        return None
    if value * int(value).bit_length() > bits:
        raise TooHardError
    return Fraction(math.factorial(int(value)))


def _exact_function(name: str, values: list[Fraction], bits: int) -> Fraction | None:
    match name, values:
        case "abs", [value]:
            return abs(value)
        case "floor", [value]:
            return Fraction(math.floor(value))
        case "ceil", [value]:
            return Fraction(math.ceil(value))
        case (("max" | "min"), _):
            return max(values) if name == "max" else min(values)
        case (("gcd" | "lcm" | "binom"), _) if any(value.denominator != 1 or value < 0 for value in values):
            return None
        case "gcd", _:
            return Fraction(math.gcd(*map(int, values)))
        case "lcm", _:
            return Fraction(math.lcm(*map(int, values)))
        case "binom", [upper, lower]:
            if min(lower, max(upper - lower, 0)) * int(upper).bit_length() > bits:
                raise TooHardError
            return Fraction(math.comb(int(upper), int(lower)))
    return None


def _exact_large(name: str, index: str, low: Node, high: Node, body: Node, bits: int) -> Fraction | None:
    total = Fraction(name == "prod")
    for value in _range(low, high, bits):
        term = exact(replaced(body, index, value), bits)
        if term is None:
            return None
        total = total + term if name == "sum" else total * term
        if _size(total) > bits:
            raise TooHardError
    return total


def _range(low: Node, high: Node, bits: int) -> Iterator[Fraction]:
    first, last = exact(low, bits), exact(high, bits)
    if first is None or last is None or first.denominator != 1 or last.denominator != 1:
        raise UndefinedError("a sum without an end")
    if last - first > MAX_TERMS:
        raise UndefinedError("a sum of too many terms to compare")
    if bits <= EASY_BITS and last - first > 1_000:
        raise TooHardError
    return map(Fraction, range(int(first), int(last) + 1))


def replaced(node: Node, name: str, value: Fraction) -> Node:
    """Returns a tree with a number in place of a variable."""
    if node == ("sym", name) or node == ("const", name):
        return ("num", value)
    return tuple(
        replaced(part, name, value) if isinstance(part, tuple) and part and isinstance(part[0], str)
        else tuple(replaced(one, name, value) for one in part) if isinstance(part, tuple) else part
        for part in node
    )  # fmt: skip


def equal(gold: Node, answer: Node, hard: bool) -> bool:
    """Returns whether two expressions have the same value, whatever their variables are.

    Raises:
        TooHardError: without ``hard``, if bounded exact arithmetic does not tell.
    """
    if gold == answer:
        return True
    bits = HARD_BITS if hard else EASY_BITS
    try:
        values = exact(gold, bits), exact(answer, bits)
    except TooHardError:
        if not hard:
            raise
        values = None, None
    if None not in values:
        return values[0] == values[1]
    if not hard:
        raise TooHardError
    names = sorted(symbols(gold) | symbols(answer))
    told = 0
    for point in points(names):
        pairs = [at_point(gold, answer, point, digits) for digits in _DIGITS]
        if names and not all(_is_real(value) for value in pairs[1]) and not _speaks_of_i(gold, answer):
            continue
        if not _agree(pairs):
            return False
        told += 1
    if told:
        return True
    # Nowhere real: principal values are compared.
    return all(_agree([at_point(gold, answer, point, digits) for digits in _DIGITS]) for point in points(names))


def points(names: list[str]) -> list[dict[str, Any]]:
    """Returns values for the variables at which expressions are compared, of both signs; one point without any."""
    at = random.Random(2026)
    return [
        {name: Fraction(at.randint(1_000, 30_000), 9_973) * (1 if turn < 2 else at.choice((1, -1))) for name in names}
        for turn in range(POINTS if names else 1)
    ]


def at_point(gold: Node, answer: Node, point: Mapping[str, Any], digits: int) -> tuple[Any, Any]:
    """Returns both values at a point, with so many digits."""
    import mpmath

    with mpmath.workdps(digits):
        return approximate(gold, point), approximate(answer, point)


def _is_real(value: Any) -> bool:
    return not getattr(value, "imag", 0)


def _speaks_of_i(*nodes: Node) -> bool:
    return any(node == ("const", "i") or _speaks_of_i(*_parts(node)) for node in nodes)


def _parts(node: Node) -> list[Node]:
    parts = node[2] if node[0] == "fun" else node[1:]
    return [part for part in parts if isinstance(part, tuple)]


def _agree(pairs: list[tuple[Any, Any]]) -> bool:
    """Returns whether values are equal: they agree in a hundred digits, or their difference vanishes with precision.

    The latter is for sums that cancel. No fixed place is rounded to, so tiny numbers stay apart.
    """
    import mpmath

    with mpmath.workdps(_DIGITS[1]):
        differences = []
        for one, other in pairs:
            if not (mpmath.isfinite(one) and mpmath.isfinite(other)):
                return bool(one == other and not mpmath.isnan(one))
            differences.append(abs(mpmath.mpmathify(one) - mpmath.mpmathify(other)))
        coarse, fine = differences
        scale = max(abs(pairs[1][0]), abs(pairs[1][1]))
        return bool(fine <= scale * mpmath.mpf(10) ** -_AGREE or fine <= coarse * mpmath.mpf(10) ** -50)


def approximate(node: Node, point: Mapping[str, Any]) -> Any:
    """Returns the value of an expression at a point, with mpmath's working precision.

    Raises:
        UndefinedError: if it has none there.
    """
    import mpmath

    try:
        return _value(node, point, mpmath)
    except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
        raise UndefinedError(str(error)) from None


def _value(node: Node, point: Mapping[str, Any], mp: Any) -> Any:
    match node:
        case ("num", value):
            return mp.mpf(value.numerator) / value.denominator
        case ("sym", name):
            if name not in point:
                raise UndefinedError(f"the variable {name!r}")
            return mp.mpf(point[name].numerator) / point[name].denominator
        case ("const", name):
            return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infty": mp.inf}[name]
        case ("neg", inner):
            return -_value(inner, point, mp)
        case ("pct", inner):
            return _value(inner, point, mp) / 100
        case ("deg", inner):
            return _value(inner, point, mp) * mp.pi / 180
        case ("!", inner):
            return mp.factorial(_value(inner, point, mp))
        case ("fun", name, arguments):
            return _function_value(name, [_value(one, point, mp) for one in arguments], mp)
        case (("sum" | "prod") as name, index, low, high, body):
            terms = (_value(replaced(body, index, value), point, mp) for value in _range(low, high, HARD_BITS))
            return reduce(operator.add if name == "sum" else operator.mul, terms, mp.mpf(name == "prod"))
        case ("root", inner, degree):
            return _root_value(_value(inner, point, mp), _value(degree, point, mp), mp)
        case (sign, left, right):
            a, b = _value(left, point, mp), _value(right, point, mp)
            match sign:
                case "+":
                    return a + b
                case "-":
                    return a - b
                case "*":
                    return a * b
                case "/":
                    return a / b
                case "^":
                    if mp.isfinite(b) and abs(b) > _MAX_POWER:
                        raise UndefinedError("a power too large to compare")
                    return a**b
    raise UndefinedError(f"{node[0]!r}")


def _root_value(value: Any, degree: Any, mp: Any) -> Any:
    # The real root of a negative number, where there is one.
    if _is_real(value) and value < 0 and degree == int(degree) and int(degree) % 2:
        return -mp.root(-value, int(degree))
    return mp.sqrt(value) if degree == 2 else value ** (1 / degree)


def _function_value(name: str, values: list[Any], mp: Any) -> Any:
    first, *rest = values
    match name:
        case "ln":
            return mp.log(first)
        case "log" | "lg":
            return mp.log(first) / mp.log(rest[0] if rest else 10)
        case "arcsin" | "arccos" | "arctan":
            return getattr(mp, name.replace("arc", "a"))(first)
        case "abs":
            return abs(first)
        case "binom":
            return mp.binomial(*values)
        case "max" | "min":
            return (max if name == "max" else min)(values)
        case "gcd" | "lcm":
            raise UndefinedError(name)
    return getattr(mp, name)(first)  # sin to tanh, exp, floor and ceil have mpmath's names
