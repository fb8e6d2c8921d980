"""Units: which words are one, how large it is in base units, and what two quantities with units have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from sdpg.rewards.answers.tokens import NotUnderstoodError, Token
from sdpg.rewards.answers.vocabulary import COUNTED, SAID

_TABLE = """
    m metre meter = 1 m
    in inch = 0.0254 m
    ft foot feet = 0.3048 m
    yd yard = 0.9144 m
    mi mile = 1609.344 m
    angstrom = 1/10000000000 m
    au AU = 149597870700 m
    lightyear ly = 9460730472580800 m
    pc parsec = 30856775814913673 m
    ha hectare = 10000 m m
    acre = 4046.8564224 m m
    l L liter litre = 1/1000 m m m
    cc = 1/1000000 m m m
    gal gallon = 0.003785411784 m m m
    quart qt = 0.000946352946 m m m
    pint pt = 0.000473176473 m m m
    cup = 0.0002365882365 m m m
    tablespoon tbsp = 0.00001478676478125 m m m
    teaspoon tsp = 0.00000492892159375 m m m
    g gram = 1 g
    tonne = 1000000 g
    lb pound = 453.59237 g
    oz ounce = 28.349523125 g
    solarmass = 1 solarmass
    s sec second = 1 s
    min minute = 60 s
    h hr hour = 3600 s
    day = 86400 s
    week = 604800 s
    month = 1 month
    quarter = 3 month
    year yr = 12 month
    decade = 120 month
    century centuries = 1200 month
    am = 1 am
    pm = 1 pm
    mph = 0.44704 m /s
    kph kmh kmph = 5/18 m /s
    mps = 1 m /s
    Hz hz hertz = 1 /s
    N newton = 1000 g m /s /s
    dyn dyne = 1/100 g m /s /s
    J joule = 1000 g m m /s /s
    erg = 1/10000 g m m /s /s
    cal calorie = 4184 g m m /s /s
    eV ev electronvolt = 1.602176634e-16 g m m /s /s
    Wh = 3600000 g m m /s /s
    W watt = 1000 g m m /s /s /s
    Pa pascal = 1000 g /m /s /s
    bar = 100000000 g /m /s /s
    atm atmosphere = 101325000 g /m /s /s
    A amp ampere = 1 A
    C coulomb = 1 A s
    V volt = 1000 g m m /s /s /s /A
    ohm = 1000 g m m /s /s /s /A /A
    farad = 1/1000 A A s s s s /g /m /m
    T tesla = 1000 g /s /s /A
    gauss = 1/10 g /s /s /A
    K kelvin = 1 K
    celsius = 1 celsius
    F fahrenheit = 1 fahrenheit
    mol mole = 1 mol
    M molar = 1000 mol /m /m /m
    dollar usd = 1 dollar
    cent penny pennies = 1/100 dollar
    euro eur = 1 euro
    gbp = 1 gbp
    yen = 1 yen
    rupee = 1 rupee
    degree deg = 1 degree
    arcminute arcmin = 1/60 degree
    arcsecond arcsec = 1/3600 degree
    turn revolution rev = 360 degree
    radian rad = 1 radian
    steradian sr = 1 steradian
    percent percentage pct = 1 percent
    bit = 1 bit
    byte = 8 bit
"""
_PREFIXED = frozenset({
    *("m", "g", "s", "l", "L", "A", "K", "V", "W", "N", "J", "C", "T", "F", "M", "Hz", "Pa", "eV", "Wh", "mol", "pc",
      "cal", "rad", "bar", "ohm", "bit", "byte"),
    *("metre", "meter", "gram", "second", "litre", "liter", "watt", "volt", "newton", "joule", "pascal", "hertz", "amp",
      "ampere", "calorie", "mole", "tesla", "parsec", "electronvolt"),
})  # fmt: skip
_PREFIXES = {"p": -12, "n": -9, "u": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9, "T": 12,
             "pico": -12, "nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "kilo": 3, "mega": 6,
             "giga": 9}  # fmt: skip
CURRENCIES = {"$": "dollar", r"\$": "dollar", "£": "gbp", "€": "euro", "¥": "yen", "₹": "rupee", "¢": "cent"}
"""The words for signs that stand before a number or behind it."""
MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that multiply the number before them."""
_ANY = frozenset({"unit"})
SINGLE = frozenset("mgshlLNJWV")
"""Letters that are read as a unit behind a number where the gold answer has no such variable."""
_AMBIGUOUS = frozenset({"ks", "ds", "cs", "dA", "cA", "dm", "MM", "mM", "mF", "kF", "mC", "kC", "cK", "dK", "dT", "cT"})


@dataclass(frozen=True)
class Unit:
    """A unit's size in base units, its dimensions with their powers, and whether it fits every other one."""

    size: Fraction = Fraction(1)
    dimensions: frozenset[tuple[str, int]] = frozenset()
    any: bool = False

    def fits(self, other: "Unit") -> bool:
        """Returns whether both measure the same."""
        return self.any or other.any or self.dimensions == other.dimensions

    @property
    def name(self) -> str:
        """Returns the only dimension, or nothing if there are several."""
        return next(iter(self.dimensions))[0] if len(self.dimensions) == 1 else ""


@cache
def _units() -> dict[str, tuple[Fraction, tuple[str, ...]]]:
    found = {}
    for line in _TABLE.strip().splitlines():
        words, meaning = line.split("=")
        size, *dimensions = meaning.split()
        for word in words.split():
            found[word] = Fraction(size), tuple(dimensions)
    return found


def _lookup(word: str, known: frozenset[str]) -> tuple[Fraction, tuple[str, ...]] | None:
    """Returns the size and dimensions of a unit; what is counted is a dimension of its own; None if unknown."""
    table = _units()
    for form in (word, word.lower()):
        singular = COUNTED.get(form, form)
        for name in (form, singular):
            if name in table:
                return table[name]
        for name in (form, form.removesuffix("s")):
            for prefix, power in _PREFIXES.items():
                base = name.removeprefix(prefix)
                if base != name and base in _PREFIXED:
                    size, dimensions = table[base]
                    return size * Fraction(10) ** power, dimensions
    small = word.lower()
    if small in COUNTED or small in known:
        return Fraction(1), (COUNTED.get(small, small.removesuffix("s")),)
    return None


def is_unit(word: str, known: frozenset[str] = frozenset()) -> bool:
    """Returns whether a word or letter can be a unit or a noun for what is counted, or says nothing beside one."""
    if word in _AMBIGUOUS:
        return False
    return word.lower() in SAID or word.lower() in _SHAPES or _lookup(word, known) is not None


_SHAPES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}


def read_unit(tokens: Sequence[Token], known: frozenset[str]) -> Unit | None:
    r"""Returns the unit that words, powers and slashes make, or None if they only say nothing, as "in total".

    Args:
        tokens: what follows a number.
        known: words that the gold answer holds.

    Raises:
        NotUnderstoodError: if a part is none of a unit.
    """
    size, powers = Fraction(1), dict[str, int]()
    sign, shape, last = 1, 1, dict[str, int]()
    last_size, anything, at = Fraction(1), False, 0
    while at < len(tokens):
        token = tokens[at]
        text, small = token.text, token.text.lower()
        at += 1
        if text in CURRENCIES:
            text = small = CURRENCIES[text]
        elif text in ("%", r"\%"):
            text = small = "percent"
        if text in ("/",) or small == "per":
            sign = -1
        elif (text in ("*", "-") and last and at < len(tokens)) or text in ("(", ")", "{", "}"):
            continue
        elif text == "^" and last:
            power, at = _power(tokens, at)
            for name, count in last.items():
                powers[name] += count * (power - 1)
            size *= last_size ** (power - 1)
            last = {}
        elif small in ("squared", "cubed"):
            if not last:
                raise NotUnderstoodError(f"the word {text!r}")
            for name, count in last.items():
                powers[name] += count * (_SHAPES[small] - 1)
            size *= last_size ** (_SHAPES[small] - 1)
        elif small in ("square", "sq", "cubic", "cu"):
            shape = _SHAPES[small]
        elif token.kind in ("word", "run") or text != token.text:
            found = _lookup(text, known)
            if found is None or (small in SAID and small != "in"):
                if small not in SAID:
                    raise NotUnderstoodError(f"the word {token.text!r}")
                continue
            if small == "in" and (powers or (at < len(tokens) and tokens[at].kind in ("word", "run"))):
                continue  # "in total" and no inch
            each, dimensions = found
            last_size, last = each**sign, dict[str, int]()
            size *= last_size**shape
            for dimension in dimensions:
                name, step = dimension.removeprefix("/"), -sign if dimension.startswith("/") else sign
                last[name] = last.get(name, 0) + step
            for name, count in last.items():
                powers[name] = powers.get(name, 0) + count * shape
            anything |= bool(_ANY & last.keys())
            shape = 1
        else:
            raise NotUnderstoodError(f"the sign {token.text!r}")
    if shape != 1:
        raise NotUnderstoodError("a power of no unit")
    dimensions = frozenset((name, count) for name, count in powers.items() if count)
    return Unit(size, _physical(dimensions), anything) if powers else None


_MEASURED = (
    "m g s A K mol bit month dollar euro gbp yen rupee degree radian steradian percent celsius fahrenheit am pm "
    "solarmass"
)
_PHYSICAL = frozenset(_MEASURED.split())


def _physical(dimensions: frozenset[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Returns the measured dimensions alone, if there are any: of "5 kg apples" the kilograms."""
    measured = frozenset((name, power) for name, power in dimensions if name in _PHYSICAL)
    if "celsius" in dict(measured) or "fahrenheit" in dict(measured):
        measured = frozenset((name, power) for name, power in measured if name != "degree")
    return measured or dimensions


def _power(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    texts = [token.text for token in tokens[at : at + 4]]
    for begin, end in (("", ""), ("{", "}")):
        sign = ["-"] if "-" in texts[:2] else []
        digit = texts[bool(begin) + len(sign)] if len(texts) > bool(begin) + len(sign) else ""
        wanted = [*([begin] if begin else []), *sign, digit, *([end] if end else [])]
        if digit in ("1", "2", "3", "4") and texts[: len(wanted)] == wanted:
            return int(digit) * (-1 if sign else 1), at + len(wanted)
    raise NotUnderstoodError("the power of a unit")
