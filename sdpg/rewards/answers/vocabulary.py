r"""Words that may stand beside a value or in a name before an equals sign, and words that take an answer back.

No list of denials is ever complete, so what may stand is listed, and whatever the gold answer itself holds may stand
too.
"""

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
    erg dyne angstrom parsec gauss steradian solarmass
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
    there total altogether all on at by with its this that it only long wide high deep tall old over
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
DENIALS = frozenset(_DENIALS.split())
"""Words that take back what stands beside them; a name before an equals sign may not hold them either."""
SAID = frozenset(_SAID.split())
"""Words that lead to a value or follow its unit, and say nothing."""
COUNTED = {word + end: word for word in (_UNITS + _COUNTED).split() for end in ("es", "s", "")}
"""Units, and nouns for what problems count, in both numbers, with the noun of which each is a form."""
WORDS = SAID | COUNTED.keys() | frozenset(_FUNCTIONS.split())
"""Words in lower case that may stand beside a value or in a name."""
NAMES = frozenset({"and", "or", "both", "respectively", "where"}) | {
    word + end for word in _NAMES.split() for end in ("", "s", "es")
}
"""Words of which, beside :data:`WORDS`, a name before an equals sign may be made."""
CHANGES = frozenset(_CHANGES.split())
"""Words that make another number of the name behind them: ``\\text{half of }x = 102`` does not say that x is 204."""

_OPERATORS = """
    frac sqrt cdot times sum prod lim max min sup gcd lcm log ln exp sin cos tan cot sec csc arcsin arccos arctan binom
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell R N Z Q C hbar partial nabla int infty circ angle triangle
    square parallel perp overline bar hat widehat vec tilde dot overrightarrow ldots vdots to rightarrow mapsto implies
    therefore because Pr forall exists in subset subseteq cup cap le ge ne approx equiv pmod bmod mod pm mp lfloor
    rfloor lceil rceil langle rangle begin end text mathcal mathbb mathscr star ast lVert rVert Vert sim cong colon
    underbrace oplus otimes
"""
OPERATORS = frozenset(_OPERATORS.split())
"""Commands that a name before an equals sign may hold."""
