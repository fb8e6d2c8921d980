r"""Reads unpacked LaTeX strictly: tokens, and expressions as trees in which every token has its place.

Nothing is dropped: what the grammar does not know raises :class:`NotUnderstoodError`. A tree is a tuple that begins
with the name of its operation: ``("+", a, b)``, ``("num", Fraction)``, ``("sym", name)``, ``("fun", name, arguments)``.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from sdpg.rewards.answers.tokens import CLOSING, NotUnderstoodError, Token, number

Node = tuple[Any, ...]

MAX_DEPTH = 60
"""Nested operations in an expression; signs and roots nest without brackets."""

_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar partial"
)
_GREEK = frozenset(_LETTERS.split())
_OVER_LETTERS = "overline bar hat widehat vec overrightarrow tilde widetilde dot ddot mathcal mathbb"
_ACCENTS = frozenset(_OVER_LETTERS.split())
_OF_ONE = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp"
ONE_ARGUMENT = frozenset(_OF_ONE.split())
SEVERAL_ARGUMENTS = frozenset({"gcd", "lcm", "max", "min"})
_WORDS = {name: name for name in ONE_ARGUMENT | SEVERAL_ARGUMENTS} | {"sqrt": "sqrt", "pi": "pi"}


class Expression:
    """A parser of one expression: sums, products with and without a sign, powers, roots, functions, large operators.

    Args:
        tokens: what to read.
        units: runs of letters that end the expression rather than being a product of variables.
    """

    def __init__(self, tokens: Sequence[Token], units: "frozenset[str]" = frozenset()):
        self.tokens, self.units = tokens, units
        self.at = self.depth = self.brackets = self.bars = 0
        self.pending = ""
        """Letters of the run at hand that are not read yet."""

    def whole(self) -> Node:
        """Returns the tree of all tokens."""
        node = self.sum()
        if self.here is not None:
            raise NotUnderstoodError(f"{self.here.text!r}")
        return node

    @property
    def here(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _is(self, *texts: str) -> bool:
        return self.here is not None and self.here.text in texts and not self.pending

    def _take(self, *texts: str) -> str:
        if self.here is None or (texts and self.here.text not in texts):
            raise NotUnderstoodError(f"{self.here.text if self.here else 'the end'!r} where {texts[0]!r} has to be")
        self.at += 1
        return self.tokens[self.at - 1].text

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotUnderstoodError("deep nesting")
        node = self._signed()
        while self._is("+", "-"):
            node = (self._take(), node, self._product())
        self.depth -= 1
        return node

    def _signed(self) -> Node:
        sign = 1
        for count in range(4):
            if not self._is("+", "-"):
                break
            if count == 3:
                raise NotUnderstoodError("signs in a row")
            sign *= -1 if self._take() == "-" else 1
        node = self._product()
        return node if sign > 0 else ("neg", node)

    def _product(self) -> Node:
        node = self._factor()
        while True:
            if self._is("*", "/"):
                operation = self._take()
                negative = self._is("-") and bool(self._take())
                right = self._factor()
                node = (operation, node, ("neg", right) if negative else right)
            elif self._is("x", "X") and self._power_of_ten():
                self._take()
                node = ("*", node, self._factor())
            elif self._begins_factor():
                node = ("*", node, self._factor())
            else:
                return node

    def _power_of_ten(self) -> bool:
        after = [token.text for token in self.tokens[self.at + 1 : self.at + 3]]
        return self.at > 0 and self.tokens[self.at - 1].kind == "num" and after == ["10", "^"]

    def _begins_factor(self) -> bool:
        token = self.here
        if token is None:
            return False
        if self.pending:
            return True
        if token.kind == "run" and not self._names_function():
            return not (token.text in self.units and self.brackets == 0)
        if token.kind == "word":
            return self._names_function()
        if token.kind == "cmd":
            name = token.text[1:]
            return (name in _GREEK or name in _ACCENTS or name in ONE_ARGUMENT or name in SEVERAL_ARGUMENTS
                    or name in ("frac", "sqrt", "pi", "binom", "sum", "prod", "lfloor", "lceil"))  # fmt: skip
        if token.kind == "num":
            # Behind a bracket it is a factor; a second number beside the first has no meaning: 203 1.
            return self.tokens[self.at - 1].text in (")", "}")
        if token.text == "(":
            after = self.tokens[self.at + 1 : self.at + 2]
            return not (after and after[0].kind == "word" and after[0].text not in _WORDS)
        return token.text == "{" or (token.text == "|" and not self.bars) or token.kind == "run"

    def _names_function(self) -> bool:
        """Returns whether letters are the name of a function or a constant; min and sec are so before a bracket."""
        token = self.tokens[self.at]
        bracket = any(after.text in ("(", "{", r"\{") for after in self.tokens[self.at + 1 : self.at + 2])
        return token.text in _WORDS and (bracket or token.text not in ("min", "sec", "max", "gcd", "lcm"))

    def _factor(self) -> Node:
        token = self.here
        first = self.at
        node = self._base()
        if token is not None and token.kind == "num" and "." not in token.text:
            node = self._mixed(node)
        counted = False
        while self.here is not None:
            if self._is("^") and not counted:
                self._take()
                if self._is(r"\circ") or (self._is("{") and self._next_is(r"\circ", "}")):
                    self._skip(r"\circ")
                    node = ("deg", node)
                    continue
                node, counted = ("^", node, self._argument(exponent=True)), True
            elif self._is("!"):
                if node[0] == "!":
                    raise NotUnderstoodError("a double factorial")
                self._take()
                node = ("!", node)
            elif self._is("%", r"\%"):
                self._take()
                node = ("pct", node)
            elif self._is("'") and node[0] == "sym" and first < self.at:
                self._take()
                node = ("sym", node[1] + "'")
            else:
                break
        return node

    def _next_is(self, *texts: str) -> bool:
        return [token.text for token in self.tokens[self.at + 1 : self.at + 1 + len(texts)]] == list(texts)

    def _skip(self, name: str) -> None:
        if self._is("{"):
            self.at += 3
        else:
            self._take(name)

    def _mixed(self, whole: Node) -> Node:
        r"""Reads the fraction of a mixed number, 3\frac{1}{2} or 3 1/2; an improper one makes a product."""
        begin = self.at
        if self._is(r"\frac"):
            node = self._base()
        elif self.here is not None and self.here.kind == "num" and self._next_is("/"):
            parts = [token.text for token in self.tokens[self.at : self.at + 3]]
            if len(parts) < 3 or not (parts[0].isdecimal() and parts[2].isdecimal()):
                return whole
            self.at += 3
            node = ("/", ("num", Fraction(parts[0])), ("num", Fraction(parts[2])))
        else:
            return whole
        if all(part[0] == "num" and part[1].denominator == 1 for part in node[1:]) and node[1][1] < node[2][1]:
            return ("+", whole, node)
        self.at = begin
        return whole

    def _base(self) -> Node:
        token = self.here
        if token is None:
            raise NotUnderstoodError("the end where a value has to be")
        if token.kind in ("num", "repeating"):
            self.at += 1
            return ("num", number(token))
        if token.kind in ("run", "word"):
            if not self.pending and self._names_function():
                return self._named(_WORDS[self._take()])
            if token.kind == "word":
                raise NotUnderstoodError(f"the word {token.text!r}")
            return self._letter()
        if token.kind == "cmd":
            name = self._take()[1:]
            if name in _GREEK:
                return self._subscripted(name)
            if name in _ACCENTS:
                return self._subscripted(name + " " + self._letters_of_group())
            return self._named(name)
        if token.text in ("(", "{"):
            return self._group(token.text)
        if token.text == "|":
            self._take()
            bars, self.bars = self.bars, 1
            self.brackets += 1
            node = self.sum()
            self.brackets -= 1
            self.bars = bars
            self._take("|")
            return ("fun", "abs", (node,))
        raise NotUnderstoodError(f"the sign {token.text!r}")

    def _group(self, opening: str) -> Node:
        self._take(opening)
        bars, self.bars = self.bars, 0
        self.brackets += 1
        node = self.sum()
        if opening == "{" and self._is(r"\choose"):
            self._take()
            node = ("fun", "binom", (node, self.sum()))
        self.brackets -= 1
        self.bars = bars
        self._take(CLOSING[opening])
        return node

    def _letter(self) -> Node:
        token = self.tokens[self.at]
        letters = self.pending or token.text
        self.pending = letters[1:]
        self.at += not self.pending
        letter = letters[0]
        if letter in "ei" and not self._is("_"):
            return ("const", letter)
        return self._subscripted(letter)

    def _subscripted(self, name: str) -> Node:
        if not self._is("_"):
            return ("sym", name)
        self._take()
        return ("sym", f"{name}_{self._letters_of_group()}")

    def _letters_of_group(self) -> str:
        if not self._is("{"):
            token = self.here
            if token is None or (token.kind not in ("num", "run", "word") and token.text[1:] not in _GREEK):
                raise NotUnderstoodError("a subscript or an accent")
            return self._take()
        self._take()
        texts = []
        while not self._is("}"):
            token = self.here
            if token is None or (token.kind not in ("num", "run", "word") and token.text[1:] not in _GREEK
                                 and token.text not in (",", "+", "-")):  # fmt: skip
                raise NotUnderstoodError("a subscript or an accent")
            texts.append(self._take())
        self._take("}")
        return "".join(texts)

    def _argument(self, exponent: bool = False) -> Node:
        """Reads a command's argument: a group, or what stands for one; one digit, but a whole number of exponents."""
        token = self.here
        if token is None:
            raise NotUnderstoodError("the end where an argument has to be")
        if token.text == "{":
            return self._group("{")
        if exponent and self._is("-", "+"):
            sign = self._take()
            if self.here is None or self.here.kind != "num":
                raise NotUnderstoodError("the exponent " + repr(sign))
            return ("neg", self._base()) if sign == "-" else self._base()
        if token.kind == "num" and not exponent and token.text.isdecimal() and len(token.text) > 1:
            rest = Token("num", token.text[1:])
            self.tokens = [*self.tokens[: self.at], Token("num", token.text[0]), rest, *self.tokens[self.at + 1 :]]
        return self._base()

    def _named(self, name: str) -> Node:
        if name in ("pi", "infty"):
            return ("const", name)
        if name == "frac":
            return ("/", self._argument(), self._argument())
        if name == "binom":
            return ("fun", "binom", (self._argument(), self._argument()))
        if name == "sqrt":
            return self._root()
        if name in ("lfloor", "lceil"):
            self.brackets += 1
            node = self.sum()
            self.brackets -= 1
            self._take(CLOSING["\\" + name])
            return ("fun", "floor" if name == "lfloor" else "ceil", (node,))
        if name in SEVERAL_ARGUMENTS:
            return ("fun", name, self._arguments())
        if name in ONE_ARGUMENT:
            return self._function(name)
        if name in ("sum", "prod"):
            return self._large(name)
        raise NotUnderstoodError(f"the command {name!r}")

    def _root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self._is("["):
            self._take()
            degree = self.sum()
            self._take("]")
        # Without braces a whole number is meant, and what round brackets hold.
        return ("root", self._argument(exponent=True), degree)

    def _arguments(self) -> tuple[Node, ...]:
        opening = self._take("(", "{", r"\{")
        found = [self.sum()]
        while self._is(","):
            self._take()
            found.append(self.sum())
        self._take(CLOSING[opening])
        return tuple(found)

    def _function(self, name: str) -> Node:
        base = None
        power = None
        for _ in range(2):
            if self._is("_") and name == "log" and base is None:
                self._take()
                base = self._argument(exponent=True)
            elif self._is("^") and power is None:
                self._take()
                power = self._argument(exponent=True)
        if self._is("("):
            argument = self._group("(")
        else:
            argument = self._factor()
            while self._begins_factor() and not (self.here and self.here.text.lstrip("\\") in ONE_ARGUMENT):
                argument = ("*", argument, self._factor())
        if power == ("neg", ("num", Fraction(1))):
            if "arc" + name not in ONE_ARGUMENT:
                raise NotUnderstoodError(f"the inverse of {name}")
            name, power = "arc" + name, None
        node = ("fun", name, (argument, base) if base else (argument,))
        return ("^", node, power) if power else node

    def _large(self, name: str) -> Node:
        self._take("_")
        self._take("{")
        index = self.here
        if index is None or index.kind != "run" or len(index.text) != 1:
            raise NotUnderstoodError("the index of a sum")
        self._take()
        self._take("=")
        low = self.sum()
        self._take("}")
        self._take("^")
        return (name, index.text, low, self._argument(exponent=True), self._product())


def symbols(node: Node) -> frozenset[str]:
    """Returns the free variables of a tree."""
    if node[0] == "sym":
        return frozenset({node[1]})
    if node[0] in ("sum", "prod"):
        return symbols(node[2]) | symbols(node[3]) | (symbols(node[4]) - {node[1]})
    parts = node[2] if node[0] == "fun" else node[1:]
    return frozenset().union(*(symbols(part) for part in parts if isinstance(part, tuple)))
