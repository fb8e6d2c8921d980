r"""Finds in an answer what is not understood: an answer earns its reward only where every part of it is known.

math-verify reads a value and drops the rest, so ``204\text{ is rejected}``, ``\phantom{204}``, ``204^T`` and
``204\ldots`` are 204 to it. No list of denials is ever complete; so commands, words, signs and exponents are lists of
what may stand in an answer, and whatever the gold answer itself holds may stand there too. Strings only, no parsing.
"""

from collections.abc import Iterator
import re

_DENIALS = """
    not never no none nothing neither nor cannot isn aren wasn doesn don didn won wouldn couldn shouldn ain wrong false
    untrue incorrect invalid rejected reject rejects refuted denied discarded excluded except excluding unless without
    impossible extraneous bogus fake mistaken mistake error erroneous absurd nonsense contradiction contrary opposite
    disproved disproven unproven fails failed lie untenable unlikely maybe perhaps possibly probably guess doubt
    doubtful but than hardly barely unknown undefined spurious inadmissible unacceptable forbidden different suppose
    supposing assume assuming
"""
_UNITS = """
    mm cm dm km nm um ft in yd mi inch foot feet yard mile meter metre centimeter centimetre millimeter millimetre
    kilometer kilometre ha hectare acre ml cl dl liter litre milliliter millilitre gal gallon quart pint cup ounce oz
    tablespoon teaspoon tsp tbsp cc mg kg lb gram kilogram milligram pound ton tonne ms sec second min minute hr hour
    day week month year yr decade century centuries quarter season am pm cent penny pennies dollar usd eur euro gbp
    nickel dime rupee yen yuan mph kmh kph kmph rpm mps hz khz mhz ghz hertz pa kpa bar atm newton joule kj cal kcal
    calorie watt kw mw kwh volt ampere amp ohm coulomb farad tesla kelvin celsius fahrenheit mol mole molar deg degree
    rad radian grad turn revolution rev arcminute arcsecond percent percentage pct bit byte kb mb gb knot ev kev mev au
    ly lightyear decibel db square squared cubic cubed sq cu unit point digit
"""
_COUNTED = """
    way time pair base par child children man men woman women people person student pupil teacher boy girl friend
    player team game match race round lap vote member family families worker farmer guest adult kid couple passenger
    apple orange pear banana lemon mango peach cherry cherries berry berries grape melon egg cookie cake pie pizza
    slice piece candy candies chocolate donut muffin sandwich meal bottle can glass jar box bag basket bucket crate
    carton packet pack package bundle set group row column line page book pencil pen crayon paper sheet card stamp coin
    bill ticket token marble ball bead block brick tile stick toy doll balloon flower rose tree plant leaf leaves seed
    bush animal dog cat horse cow pig sheep goat chicken duck bird fish rabbit mouse mice bug ant bee leg head tail
    wheel car truck bus bike bicycle boat ship train plane trip step stair floor room house window door chair seat
    table bed lamp key shirt sock shoe hat dress ribbon button string rope board pole post fence pipe tank pool hole
    bridge side edge vertex vertices face corner angle triangle rectangle quadrilateral pentagon hexagon polygon circle
    sphere cube prism cylinder region area length width height perimeter circumference volume diagonal chord arc
    diameter radius segment ray path route subset element term number integer value factor divisor multiple prime root
    solution zeros zeroes intersection function permutation combination arrangement sequence outcome case possibility
    possibilities choice option question problem answer item object letter word character symbol code password color
    colour size part share mark score goal tie draw flip toss roll move jump hop more
"""
_SAID = """
    the an final result equals equal exactly is are be so thus hence therefore of per each every for to we get have
    there total altogether all on at by with its this that it only long wide high deep tall old over mod modulo
"""
_NAMES = """
    sum difference ratio rate speed velocity acceleration distance displacement mass weight density pressure force
    energy work power probability chance odds expectation expected mean average median mode range variance standard
    deviation cost price profit loss revenue income salary wage interest principal amount balance tax discount tip
    fee savings budget population age slope intercept gradient coordinate origin midpoint centroid center centre
    focus foci axis surface altitude hypotenuse interior exterior central inscribed order exponent coefficient
    constant leading discriminant determinant trace norm magnitude modulus argument amplitude period frequency phase
    limit integral derivative maximum minimum maximal minimal largest smallest greatest least highest lowest longest
    shortest biggest first second third fourth fifth last next nth common even odd positive nonnegative nonzero real
    rational irrational complex imaginary whole natural distinct unique possible required desired needed total sale
    new old original initial starting remaining rest left same combined overall yearly annual monthly weekly daily
    hourly current expression equation system formula function domain image curve tangent plane space union
    cardinality event count quantity capacity depth thickness proportion fraction numerator denominator expansion
    decimal simplified form red blue green white black yellow purple orange pink brown shaded unshaded big small
    large short tall empty full one ten ans val sol product remainder quotient sample trial draw success successes
    failure two three four five six seven eight nine plus times such among between from into after before during
    inside outside within using used made spent earned sold bought paid saved eaten taken added shared found what
    how many much my your his her their our who works were was has had can will must then since because as money
    amounts
"""
_CHANGES = """
    reciprocal inverse inv negative negation neg opposite complement supplement half halves twice thrice double doubled
    triple tripled treble quadruple rec minus
"""
_FUNCTIONS = """
    pi sqrt sin cos tan cot sec csc log ln exp arcsin arccos arctan sinh cosh tanh gcd lcm max min abs floor ceil det
    rank dim lim mod inf infty infinity circ frac binom choose sum prod dx dy dt sgn arg re im tr var cov
"""
_COMMANDS = """
    quad qquad space enspace thinspace medspace thickspace negthinspace hfill newline displaystyle textstyle scriptstyle
    bf rm it sf tt mathbb mathcal mathscr mathfrak mathnormal
    left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr lparen rparen lbrack rbrack lbrace
    rbrace lvert rvert vert lVert rVert Vert lfloor rfloor lceil rceil langle rangle mid
    frac dfrac tfrac cfrac sqrt cdot times div pm mp ast star circ bullet binom dbinom tbinom choose over sum prod int
    iint iiint oint lim max min sup gcd lcm det dim log ln lg exp sin cos tan cot sec csc arcsin arccos arctan sinh
    cosh tanh mod pmod bmod limits nolimits partial nabla prime degree
    approx approxeq sim simeq cong equiv doteq le leq leqslant ge geq geqslant lt gt in subset subseteq cup cap
    setminus emptyset varnothing infty parallel perp colon
    overline bar hat widehat vec overrightarrow tilde widetilde underline dot ddot mathring
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell Re Im R N Z Q hbar
    angle triangle square
"""
_COMMANDS_IN_NAMES = """
    cdots ldots dots dotsc dotsb vdots to implies iff rightarrow Rightarrow Leftrightarrow leftrightarrow longrightarrow
    Longrightarrow therefore because mapsto Pr forall exists mathop
"""
_MATRICES = "matrix pmatrix bmatrix vmatrix Bmatrix Vmatrix smallmatrix array cases aligned"
DENIALS = frozenset(_DENIALS.split())
"""Words that take back what stands beside them; a name before an equals sign may not hold them either."""
WORDS = frozenset(_SAID.split()) | {
    word + end for words in (_UNITS, _COUNTED, _FUNCTIONS) for word in words.split() for end in ("", "s", "es")
}
"""Words in lower case that may stand beside a value: units, what problems count, what leads to an answer, functions."""
CONNECTIVES = frozenset({"and", "or", "either", "both", "respectively", "where", "when", "if"})
"""Words that may stand in a list or in a relation, but not beside a single number."""
NAMES = frozenset({"and", "or", "both", "respectively", "where"}) | {
    word + end for word in _NAMES.split() for end in ("", "s", "es")
}
"""Words of which, beside :data:`WORDS`, a name before an equals sign may be made."""
LARGE_NUMBERS = frozenset({"dozen", "hundred", "thousand", "million"})
"""Words that may follow digits in a calculation before an equals sign."""
CHANGES = frozenset(_CHANGES.split())
"""Words that make another number of the name behind them: ``\\text{half of }x = 102`` does not say that x is 204."""
UNIT_LETTERS = frozenset("mgshlLNJWVAKCFei")
"""Letters that are units, Euler's number or the imaginary unit."""
_NAMED = frozenset(_COMMANDS.split())
_IN_NAMES = frozenset(_COMMANDS_IN_NAMES.split())
_MARKS = frozenset(",;:!>%${}|\\ &")
_ENVIRONMENTS = frozenset(_MATRICES.split())
_SIGNS = frozenset("+-*/=<>()[]{}^_.,:;|!'\"$%~")
_FOREIGN = frozenset("°º˚−–π×·⋅÷√∞±∓≤≥≈²³¹⁄½¼¾⅓⅔∪∩∈ℝθαβγδλμσφω€£¥₹′″’‘“”…⋯\xa0\u2009")
_TEXT_MACRO = (
    r"text(?:bf|it|rm|normal|sf|tt|sc|up|sl|md)?|emph|mbox|hbox|math(?:rm|bf|it|sf|tt)|operatorname\*?|"
    r"bm|boldsymbol|pmb"
)
_TOKENS = re.compile(
    r"\\(?:begin|end)\s*\{\s*(?P<environment>[^{}]*?)\s*\}(?:\s*\{[lcr|\s]*\})?"
    r"|\\h(?:space|skip)\*?\s*\{[^{}]*\}"
    rf"|\\(?:{_TEXT_MACRO})(?![a-zA-Z])\s*(?:\{{(?P<text>(?:[^{{}}]|\{{[^{{}}]*\}})*)\}}|(?=\{{|\\|[0-9]))"
    r"|\\(?P<command>[a-zA-Z]+|.)"
    r"|(?P<letters>[a-zA-Z]+)"
    r"|(?P<sign>[^\s0-9])",
    re.DOTALL,
)
_EXPONENT = re.compile(
    rf"\^\s*\{{?(?:\s|\\[ ,;:!])*(?P<letter>[a-zA-Z*+-](?=\s*\}}|\s*$|[^a-zA-Z0-9\\{{(])|[a-zA-Z]+|"
    rf"\\(?:{_TEXT_MACRO})(?![a-zA-Z])|"
    r"\\(?:top|intercal|dagger|ddagger|ast|star|complement|perp|bullet)(?![a-zA-Z]))"
)
_DOTS = re.compile(r"\.\s*\.|…|⋯|\\(?:[lcv]?dots[a-z]?)(?![a-zA-Z])")
_DERIVED = re.compile(
    r"\{\s*(?:(?:the|an?)\s+)?(?P<what>(?:square|cube)(?:\s+root)?|quarter|multiple|factor|divisor)s?\s+of(?![a-z])",
    re.IGNORECASE,
)
_PROPER = re.compile(r"\{\s*([A-Z][a-z]+)\s*\}|(?<![a-zA-Z])([A-Z][a-z]+)(?=['’])")
"""The name of a person or a thing: a capitalised word that is a whole text, or that has an apostrophe."""
_LARGE = re.compile(r"\\(?:sum|prod|i{0,3}nt|oint|lim|max|min|sup|binom)(?![a-zA-Z])")
_EVALUATED = re.compile(r"\|\s*_|\\[rm]?vert\s*_|\\right\s*\|\s*_")


def not_understood(gold: str, names: list[str], last: str, tail: str, number: bool) -> str | None:
    """Returns what of an answer is not understood, or ``None``.

    Args:
        gold: the gold answer, normalised.
        names: what stands before the answer's last equals sign: letters, names and calculations.
        last: what stands behind it.
        tail: the approximation that follows, if any.
        number: whether the gold answer is a single number.
    """
    known = _Known(gold, number)
    for side in names:
        if reason := known.reason(side, name=True):
            return reason
    if not _DOTS.search(gold) and _DOTS.search(last):
        return "dots that stand for what is not written"
    if _EVALUATED.search(last) and not _EVALUATED.search(gold):
        return "a bar with a subscript"
    large = bool(_LARGE.search(last))
    for match in _EXPONENT.finditer(last):
        letter = match["letter"]
        if letter not in ("e", "i") and letter not in gold and not (large and letter.isalpha()):
            return f"the exponent {letter!r}"
    if number and not large and re.search(r"\\infty|∞", last) and not re.search(r"\\infty|∞", gold):
        return "infinity beside a number"
    return known.reason(last, name=False, large=large) or known.reason(tail, name=False, large=True)


class _Known:
    """What a gold answer allows in an answer beside the lists."""

    def __init__(self, gold: str, number: bool):
        self.number = number
        self.words: set[str] = set()
        self.commands: set[str] = set()
        self.signs: set[str] = set()
        for kind, token in _tokens(gold):
            if kind in ("word", "letters"):
                self.words.add(token.lower())
            else:
                (self.commands if kind == "command" else self.signs).add(token)
        self.free: set[str] = set()
        """Words that the side at hand may hold, as it is a name: proper names, large numbers."""
        self.letters = set(re.sub(r"\\[a-zA-Z]+", "", gold).lower())

    def reason(self, side: str, name: bool, large: bool = False) -> str | None:
        if name and (derived := _DERIVED.search(side)):
            return f"the name {derived['what'].lower()!r} of something"
        self.free = {word for match in _PROPER.findall(side) for word in match} if name else set()
        if name and re.search(r"[0-9]", side):
            self.free |= LARGE_NUMBERS
        matrix = r"\begin" in side
        for kind, token in _tokens(side if matrix else re.sub(r"\\\\(?=[a-zA-Z])", r"\\", side)):
            if kind == "environment":
                understood = token in _ENVIRONMENTS
            elif kind == "command":
                free = (name or large) and token in _IN_NAMES
                understood = free or token in _NAMED or token in _MARKS or token in self.commands
            elif kind == "sign":
                understood = token in _SIGNS or token in _FOREIGN or token in self.signs or (matrix and token == "&")
            else:
                understood = self._knows(token, kind == "letters", name, large)
            if not understood:
                return f"the {'word' if kind in ('word', 'letters') else kind} {token!r}"
        return None

    def _knows(self, word: str, bare: bool, name: bool, large: bool) -> bool:
        small = word.lower()
        if small in self.words:
            return True
        # Capitals side by side are points or variables; a text in capitals is a text.
        if small in DENIALS and not (bare and (word.isupper() or len(word) < 3)):
            return False
        if small in WORDS or (not self.number and small in CONNECTIVES):
            return True
        if name:
            if small in NAMES or len(word) == 1 or (bare and word.isupper()):
                return True
            # Short runs of letters are products of variables.
            return (word in self.free or (bare and len(word) <= 3)) and small not in CHANGES
        if len(word) == 1:
            return word in UNIT_LETTERS or small in self.letters or (bare and (large or not self.number))
        return bare and not self.number and set(small) <= self.letters


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yields each environment, command, run of letters, word of a text and sign; no digits and no spaces."""
    for match in _TOKENS.finditer(text):
        kind = match.lastgroup
        if kind == "text":
            yield from (("word" if k == "letters" else k, token) for k, token in _tokens(match["text"]))
        elif kind:
            yield kind, match[kind]
