r"""Takes the packaging off an answer, once: what a page shows alike comes out alike. Strings only, no parsing.

Sizes, fonts, colours that can be read, spaces, delimiters and Unicode signs become plain LaTeX with one command for one
meaning. What is not known stays as it is, for the reader to refuse.
"""

import re

from sdpg.rewards.extraction import balanced

_COLOURS = (
    "red|blue|green|cyan|magenta|orange|purple|violet|teal|brown|black|olive|maroon|navy|pink|gray|grey|darkgreen|"
    "darkblue|darkred|ForestGreen|NavyBlue|RoyalBlue|BrickRed"
)
_FRACTIONS = {"½": "12", "⅓": "13", "⅔": "23", "¼": "14", "¾": "34", "⅕": "15", "⅖": "25", "⅗": "35", "⅘": "45",
              "⅙": "16", "⅚": "56", "⅐": "17", "⅛": "18", "⅜": "38", "⅝": "58", "⅞": "78", "⅑": "19"}  # fmt: skip
_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ", _LETTERS.split(), strict=True))
_UNICODE = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {sign: rf"\frac{{{digits[0]}}}{{{digits[1]}}}" for sign, digits in _FRACTIONS.items()}
    | {sign: rf"\{name} " for sign, name in _GREEK.items()}
    | dict.fromkeys("−–‐‑‒", "-")
    | dict.fromkeys("×✕", r"\times ")
    | dict.fromkeys("·⋅∙", r"\cdot ")
    | dict.fromkeys("°º˚", r"^\circ ")
    | dict.fromkeys("\xa0\u2002\u2003\u2005\u2009\u202f\u3000", " ")
    | dict.fromkeys("′’‘", "'")
    | dict.fromkeys("″”“", "''")
    | dict.fromkeys("…⋯", r"\ldots ")
    | {"∛": r"\sqrt[3]", "℃": r"^\circ C", "℉": r"^\circ F", "、": ",", "。": "."}
    | {"ϕ": r"\phi ", "ϵ": r"\epsilon ", "÷": "/", "⁄": "/", "∕": "/", "∞": r"\infty ", "√": r"\sqrt ",
       "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
       "≈": r"\approx ", "≡": r"\equiv ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
       "ℝ": r"\R ", "ℤ": r"\Z ", "ℕ": r"\N ", "ℚ": r"\Q ", "ℂ": r"\C ", "⟨": r"\langle ", "⟩": r"\rangle ",
       "Å": r"\text{angstrom} ", "Ω": r"\Omega ", "µ": r"\mu ",
       "∠": r"\angle ", "△": r"\triangle ", "⇒": r"\implies ", "∴": r"\therefore ", "∣": "|", "（": "(", "）": ")"}
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_SIZES = (
    r"\\(?:(?:left|right|middle)(?![a-zA-Z])\s*\.?|[bB]igg?[lrm]?(?![a-zA-Z])|(?:displaystyle|textstyle|scriptstyle|"
    r"limits|nolimits|tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt|sl|bfseries|itshape|"
    r"mathstrut|strut|relax|noindent)(?![a-zA-Z]))"
)
_SPACES = (
    r"(?<!\\)\\[,;:!>\s]|\\(?:q?quad|space|thinspace|medspace|thickspace|enspace|negthinspace|nobreakspace|hfill|newline)"
    r"(?![a-zA-Z])|\\[hv](?:space|skip)\*?\s*\{[^{}]*\}|\\hskip\s*[0-9.]+\s*(?:em|ex|pt|mm|cm|mu)|~"
)
_FONTS = (
    r"\\(?:mathbf|mathit|mathsf|mathtt|mathnormal|bm|boldsymbol|pmb|mathop|mathord|ensuremath|underline|uline)"
    r"(?![a-zA-Z])"
)
_TEXTS = (
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up|sc|sl|md)|emph|mbox|hbox|mathrm|operatorname\s*\*?)"
    r"(?=\s*\{|\s+[a-zA-Z0-9]|[0-9])"
)
_SAME = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom", "leq": r"\le",
    "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge", "neq": r"\ne", "lt": "<", "gt": ">", "times": "*",
    "cdot": "*", "div": "/", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(",
    "rparen": ")", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "colon": ":", "varnothing": r"\emptyset",
    "dots": r"\ldots", "cdots": r"\ldots", "dotsc": r"\ldots", "dotsb": r"\ldots", "degree": r"^\circ",
    "prime": "'", "approxeq": r"\approx", "simeq": r"\approx", "doteq": r"\approx", "infin": r"\infty",
    "varepsilon": r"\epsilon", "vartheta": r"\theta", "varphi": r"\phi", "Rightarrow": r"\implies",
    "Longrightarrow": r"\implies", "iff": r"\implies", "Leftrightarrow": r"\implies", "pounds": "£", "euro": "€",
    "percent": "%", "ne": r"\ne",
}  # fmt: skip
_STEPS = [
    (r"</?(?:b|strong|i|em|u)>", ""), (r"(?<![a-zA-Z])per\s+cent(?![a-zA-Z])", "percent"),
    # Marks of thousands that can be nothing else. A comma with a space is one where no bracket makes pairs of it.
    (r"(?<![0-9.])[1-9][0-9]{0,2}(?:(?:\{,\}|\\,)[0-9]{3})+(?![0-9])", lambda m: re.sub(r"\D", "", m[0])),
    (rf"\\(?:text)?color\s*\{{\s*(?:{_COLOURS})\s*\}}|\\colorbox\s*\{{\s*(?:yellow|lightgray|white)\s*\}}", ""),
    (r"(\\\\)\[[0-9.]+(?:pt|em|ex|mm|cm)\]", r"\1"), (r"\\(?:mathbb|Bbb)\s*\{?\s*([RZNQC])\s*\}?", r"\\\1 "),
    (r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}"), 
    (r"(?<=\s)!=", r"\\ne "), (r"<=|=<", r"\\le "), (r">=", r"\\ge "),
    (_SIZES, " "), (_SPACES, " "), (_FONTS, " "),
    (r"\\begin\{(?:equation|align(?:ed)?|gather(?:ed)?|math|center)\*?\}", ""),
    (r"\\end\{(?:equation|align(?:ed)?|gather(?:ed)?|math|center)\*?\}", ""),
    (rf"{_TEXTS}\s*([a-zA-Z0-9])", r"\\text{\1}"), (_TEXTS, r"\\text"), (r"\\text\s+\{", r"\\text{"),
    (r"\\(?:AA|angstrom)(?![a-zA-Z])", r"\\text{angstrom}"), (r"\\mu\s*\\text\{\s*", r"\\text{u"),
    (r"(?<=[0-9])\s*\\Omega(?![a-zA-Z])", r"\\text{ohm}"), (r"M_\s*\{?\s*\\odot\s*\}?", r"\\text{solarmass}"),
    (r"(?<![a-zA-Z])\{\s*(\([A-E]\))\s*\}", r"\1"),
    (r"\\text\{([.,;:\s]*)\}", r"\1"), (r"\{([:;,=])\}", r"\1"),
    (r"(?<![a-zA-Z\\])([aApP])\.\s*[mM]\.?(?![a-zA-Z])", lambda m: f"\\text{{{m[1].lower()}m}}"),
    (r"\\text\{\s*([eid])\s*\}", r"\1"), (r"\\text\{\s*E\s*\}(?=[-+]?[0-9])", "e"),
    (r"(?<!\\)\{\s*\}", ""), (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "), (r"\^\s*\{?\s*\\prime\s*\}?", "'"),
    (r"\\(?P<name>[a-zA-Z]+)", lambda m: f"{_SAME[m['name']]} " if m["name"] in _SAME else m[0]),
]  # fmt: skip
_PACKAGING = [(re.compile(pattern), new) for pattern, new in _STEPS]
_SPACED_THOUSANDS = re.compile(r"(?<![0-9.])[1-9][0-9]{0,2}(?:,\\[!,]\s*[0-9]{3})+(?![0-9])")
_DOLLARS = re.compile(r"(?:(?<!\\)|(?<=\\\\))(?:\$|\\[()\[\]])")
_AROUND = re.compile(r"\*\*((?:(?!\*\*).)*)\*\*|`([^`]*)`|(?:\\f?box(?:ed)?\s*)?\{(.*)\}", re.DOTALL)


def unpack(text: str) -> str:
    """Returns an answer without its packaging, as LaTeX with one way to write each thing."""
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # over-escaped, as in JSON
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = _DOLLARS.sub(" ", text.translate(_UNICODE))
    if not re.search(r"[(\[]|\\\{", text):
        text = _SPACED_THOUSANDS.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    for pattern, new in _PACKAGING:
        text = pattern.sub(new, text)
    before = None
    while text != before:
        before = text
        text = re.sub(r"\\+$", "", text.strip()).strip()
        if (match := _AROUND.fullmatch(text)) and balanced(inner := next(filter(None, match.groups()), "")):
            text = inner
        # Several periods stand for what is not written.
        if text.endswith(".") and not re.search(r"(?:\.|dots)\s*\.$", text):
            text = text[:-1]
    return text
