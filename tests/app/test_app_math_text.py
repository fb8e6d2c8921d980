"""Tests which parts of a text are rendered as formulas, and that nothing else in it is markup."""

from pathlib import Path
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import math_text, ui
from app.sources import SAMPLE
from tests.helpers import pages


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        (r"so $x^2+\frac{1}{2}$ is \boxed{12} here", [r"x^2+\frac{1}{2}", r"\boxed{12}"]),
        (r"\boxed{\frac{1}{2}} and \boxed {3}", [r"\boxed{\frac{1}{2}}", r"\boxed {3}"]),
        (r"\(a\) and \[ b \] and $$c$$", ["a", "b", "c"]),
        (
            "$$\\begin{aligned}\n  a &= b \\\\\n  c &= d\n\\end{aligned}$$",
            [r"\begin{aligned} a &= b \\ c &= d \end{aligned}"],
        ),
        (r"$\boxed{7}$", [r"\boxed{7}"]),
        ("it costs $5 and $6, or $7", []),
        (r"\$5\$ and a$b$c", []),
        (r"$x", []),
        (r"\boxed{1", []),
        (r"\(\boxed{1}", [r"\boxed{1}"]),
    ],
)
def test_formulas(text: str, formulas: list[str]) -> None:
    assert [part for part, formula, _ in math_text.parts(text) if formula] == formulas
    rest = "".join(part for part, formula, _ in math_text.parts(text) if not formula)
    assert all(sign in rest or formulas for sign in text)


@pytest.mark.parametrize(
    "inside",
    [
        r"\rule{999em}{999em}", r"\href{javascript:alert(1)}{x}", r"\url{http://evil}", r"\includegraphics{http://evil}",
        r"\htmlClass{stApp}{x}", r"\htmlStyle{position:fixed}{x}", r"\def\x{\x\x}\x", r"\newcommand{\x}{y}\x",
        r"\let\x=y", r"\gdef\frac{x}", r"\kern999em x", r"\hspace{999em}", r"\raisebox{999em}{x}", r"a\\[999em]b",
        r"a\\ *[9em]b",
        r"\color{red}x", r"\Huge x", r"\begin{CD}A\end{CD}", r"\begin{document}", r"\char`a", "a`b`",
        "a\u202eb", "a\x00b", "{" * 50 + "}" * 50, "a}b{", "x" * 3000, r"\verb|x|", r"\message{x}", r"\@foo",
        "\\\n", " ",
    ],
)  # fmt: skip
def test_what_is_no_plain_formula_stays_text(inside: str) -> None:
    for text in (rf"\[{inside}\]", rf"\({inside}\)", rf"\boxed{{{inside}}}", f"$${inside}$$"):
        assert not [
            part for part, formula, _ in math_text.parts(text) if formula and part not in (r"\boxed{ }", r"\boxed{a}")
        ], text


HOSTILE = (r"<script>alert(1)</script> **bold** `code` [x](http://evil) ![x](http://evil) :material/home: :red[x] "
           r"<img src=x onerror=alert(1)> # title www.evil.com a@b.com $a<b$ \(c\) &amp; ~~x~~ | a | b |")  # fmt: skip


def test_outside_of_formulas_nothing_is_markup() -> None:
    shown = math_text.rendered(HOSTILE)
    assert shown.count("$a<b$") == 1 and shown.count("$c$") == 1
    without = shown.replace("$a<b$", "").replace("$c$", "")
    assert without == "".join(
        ui.plain(part) for part, formula, _ in math_text.parts(HOSTILE) if not formula
    )  # fmt: skip
    # Every sign with a meaning in Markdown has a backslash before it.
    assert not re.search(r"(?<!\\)[<>\[\]`*$~|]", without)


def test_all_of_the_text_is_there_once() -> None:
    text = r"a $x$ b \boxed{2} c $$y$$ d \rule{1em}{1em} e"
    again = ""
    for part, formula, _ in math_text.parts(text):
        again += {"x": "$x$", "y": "$$y$$"}.get(part, part) if formula else part
    assert again == text
    many = "$x$ " * (math_text.MOST + 50)
    assert sum(formula for _, formula, _ in math_text.parts(many)) == math_text.MOST
    assert math_text.rendered(many).count("x") == math_text.MOST + 50


def test_the_switch_is_in_the_address_and_shows_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    path = max((tmp_path / "runs/grpo-0/rollouts").iterdir())
    table = pq.read_table(path)
    at = table.schema.get_field_index("completion")
    text = rf"{HOSTILE} and $\frac{{1}}{{2}}$ \boxed{{$x}}"
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array([text] * len(table))), path)
    for page in ("rollouts", "rollout"):
        plain = pages.opened(page, tmp_path, monkeypatch, run="grpo-0")
        assert not plain.exception and not any(r"$\frac{1}{2}$" in each.value for each in plain.markdown)
        plain.toggle(key="math").set_value(True).run()
        assert plain.query_params["math"] in ("true", ["true"]) and not plain.exception
        shown = [each.value for each in plain.markdown if r"$\frac{1}{2}$" in each.value]
        assert len(shown) == (8 if page == "rollouts" else 1) and not any("<script>" in each for each in shown)
