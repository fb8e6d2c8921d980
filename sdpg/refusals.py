r"""What an answer says beside its value, and math-verify drops: the rules that refuse it all the same.

math-verify reads ``204\text{ thousand}``, ``204_8``, ``204\text{ or 205}`` and ``[204,204]`` as 204, ``336'`` as 336
degrees, and of ``205=204`` the last side alone. What may stand beside a number that equals a gold answer is a name
before an equals sign and one unit behind; see docs/verifiers.md. Strings only, no parsing.
"""

import re

REFUSED_WORDS = re.compile(
    r"and|n?or|not?|none|but|than|least|most|more|less|fewer|over|under|above|below|about|around|approximately|nearly|"
    r"almost|wrong|incorrect|false|increase|decrease|gain|loss|plus|minus|times|base|mod|modulo|remainder|per|k|"
    r"(?:dozen|third|quarter|(?:hundred|thousand|million|billion|trillion)(?:th)?|tenth)s?|half|halves"
)
"""A number followed by one of these is another number, several, or none."""
DEGREE_WORDS = frozenset({"degree", "degrees", "deg"})
"""The units in which an answer may state an angle in degrees."""

_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{(?P<text>[^{}]*)\}"
_POWER = r"(?:\s*\^\s*(?:[23]|\{[23]\}))?"
_PIECES = re.compile(rf"{_TEXT}{_POWER}|(?P<command>\\[a-zA-Z]+)|(?P<letters>[a-zA-Z]+){_POWER}|(?P<digit>[0-9])")
_TEXT_BLOCK = re.compile(_TEXT)
_UNIT = re.compile(rf"\s*(?:\\[ ,;])?\s*{_TEXT}{_POWER}\s*$")
_VARIABLE = re.compile(
    r"\\(?:(?:var)?(?:epsilon|theta|rho|sigma|phi)|alpha|beta|gamma|delta|zeta|eta|iota|kappa|lambda|mu|nu|xi|tau|upsilon|"
    r"chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell|angle|triangle)"
)
_RELATION = re.compile(r"=|\\(?:approx|approxeq|equiv|cong|simeq|sim|doteq)(?![a-zA-Z])")
_UNEQUAL = re.compile(r"[!~/+*<>-]=|\\not\s*=")
_INEQUALITY = re.compile(r"[<>≤≥≠]|\\(?:not|neq?|leq?|geq?|[lg]t|leqslant|geqslant)(?![a-zA-Z])")
_APPROXIMATION = re.compile(r"≈|\\(?:approx|approxeq|sim|simeq|cong|doteq)(?![a-zA-Z])")
_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_DEGREE = re.compile(r"°|º|˚|\\degree(?![a-zA-Z])|\\circ(?![a-zA-Z])")
_PERCENT = re.compile(r"%|(?<![a-z])(?:percent|percentage|pct)(?![a-z])", re.IGNORECASE)
_BASE = re.compile(r"[0-9)]\s*\}?\s*_\s*(\{[^{}]*\}|\S)")
_PRIME = re.compile(r"['\"′″’”]|\\prime")
_THOUSANDS = re.compile(r"(?<![0-9])[1-9][0-9]{0,2}(?:(?:,|\{,\}|\\,)[0-9]{3})+(?![0-9])")
_BRACKET = re.compile(r"[(\[]|\\\{|\\l(?:paren|brack|brace)")
_GAP = (
    r"[\s$'\"~]|\\[ ,;:]|\\(?:displaystyle|textstyle|left|right|q?quad|[lc]?dots|space|enspace|thinspace|hfill|newline)"
    r"(?![a-zA-Z])|\{\s*\}"
)
_APART = re.compile(rf"(?<!frac)(?<!frac )(?<![_^])[0-9](?:{_GAP})+(?![0-9]+/)[0-9]")
"""math-verify drops what stands between, and adds the two as a mixed number's whole and fraction: 203 1 is 204."""
_BRACKETED = re.compile(rf"(?:{_GAP}|[(){{}}])+")
_FUNCTION_OF_SEVERAL = re.compile(r"\\(?:max|min|gcd|lcm|operatorname)")


def refusal(gold: str, answer: str) -> str | None:
    """Why an answer cannot equal a gold answer whatever its value, or ``None``; both normalised."""
    if _BOX.search(answer):
        return "a box within the answer"
    if _UNEQUAL.search(answer) and not _UNEQUAL.search(gold):
        return "a relation that is no equation"
    *names, last = _sides(answer)
    number = _is_number(gold)
    if not _TEXT_BLOCK.search(gold):
        stretches, words = _stretches(last, letters=number)
        if stretches > 1:
            return "several numbers with words between them"
        if refused := sorted(filter(REFUSED_WORDS.fullmatch, words)):
            return f"the word {refused[0]!r}"
        if any(_stretches(name)[0] and _TEXT_BLOCK.search(name) for name in names):
            return "a number among words before the equals sign"
        if number and _DEGREE.search(gold) and (units := sorted(words - DEGREE_WORDS)):
            return f"the unit {units[0]!r} for an angle in degrees"
    if not _bases(last) <= (_bases(gold) or {"10"}):
        return "a number of another base"
    if _PRIME.search(last) and not _PRIME.search(gold):
        return "minutes, seconds or a prime"
    return _refusal_of_number(gold, answer, last) if number else None


def _refusal_of_number(gold: str, answer: str, last: str) -> str | None:
    if _INEQUALITY.search(answer):
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
    return None


def numbers_before(gold: str, answer: str) -> list[str]:
    """The sides of an equation before the last that name nothing, so that each must equal the gold answer too.

    Of ``x = 100 + 104 = 204`` this is ``100 + 104``; of ``205 = 204`` it is ``205``. None where the gold answer is an
    equation itself.
    """
    if _RELATION.search(gold):
        return []
    return [side.strip() for side in _sides(answer)[:-1] if _stretches(side)[0] and not _has_variable(side)]


def stated_number(answer: str) -> str:
    r"""An answer without a name before an equals sign and a unit in a text block behind: of ``x = 5\text{ cm}`` the 5.

    The whole answer where a side before the last holds a digit, as that one must be compared too, and where a relation
    is another than equality.
    """
    *names, last = _sides(answer)
    if any(_stretches(name)[0] for name in names) or len(names) != answer.count("="):
        return answer
    return _UNIT.sub("", last).strip()


def _is_number(gold: str) -> bool:
    """Whether a gold answer is a single number: digits and commands, no letter, list or relation."""
    bare = re.sub(r"\\[a-zA-Z]+", "", _THOUSANDS.sub("0", gold))
    return bool(re.search(r"[0-9]", bare)) and not (re.search(r"[a-zA-Z,;<>=]", bare) or _TEXT_BLOCK.search(gold))


def _sides(answer: str) -> list[str]:
    """What stands between the relations that are in no braces."""
    sides, begin, depth = [], 0, 0
    for match in re.finditer(rf"\\?\{{|\\?\}}|{_RELATION.pattern}", answer):
        if match[0] in ("{", "}"):
            depth += 1 if match[0] == "{" else -1
        elif depth == 0 and match[0] not in (r"\{", r"\}"):
            sides.append(answer[begin : match.start()])
            begin = match.end()
    return [*sides, answer[begin:]]


def _bases(text: str) -> set[str]:
    return {base.strip("{} ") for base in _BASE.findall(text)}


def _stretches(side: str, letters: bool = True) -> tuple[int, set[str]]:
    """How many stretches of mathematics with a digit words divide a side into, and the words in lower case.

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
            words.update(re.findall(r"[a-z]+", spoken.lower()))
            apart = True
    return count, words


def _has_variable(side: str) -> bool:
    return any(piece["letters"] or _VARIABLE.fullmatch(piece["command"] or "") for piece in _PIECES.finditer(side))
