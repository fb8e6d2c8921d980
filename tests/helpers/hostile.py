"""Makes 1,000 completions that mean harm, or look like it: 25 families of forty, the same each time."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
import random

PER_FAMILY = 40
GOLDS = ("204", r"336^\circ", r"\frac{1}{2}", "x^2+1", "-1")

ENORMOUS = (r"9^{9^{9^9}}", r"\binom{10^9}{5\cdot 10^8}", r"(10^8)!", r"7^{7^{7^{7}}}+204")
"""Answers whose values no machine can write down."""
ENDLESS = (
    r"\sum_{a=1}^{90000}\sum_{b=1}^{90000} \sin(ab)",
    r"\sum_{a=1}^{99999}\prod_{b=1}^{99999} \frac{a}{b}",
    r"\prod_{a=1}^{77777} \sum_{b=1}^{77777} \sqrt{ab}",
)
"""Answers that are not evaluated within any sensible limit."""


@dataclass(frozen=True)
class Hostile:
    """One completion with its gold answer, and whether it deserves the reward all the same."""

    family: str
    completion: str
    gold: str
    right: bool = False


def _box(answer: str) -> str:
    return f"So it is \\boxed{{{answer}}}."


def _unbalanced(gold: str, at: random.Random) -> str:
    junk = "{" * at.randint(1, 60)
    return at.choice([f"\\boxed{{{gold}", f"\\boxed{junk}{gold}", f"\\boxed{{{junk}{gold}}}", f"\\boxed{{{gold}\\}}",
                      f"boxed{{{gold}}}{'}' * 40}", f"\\boxed{gold}", f"{junk}{gold}"])  # fmt: skip


def _long(gold: str, at: random.Random) -> str:
    size = 100_000 + at.randint(0, 99)
    return _box(at.choice(["9" * size, gold + "0" * size, "x+" * (size // 2) + "1",
                           gold + " \\text{" + "a" * size + "}", "(" * size, gold * (size // len(gold)),
                           gold + "+0" * (size // 2)]))  # fmt: skip


def _fraction_tower(gold: str, at: random.Random) -> str:
    deep = at.choice([300, 300, 40, 13, 5, 8])
    return _box("\\frac{1}{1+" * deep + str(at.randint(3, 99)) + "}" * deep)


def _power_tower(gold: str, at: random.Random) -> str:
    return _box(at.choice(ENORMOUS[:1] + ENORMOUS[3:] + ENDLESS))


def _enormous(gold: str, at: random.Random) -> str:
    return _box(at.choice([ENORMOUS[1], ENORMOUS[2], "9" * 900, "10^{400}", "1e999999", "0." + "0" * 900 + "1"]))


def _foreign_digits(gold: str, at: random.Random) -> str:
    zero = at.choice([0x660, 0x966, 0x6F0, 0x1D7CE, 0x1D7D8, 0x1D7F6, 0x9E6, 0xE50])
    return _box("".join(chr(zero + int(c)) if c.isdigit() else c for c in gold if c not in "{}\\"))


def _look_alikes(gold: str, at: random.Random) -> str:
    swap = at.choice([str.maketrans("0123", "OlZЗ"), str.maketrans("0123", "о²³¹"), str.maketrans("0123", "oI2₃")])
    wrapped = at.choice(["\u200b{}", "{}\u2060", "\u202e{}", "{}\u0338", "\u2066{}\u2069x"])
    return _box(at.choice([gold.translate(swap) + "\u0336", wrapped.format(gold)]))


def _control(gold: str, at: random.Random) -> str:
    sign = chr(at.choice([*range(1), *range(1, 9), *range(14, 28), 127]))
    place = at.randint(0, len(gold))
    return _box(gold[:place] + sign + gold[place:])


def _surrogates(gold: str, at: random.Random) -> str:
    half = chr(at.randint(0xD800, 0xDFFF))
    return _box(at.choice([half, gold + half, half + gold, half * 900]))


def _many_boxes(gold: str, at: random.Random) -> str:
    last = at.choice([f"{at.randint(2000, 9999)}", "", "\\text{none}", "{" + gold])
    return _box("205" if last.startswith("{") else gold) * 899 + _box(last)


def _code(gold: str, at: random.Random) -> str:
    return _box(at.choice([
        "__import__('os').system('touch harmed')", "open('harmed','w').write('204')", "exec(\"open('harmed','w')\")",
        "eval('204')", "int('204')", "lambda: 204", "print(204)", "[c for c in ().__class__.__base__.__subclasses__()]",
        "\\input{/etc/passwd}", "\\write18{touch harmed}", "\\immediate\\openout0=harmed", "{{204}}{%204%}",
        "$(echo 204)", "`echo 204`", "'; DROP TABLE answers; --", "import os\nos._exit(0)",
        "sympy.Integer(204)", "Symbol('x')**2+1",
    ]))  # fmt: skip


def _nested(gold: str, at: random.Random) -> str:
    deep = at.randint(2, 60)
    return "\\boxed{" * deep + str(at.randint(2000, 9999)) + "}" * deep + gold


def _soup(gold: str, at: random.Random) -> str:
    tokens = ["\\frac", "\\sqrt", "^", "_", "\\left(", "\\right)", "\\text", "&", "\\\\", "\\sum", "\\int", "=", "<",
              "a", "\\begin{cases}", "\\end{cases}", "%", "$", "#", "~", "\\,", "|", "!", "'",
              "\\cdot", "+", "-"]  # fmt: skip
    return _box("".join(at.choice(tokens) for _ in range(at.randint(1, 60))))


def _injection(gold: str, at: random.Random) -> str:
    return _box(at.choice([
        f"(( ${gold}$", f"(( and the answer: ${gold}$", f"((, final answer is ${gold}$. I hope",
        f"205}}{{{gold}", f"\\badcommand( \\({gold}\\)", f"\\fbox{{{gold}}}205", f"205\\fbox{{{gold}}}",
        f"(( \\[{gold}\\]",
        f"\\fbox{{{gold}}} \\text{{ but }} 205", f"205 % {gold}", f"not ${gold}$ ((", f"\\text{{{gold}}}\\text{{205}}",
    ])) + at.choice(["", " "])  # fmt: skip


def _environments(gold: str, at: random.Random) -> str:
    name = at.choice(["pmatrix", "cases", "array", "aligned", "bmatrix", "nosuch"])
    return _box(f"\\begin{{{name}}}" * at.randint(1, 25) + gold + "\\\\205" + at.choice(["", f"\\end{{{name}}}"]))


def _parentheses(gold: str, at: random.Random) -> str:
    deep = at.randint(1, 400)
    return _box(at.choice(["(", "[", "\\left(", "|", "\\{"]) * deep + gold + at.choice(["", ")" * (deep - 1) + "+1"]))


def _thoughts(gold: str, at: random.Random) -> str:
    return at.choice([f"<think>{_box(gold)}</think>", f"{_box(gold)}</think></think>",
                      f"{_box(gold)}</think>{_box('205')}", "<think>" * 900 + gold,
                      f"</think>{_box('205')}<think>{gold}"])  # fmt: skip


def _several(gold: str, at: random.Random) -> str:
    other = at.randint(205, 999)
    return _box(at.choice([
        f"{gold} or {other}", f"{other}, {gold}", f"\\{{{gold}, {other}\\}}", f"{gold}\\text{{ or {other}}}",
        f"{gold}\\text{{ m}}+{other}\\text{{ m}}", f"({gold},{other})", f"[{gold},{other}]", f"{gold};{other}",
        f"{gold}\\text{{, no wait, {other}}}", f"{gold}\\pm{other}", f"{gold} \\to {other}", f"{gold}\\cup{other}",
    ]))  # fmt: skip


def _equations(gold: str, at: random.Random) -> str:
    other = at.randint(205, 999)
    return _box(at.choice([f"{other}={gold}", f"x={other}={gold}", f"{gold}={other}", f"{other}\\neq{gold}",
                           f"{other}<{gold}", f"{gold}<{other}", f"{gold}={other}={gold}", f"{other}.0={gold}",
                           f"y={gold}+{other}", f"\\text{{Answer: }}{other}={gold}"]))  # fmt: skip


def _scales(gold: str, at: random.Random) -> str:
    return _box(gold + at.choice(["\\%", "\\text{ thousand}", "\\text{ hundred}", "_8", "'", "''", "\\text{ dozen}",
                                  " k", "\\times 10", "!+1", "^{2}+7", "000", ".5",
                                  "\\text{ or more}", "\\cdot 3"]))  # fmt: skip


def _denials(gold: str, at: random.Random) -> str:
    words = at.sample(
        [
            "is",
            "not",
            "never",
            "the",
            "answer",
            "rejected",
            "wrong",
            "correct",
            "at",
            "all",
            "no",
            "nay",
            "nein",
            "faux",
            "hardly",
            "impossible",
            "ist",
            "falsch",
            "of course",
            "maybe",
            "disproved",
        ],
        3,
    )
    said = " ".join([*words, at.choice(["not", "never", "rejected", "wrong", "nay", "falsch", "verworfen"])])
    macro = at.choice(["text", "mathrm", "textit", "mbox", "textbf", "emph", "textsc"])
    return _box(at.choice([f"{gold}\\{macro}{{ {said}}}", f"\\{macro}{{{said} }}{gold}", f"{gold} {said}",
                           f"\\{macro}{{{said}: }}x={gold}", f"{gold}\\quad(\\{macro}{{{said}}})",
                           f"{gold}\\{macro}{{ {{{said}}}}}", f"{gold}_{{\\{macro}{{{said}}}}}"]))  # fmt: skip


def _not_shown(gold: str, at: random.Random) -> str:
    name = at.choice(
        [
            "phantom",
            "hphantom",
            "vphantom",
            "cancel",
            "bcancel",
            "xcancel",
            "sout",
            "st",
            "not",
            "color{white}",
            "textcolor{white}",
            "hcancel",
            "smash{}\\phantom",
            "footnote",
            "tag",
            "label",
            "textst",
            "hidden",
        ]
    )
    inner = gold if at.random() < 0.7 else f"\\text{{{gold}}}"
    return _box(at.choice([f"\\{name}{{{inner}}}", f"\\text{{x}}\\{name}{{{inner}}}", f"{{\\{name}{{{inner}}}}}",
                           f"\\mathrm{{\\{name}{{{gold}}}}}", f"x=\\{name}{{{inner}}}"]))  # fmt: skip


def _unfinished(gold: str, at: random.Random) -> str:
    ends = [
        "\\ldots",
        "...",
        "…",
        "\\dots",
        "\\cdots",
        "?",
        "^T",
        "^{T}",
        "^\\dagger",
        "^*",
        "+",
        "-",
        "\\times",
        "/",
        "\\to",
        "@",
        "^",
        "_",
        "\\text{?}",
        "^{\\text{nd}}",
        "\\text{th}",
        "|_{0}",
        "\\not",
        "\\neq",
        "\\ldots.",
    ]
    return _box(gold + "".join(at.choice(ends) for _ in range(at.randint(1, 3))))


def _recursion(gold: str, at: random.Random) -> str:
    deep = at.randint(40, 180)
    return _box(
        at.choice(
            [
                "+".join(["-1"] * deep),
                "-" * deep + "7",
                "7" + "!" * deep,
                "\\sqrt" * deep + "7",
                "2^" * deep + "7",
                "\\sin" * (deep // 4) + "7",
                "1/" * deep + "7",
                "x_" * deep + "7",
            ]
        )
    )


def _backtracking(gold: str, at: random.Random) -> str:
    size = at.randint(200, 450)
    return _box(
        at.choice(
            [
                "(" * 11 + "7 " * size,
                " " * size * 2 + "7x",
                "7" + ",000" * (size // 2) + "x",
                "\\text{" * 2 + "a " * size,
                "7\\ " * (size // 2),
                "$" * size + "7",
                "\\frac" * (size // 5) + "7",
                "=" * size + "7",
                "\\left(" * 11 + "7\\," * (size // 4),
                "7" + "^\\circ" * (size // 8),
                "a=" * size + "7",
            ]
        )
    )


FAMILIES: dict[str, Callable[[str, random.Random], str]] = {
    "unbalanced braces": _unbalanced, "100,000 characters": _long, "fraction towers": _fraction_tower,
    "power towers": _power_tower, "enormous numbers": _enormous, "foreign digits": _foreign_digits,
    "look-alikes": _look_alikes, "control characters": _control, "lone surrogates": _surrogates,
    "900 boxes": _many_boxes, "code": _code, "nested boxes": _nested, "token soup": _soup, "injections": _injection,
    "open environments": _environments, "parentheses": _parentheses, "thoughts": _thoughts, "several answers": _several,
    "false equations": _equations, "other scales": _scales, "denials": _denials, "not shown": _not_shown,
    "unfinished": _unfinished, "recursion": _recursion, "backtracking": _backtracking,
}  # fmt: skip


def hostile_completions() -> list[Hostile]:
    """Forty of each family; of the boxes and thoughts each tenth ends in the right answer, after all the noise."""
    found = []
    for (name, make), index in product(FAMILIES.items(), range(PER_FAMILY)):
        at = random.Random(f"{name} {index}")
        gold = GOLDS[index % len(GOLDS)] if name not in ("enormous numbers", "power towers") else GOLDS[0]
        right = name in ("900 boxes", "thoughts", "nested boxes") and index % 10 == 0
        found.append(Hostile(name, make(gold, at) + (_box(gold) if right else ""), gold, right))
    return found
