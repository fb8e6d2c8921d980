"""Shows LaTeX in prompts and completions as formulas, while everything else stays text.

The text comes from models and data, and so may be anything. A formula is rendered only if all of its commands are in a
list of mathematical ones: none of them defines others, loads, links, or draws beyond its place. What is not rendered is
shown as it stands.
"""

from collections.abc import Iterator
import re

from app import ui

LONGEST = 2_000
"""The characters of a formula beyond which it is shown as text."""
MOST = 400
"""The number of formulas of a text beyond which the rest is shown as text."""
_FORMULA = re.compile(
    r"\$\$(?P<dollars>[^$]+)\$\$"
    r"|\\\[(?P<square>.+?)\\\]"
    r"|\\\((?P<round>.+?)\\\)"
    # As in Pandoc: no blank inside a dollar, no digit after the second one, so that prices are none.
    r"|(?<![\\$\w])\$(?P<dollar>(?=\S)[^$\n]*(?:\n[^$\n]+)?(?<=[^\s\\]))\$(?!\d)"
    r"|(?P<boxed>\\boxed\s*\{)",
    re.DOTALL,
)
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_SIGNS = set("{}|,;:!% &#_\\")
_NAMES = set(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi varpi rho varrho
    sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
    frac dfrac tfrac cfrac binom dbinom tbinom sqrt sum prod int iint iiint oint coprod bigcup bigcap bigoplus bigotimes
    lim limsup liminf max min sup inf arg det dim deg gcd ker hom exp log ln lg sin cos tan cot sec csc arcsin arccos
    arctan sinh cosh tanh coth Pr mod bmod pmod pod operatorname
    cdot cdots ldots dots dotsb dotsc vdots ddots times div pm mp ast star circ bullet oplus ominus otimes oslash odot
    cap cup sqcap sqcup uplus setminus wedge vee land lor lnot neg wr amalg
    le leq leqslant ge geq geqslant ne neq equiv approx sim simeq cong propto prec succ preceq succeq ll gg asymp doteq
    subset subseteq subsetneq supset supseteq supsetneq in ni notin mid nmid parallel perp vdash models not nsubseteq
    to gets mapsto implies impliedby iff rightarrow leftarrow leftrightarrow Rightarrow Leftarrow Leftrightarrow
    longrightarrow longleftarrow Longrightarrow Longleftrightarrow uparrow downarrow nearrow searrow hookrightarrow
    forall exists nexists emptyset varnothing infty partial nabla angle measuredangle triangle square Box diamond
    prime degree hbar ell Re Im aleph complement therefore because blacksquare checkmark
    left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle langle rangle lfloor rfloor lceil
    rceil lvert rvert lVert rVert vert Vert lbrace rbrace lbrack rbrack backslash
    text textbf textit textrm mathrm mathbf mathit mathsf mathtt mathbb mathcal mathfrak mathscr boldsymbol bm
    hat widehat bar overline underline vec tilde widetilde dot ddot check acute grave breve overrightarrow overleftarrow
    overbrace underbrace overset underset stackrel xrightarrow xleftarrow substack boxed cancel bcancel xcancel
    displaystyle textstyle limits nolimits quad qquad begin end tag hline
    """.split()  # noqa: SIM905
)
"""The commands of formulas that are rendered."""
ENVIRONMENTS = ("aligned", "align", "align*", "gathered", "cases", "matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix",
                "Vmatrix", "array", "split", "equation", "equation*")  # fmt: skip
_GAP = re.compile(r"\\\\\s*\*?\s*\[")  # a line break with a distance, which may be any
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{([^}]*)\}")


def is_formula(text: str) -> bool:
    """Says whether a text is a formula that may be rendered."""
    if not text.strip() or len(text) > LONGEST or "$" in text or "`" in text or ui.printable(text) != text:
        return False
    if any(name not in _NAMES and name not in _SIGNS for name in _COMMAND.findall(text)):
        return False
    if _GAP.search(text) or any(name not in ENVIRONMENTS for name in _ENVIRONMENT.findall(text)):
        return False
    depth = 0
    for sign in re.sub(r"\\.", "", text, flags=re.DOTALL):
        depth += (sign == "{") - (sign == "}")
        if not 0 <= depth <= 40:
            return False
    return depth == 0


def parts(text: str) -> Iterator[tuple[str, bool, bool]]:
    """Yields the text in parts: the part, whether it is a formula, and whether that stands on lines of its own."""
    done = found = 0
    for match in _FORMULA.finditer(text):
        if match.start() < done or found >= MOST:
            continue
        kind = match.lastgroup or ""
        end, inside = match.end(), match[kind]
        if kind == "boxed":
            end = closing(text, match.end())
            inside = text[match.start() : end]
        if not is_formula(inside):
            continue
        found += 1
        yield text[done : match.start()], False, False
        yield " ".join(inside.split()), True, kind in ("dollars", "square")
        done = end
    yield text[done:], False, False


def closing(text: str, start: int) -> int:
    """Returns the place after the brace that closes the one before ``start``; ``start`` if none does nearby."""
    depth = 1
    for at in range(start, min(len(text), start + LONGEST)):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return at + 1
    return start


def rendered(text: str) -> str:
    """Returns Markdown that shows the text with its formulas rendered; nothing else in it is markup."""
    shown = []
    for part, formula, alone in parts(text):
        if not formula:
            shown.append(ui.plain(part))
        else:
            shown.append(f"\n\n$$\n{part}\n$$\n\n" if alone else f"${part}$")
    return "".join(shown)
