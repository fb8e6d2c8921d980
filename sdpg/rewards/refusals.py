r"""Refuses answers for what they say beside their value, which math-verify drops.

math-verify reads ``204\text{ thousand}``, ``204_8``, ``204\text{ or 205}`` and ``[204,204]`` as 204, ``336'`` as 336
degrees, and of ``205=204`` the last side alone. What may stand beside a number that equals a gold answer is a name
before an equals sign, one unit behind and an approximation of it; see docs/verifiers.md. Strings only, no parsing.
"""

import re

from sdpg.rewards.extraction import normalise_answer, rational
from sdpg.rewards.understood import not_understood

REFUSED_WORDS = re.compile(
    r"approximately|wrong|incorrect|false|plus|minus|k|doubled|tripled|halved|factorial|"
    r"(?:dozen|third|(?:hundred|thousand|million|billion|trillion)(?:th)?|tenth)s?|half|halves"
)
"""A number followed by one of these is another number, several, or none."""
POWER_WORDS = frozenset({"squared", "cubed"})
"""A number followed by one of these alone is another number too: ``204 squared``, but not ``25 cm squared``."""
DEGREE_WORDS = frozenset({"degree", "degrees", "deg"})
"""The units in which an answer may state an angle in degrees."""

_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{(?P<text>[^{}]*)\}"
_POWER = r"(?:\s*\^\s*(?:[23]|\{[23]\}))?"
_PIECES = re.compile(rf"{_TEXT}{_POWER}|(?P<command>\\[a-zA-Z]+)|(?P<letters>[a-zA-Z]+){_POWER}|(?P<digit>[0-9])")
_TEXT_BLOCK = re.compile(_TEXT)
_UNIT = re.compile(rf"\s*(?:\\[ ,;])?\s*{_TEXT}{_POWER}\s*$")
_RELATION = re.compile(r"=|\\(?:approx|approxeq|equiv|cong|simeq|sim|doteq)(?![a-zA-Z])")
# After a digit, a letter or a bracket the sign is a factorial's: 4!=24.
_UNEQUAL = re.compile(r"[~/+*<>-]=|(?<![0-9a-zA-Z)])!=|\\not\s*=")
_INEQUALITY = re.compile(r"[<>≤≥≠]|\\(?:not|neq?|leq?|geq?|[lg]t|leqslant|geqslant)(?![a-zA-Z])")
_APPROXIMATION = re.compile(r"≈|\\(?:approx|approxeq|sim|simeq|cong|doteq)(?![a-zA-Z])")
_EQUALS = re.compile(r"(?<![<>!])=")
_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_DEGREE = re.compile(r"°|º|˚|\\degree(?![a-zA-Z])|\\circ(?![a-zA-Z])")
_PERCENT = re.compile(r"%|(?<![a-z])(?:percent|percentage|pct)(?![a-z])", re.IGNORECASE)
_BASE = re.compile(r"[0-9)]\s*\}?\s*_\s*(\{[^{}]*\}|\S)")
_PRIME = re.compile(r"['\"′″’”]|\\prime")
_THOUSANDS = re.compile(r"(?<![0-9])[1-9][0-9]{0,2}(?:(?:,(?:\\[!,]\s*)?|\{,\}|\\,)[0-9]{3})+(?![0-9])")
_BRACKET = re.compile(r"[(\[]|\\\{|\\l(?:paren|brack|brace)")
_GAP = (
    r"[\s$'\"~]|\\[ ,;:]|\\(?:displaystyle|textstyle|left|right|q?quad|[lc]?dots|space|enspace|thinspace|hfill|newline)"
    r"(?![a-zA-Z])|\{\s*\}"
)
_APART = re.compile(rf"(?<!frac)(?<!frac )(?<![_^])[0-9](?:{_GAP})+(?![0-9]+/)[0-9]")
"""math-verify drops what stands between, and adds the two as a mixed number's whole and fraction: 203 1 is 204."""
_BRACKETED = re.compile(rf"(?:{_GAP}|[(){{}}])+")
_INNERMOST = re.compile(r"[(\[][^()\[\]]*[)\]]")
_WHOLE_BRACKET = re.compile(r"\s*(?:\\left\s*)?[(\[](.*?)(?:\\right\s*)?[)\]]\s*", re.DOTALL)
_SQUARE_BRACKET = re.compile(r"\s*(?:\\left\s*)?\[\s*[-+]?[0-9][0-9.,/]*\s*(?:\\right\s*)?\]\s*")
_RATIO = re.compile(r"[0-9]\s*(?::|\\colon)\s*[0-9]")
_SUM_WITH_UNITS = re.compile(rf"{_TEXT}{_POWER}\s*[-+]\s*[0-9]")
_WRAPPED = re.compile(r"^(?:\s|\\[ ,;:!])*\{?([^{}]*?)\}?(?:\s|\\[ ,;:!])*$")
_LABEL = re.compile(r"\s*\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{[^{}]*:\s*\}")
_MODULUS = re.compile(
    r"(?:\s|\\[ ,;:]|\\q?quad)*(?:\\pmod\s*(?:\{[^{}]*\}|\S)|"
    r"\(\s*(?:\\b?mod(?![a-zA-Z])|\\(?:text|mathrm)\s*\{\s*mod\s*\})[^()]*\))\s*$"
)
_SEVERAL = (
    r"(?<![a-zA-Z\\])(?:and|n?or|not?|none|but|than|base|over|under|above|below|about|around|nearly|almost)(?![a-zA-Z])"
)
_BOUND = re.compile(r"(?<![a-z])(?:or|at)\s+(?P<word>more|less|fewer|least|most)(?![a-z])")
_NUMBER_WORD = (
    r"(?<![a-z])(?:zero|(?<!no )one|two|three|four(?:teen)?|five|six(?:teen)?|seven(?:teen)?|eight(?:een)?|"
    r"nine(?:teen)?|ten|eleven|twelve|thirteen|fifteen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty)(?![a-z])"
)
_SEVERAL_NUMBERS = re.compile(rf"{_SEVERAL}.*(?:[0-9]|{_NUMBER_WORD})", re.DOTALL)
"""Words that introduce another number, where one follows: ``3 or 4``, but not ``3 and no others``."""
_NUMBER_AND_WORDS = re.compile(rf"\s*[-+]?[0-9][0-9.,]*\s*{_TEXT}")
_FUNCTION_OF_SEVERAL = re.compile(r"\\(?:max|min|gcd|lcm|operatorname)")


def refusal(gold: str, answer: str) -> str | None:
    """Returns why an answer cannot equal a gold answer whatever its value, or ``None``; both are normalised."""
    if _BOX.search(answer):
        return "a box within the answer"
    whole, answer = answer, exact_part(gold, answer)
    *names, end = _sides(answer)
    last = last_side(gold, answer)
    # What stands in a name's brackets states nothing: P(X > 2) = 1/2.
    before = answer[: len(answer) - len(end)]
    stated = _without_brackets(before) + end if names else answer
    if _UNEQUAL.search(stated) and not _UNEQUAL.search(gold):
        return "a relation that is no equation"
    number = _is_number(gold)
    if _is_single(gold) and (reason := _refusal_of_words(gold, names, last, number)):
        return reason
    if not _bases(last) <= (_bases(gold) or {"10"}):
        return "a number of another base"
    if _PRIME.search(last) and not _PRIME.search(gold):
        return "minutes, seconds or a prime"
    if number and (reason := _refusal_of_number(gold, answer, stated, last)):
        return reason
    if "." not in gold and _APPROXIMATION.match(answer.strip()) and not _APPROXIMATION.search(gold):
        return "an approximation of an answer that is exact"
    if not _is_single(gold):
        words = _stretches(last, letters=False)[1]
        if words and words <= POWER_WORDS:
            return f"the word {min(words)!r}"
        *names, last = _EQUALS.split(answer)
    return not_understood(gold, names, last, whole.strip().removeprefix(answer), number)


def _refusal_of_words(gold: str, names: list[str], last: str, number: bool) -> str | None:
    stretches, words = _stretches(last, letters=number)
    if (number and stretches > 1) or (not number and _SUM_WITH_UNITS.search(last)):
        return "several numbers with words between them"
    if refused := sorted(filter(REFUSED_WORDS.fullmatch, words)):
        return f"the word {refused[0]!r}"
    if len(words) == 1 and words <= POWER_WORDS:
        return f"the word {min(words)!r}"
    if match := _BOUND.search(_spoken(last)):
        return f"the word {match['word']!r}"
    if _SEVERAL_NUMBERS.search(_spoken(last)):
        return "a word that another number follows"
    for name in names:
        match = _NUMBER_AND_WORDS.match(_without_brackets(name))
        if match and re.search(_SEVERAL, match["text"].lower()):
            return "a number among words before the equals sign"
    if number and _DEGREE.search(gold) and (units := sorted(words - DEGREE_WORDS)):
        return f"the unit {units[0]!r} for an angle in degrees"
    return None


def _refusal_of_number(gold: str, answer: str, stated: str, last: str) -> str | None:
    if _INEQUALITY.search(stated):
        return "a relation that is no equation"
    if _APPROXIMATION.search(answer) and "." not in gold:
        return "an approximation of a number that is exact"
    if _APART.search(last) or re.fullmatch(r" ?[0-9]+(?: [0-9]+)+ ?", _BRACKETED.sub(" ", last)):
        return "several numbers with nothing between them"
    if bool(_PERCENT.search(gold)) != bool(_PERCENT.search(last)):
        return "a percentage against a number that is none"
    # In brackets a comma separates: [204,204] is no number of six digits.
    plain = last if _BRACKET.search(last) else _THOUSANDS.sub("0", last)
    if re.search(r"(?<!\\)[,;]", plain) and not _FUNCTION_OF_SEVERAL.search(last):
        return "a list or an interval"
    if _SQUARE_BRACKET.fullmatch(last):
        return "a list or an interval"
    if _RATIO.search(last) and ":" not in gold:
        return "a ratio"
    return None


def exact_part(gold: str, answer: str) -> str:
    r"""Returns what an answer says before an approximation of it: of ``r=2\sqrt3\approx 3.46`` this is ``r=2\sqrt3``.

    It is the whole answer where the gold answer is a decimal or an approximation, or where only a name stands before.
    """
    match = _APPROXIMATION.search(answer)
    if not match or "." in gold or _APPROXIMATION.search(gold):
        return answer
    before = re.sub(r"\s*(?:\\left\s*)?\(\s*$", "", answer[: match.start()]).strip()
    is_name = not re.search(r"[0-9]", before) and re.search(r"[0-9]", gold)
    return answer if is_name or not before or not answer[match.end() :].strip() else before


def numbers_before(gold: str, answer: str) -> list[str]:
    """Returns the sides of an equation before the last that are plainly numbers; each must equal the gold answer too.

    In ``x = 205 = 204`` this is ``205``; sums and functions are taken for names. There are none where the gold answer
    is an equation itself, and in a congruence.
    """
    return [] if _RELATION.search(gold) else _plain_numbers(answer)


def last_side(gold: str, answer: str) -> str:
    """Returns what follows the last equals sign of an answer, without a modulus; the whole for several gold answers.

    It is also the whole where brackets do not close, as no part of an answer that does not parse is the answer.
    """
    if _RELATION.search(gold) or not (_is_single(gold) and _brackets_close(answer)):
        return answer
    last = _sides(answer)[-1]
    return last if "mod" in gold else _MODULUS.sub("", last)


def stated_number(answer: str) -> str:
    r"""Returns an answer without a name before an equals sign and a unit behind: of ``x = 5\text{ cm}`` the 5.

    It is the whole answer where a side before the last is a number, as that one must be compared too, and where a
    relation is another than equality.
    """
    if (
        _plain_numbers(answer)
        or not _brackets_close(answer)
        or any(relation != "=" for relation in _RELATION.findall(answer))
    ):
        return answer
    return _UNIT.sub("", _sides(answer)[-1]).strip()


def _plain_numbers(answer: str) -> list[str]:
    if r"\equiv" in answer and "mod" in answer:
        return []
    parts = [part for side in _sides(answer)[:-1] for part in _sides(_unbracketed(side))]
    sides = [_WRAPPED.sub(r"\1", _LABEL.sub("", _unbracketed(part))).strip() for part in parts]
    return [
        side for side in sides if re.fullmatch(r"[0-9]{1,3}!", side) or rational(normalise_answer(side)) is not None
    ]


def _is_number(gold: str) -> bool:
    """Returns whether a gold answer is a single number: digits and commands, no letter, list or relation."""
    bare = re.sub(r"\\[a-zA-Z]+", "", _THOUSANDS.sub("0", gold))
    return _is_single(gold) and bool(re.search(r"[0-9]", bare)) and not re.search(r"[a-zA-Z,;<>=]", bare)


def _is_single(gold: str) -> bool:
    """Returns whether a gold answer is one expression: no list, no plus-minus, no words."""
    bare = re.sub(r"\\[,;]", "", _THOUSANDS.sub("0", gold))
    return not (re.search(r"[,;±]|\\(?:pm|mp)(?![a-zA-Z])", bare) or _TEXT_BLOCK.search(gold))


def _sides(answer: str) -> list[str]:
    """Returns what stands between the relations outside braces and brackets; brackets around the whole do not count."""
    sides, begin, braces, brackets = [], 0, 0, 0
    closed = _brackets_close(answer)
    for match in re.finditer(rf"\\?\{{|\\?\}}|[()\[\]]|{_RELATION.pattern}", answer):
        if match[0] in ("{", "}"):
            braces += 1 if match[0] == "{" else -1
        elif match[0] in ("(", "[", ")", "]"):
            brackets += 0 if not closed else 1 if match[0] in "([" else -1
        elif braces == brackets == 0 and match[0] not in (r"\{", r"\}"):
            sides.append(answer[begin : match.start()])
            begin = match.end()
    last = answer[begin:]
    inner = _unbracketed(last)
    return [*sides, *(_sides(inner) if inner != last and _RELATION.search(inner) else [last])]


def _brackets_close(text: str) -> bool:
    depth = 0
    for bracket in re.findall(r"[()\[\]]", text):
        depth += 1 if bracket in "([" else -1
        if depth < 0:
            return False
    return depth == 0


def _unbracketed(text: str) -> str:
    """Returns a text without a bracket around all of it."""
    match = _WHOLE_BRACKET.fullmatch(text)
    return match[1] if match and _brackets_close(match[1]) else text


def _without_brackets(text: str) -> str:
    before = None
    while text != before:
        before = text
        text = _INNERMOST.sub("", text)
    return text


def _spoken(side: str) -> str:
    return _TEXT_BLOCK.sub(lambda match: f" {match['text']} ", side).lower()


def _bases(text: str) -> set[str]:
    return {base.strip("{} ") for base in _BASE.findall(text)}


def _stretches(side: str, letters: bool = True) -> tuple[int, set[str]]:
    """Returns how many stretches of mathematics with a digit the words leave, and the words in lower case.

    Words are text blocks and, with ``letters``, bare letters. A text block with a digit is a stretch of its own; the
    power of a unit is none.
    """
    count, words, apart = 0, set(), True
    for piece in _PIECES.finditer(side):
        spoken = piece["letters"] if letters and piece["letters"] else piece["text"]
        if piece["digit"]:
            count += apart
            apart = False
        elif spoken is not None:
            count += bool(re.search(r"[0-9]", spoken))
            # A single capital is a unit: kelvin is not thousands.
            words.update(word if len(word) == 1 else word.lower() for word in re.findall(r"[a-zA-Z]+", spoken))
            apart = True
    return count, words
