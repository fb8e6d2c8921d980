"""Tests 100 benchmark problems: every gold in twenty forms is right, and a hundred near misses are wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdpg.files import read_json_lines
from sdpg.params import RewardParams
from sdpg.rewards.extraction import is_integer
from sdpg.rewards.verifiers import Status, Verifier

DATA = Path(__file__).parents[3] / "shared" / "data"
SETS = ("aime24", "aime25", "amc23")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark files in {DATA}")

INTEGER_FORMS: dict[str, Callable[[int], str]] = {
    "as it is": lambda n: rf"So the answer is $\boxed{{{n}}}$.",
    "thought first": lambda n: rf"<think>Perhaps \boxed{{{n + 1}}}?</think> No: \boxed{{{n}}} it is.",
    "dollars and spaces": lambda n: rf"\boxed{{ ${n}$ }}",
    "display": lambda n: rf"\boxed{{\[{n}\]}}",
    "leading zeros": lambda n: rf"\boxed{{{'-' if n < 0 else ''}00{abs(n)}}}",
    "decimal point": lambda n: rf"\boxed{{{n}.0}}",
    "full stop": lambda n: rf"\boxed{{{n}.}}",
    "thousands with a comma": lambda n: rf"\boxed{{{n:,}}}",
    "thousands in LaTeX": lambda n: rf"\boxed{{{n:,}}}".replace(",", "{,}"),
    "thousands with a thin space": lambda n: rf"\boxed{{{n:,}}}".replace(",", r"\,"),
    "as text": lambda n: rf"\boxed{{\text{{{n}}}}}",
    "bold": lambda n: rf"\boxed{{\mathbf{{{n}}}}}",
    "box in a box": lambda n: rf"\boxed{{\boxed{{{n}}}}}",
    "with a name": lambda n: rf"\boxed{{m+n={n}}}",
    "with a derivation": lambda n: rf"\boxed{{x = {n - 3} + 3 = {n}}}",
    "with a unit": lambda n: rf"\boxed{{{n}\text{{ cm}}^2}}",
    "fraction": lambda n: rf"\boxed{{\dfrac{{{2 * n}}}{{2}}}}",
    "quotient": lambda n: rf"\boxed{{{3 * n}/3}}",
    "in brackets": lambda n: rf"\boxed{{\left({n}\right)}}",
    "product": lambda n: rf"\boxed{{\displaystyle {n} \cdot 1}}",
}

DEGREE_FORMS = [
    r"\boxed{336^\circ}", r"So $\boxed{336^{\circ}}$.", r"\boxed{336°}", r"\boxed{336º}", r"\boxed{336}",
    r"\boxed{$336 ^\circ$}", r"\boxed{336{}^\circ}", r"\boxed{336\degree}", r"\boxed{336\text{ degrees}}",
    r"\boxed{336 degrees}", r"\boxed{336\,\mathrm{deg}}", r"\boxed{336.0^\circ}", r"\boxed{0336^\circ}",
    r"\boxed{\theta = 336^\circ}", r"\boxed{\angle ABC = 336^\circ}", r"\boxed{\frac{672}{2}^\circ}",
    r"\boxed{180^\circ + 156^\circ}", r"\boxed{\mathbf{336^\circ}}", r"\boxed{(336)^\circ}",
    r"\boxed{\boxed{336^{ \circ }.}}",
]  # fmt: skip

NEAR_MISSES: list[tuple[str, str]] = [
    # off by one, by ten, by a hundred
    ("204", "203"), ("204", "205"), ("204", "194"), ("204", "214"), ("204", "104"), ("1", "0"), ("-1", "0"),
    ("-1", "-2"),
    # digits swapped, missing, doubled, added
    ("204", "240"), ("204", "024"), ("204", "24"), ("204", "20"), ("204", "04"), ("204", "2204"), ("204", "2044"),
    ("204", "1204"), ("204", "12045"), ("1625", "162"), ("1625", "1652"), ("3159", "3195"), ("11", "1"), ("33", "3"),
    # sign
    ("204", "-204"), ("204", "−204"), ("-1", "1"), ("-1", "+1"), ("-1", "-(-1)"), ("204", r"\pm 204"),
    # decimals and scale
    ("204", "20.4"), ("204", "204.5"), ("204", "2.04"), ("204", "204000"), ("204", "204.0000001"), ("204", "203.999"),
    ("204", r"204\%"), ("204", r"20400\%"), ("204", r"204\text{ thousand}"), ("204", "204k"), ("204", r"204\times 10"),
    ("204", "2040"), ("1625", "1.625"), ("1625", "1 624"), ("204", "0,204"), ("204", r"204\text{ percent}"),
    # units of an angle
    (r"336^\circ", r"336\text{ rad}"), (r"336^\circ", "336'"), (r"336^\circ", r"336\text{ minutes}"),
    (r"336^\circ", "33.6°"), (r"336^\circ", "3360°"), (r"336^\circ", r"24^\circ"), (r"336^\circ", r"696^\circ"),
    (r"336^\circ", r"-336^\circ"), (r"336^\circ", r"336^{\circ}30'"), (r"336^\circ", r"336\pi"), (r"336^\circ", "335°"),
    (r"336^\circ", r"336\text{ turns}"), (r"336^\circ", r"337^\circ"), (r"336^\circ", "336°F"),
    # another base, power, factorial, root
    ("204", "204_8"), ("204", "204_{16}"), ("204", "204^2"), ("204", "204!"), ("204", r"\sqrt{204}"),
    ("204", "204^{-1}"),
    # answer and text of another number
    ("204", r"204\text{, no wait, 205}"), ("204", r"204\text{ or }205"), ("204", r"204\text{ or 205}"),
    ("204", r"204\text{ and maybe }205\text{ cm}"), ("204", r"205\text{, not }204"), ("204", r"\text{not }204"),
    ("204", r"204\text{ m} + 1\text{ m}"), ("204", r"204\text{ ft } 6\text{ in}"), ("204", r"204 \text{ or more}"),
    ("204", r"\text{at least }204"), ("204", r"204\text{ is wrong}"), ("204", r"204\text{ remainder } 1"),
    # two answers, lists, sets, intervals
    ("204", "204, 205"), ("204", "205, 204"), ("204", "204,205,206"), ("204", r"\{204, 205\}"), ("204", "(203, 205)"),
    ("204", "[204, 204]"), ("204", "(204, 204)"), ("204", "204; 205"), ("204", r"204 \cup 205"),
    ("204", "x=204, y=205"), ("204", "204 205"), ("204", "203 1"), ("204", "203(1)"),
    # equations and relations
    ("204", "205=204"), ("204", "204=205"), ("204", "x=205=204"), ("204", "204 = 205 = 204"), ("204", "x > 204"),
    ("204", r"204 \neq 204"), ("204", r"205 \to 204"), ("204", "203 < 204 < 205"),
    # look-alikes
    ("204", "2O4"), ("204", "²⁰⁴"), ("204", "٢٠٤"),
]  # fmt: skip


@pytest.fixture(scope="module")
def golds() -> list[str]:
    return [str(row["answer"]) for name in SETS for row in read_json_lines(DATA / f"{name}.jsonl")]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(RewardParams(timeout=20.0)) as shared:
        yield shared


def test_all_100_golds_verify_against_themselves(golds: list[str], verifier: Verifier) -> None:
    assert len(golds) == 100
    verdicts = verifier.score([rf"\boxed{{{gold}}}" for gold in golds], golds, [False] * 100)
    assert [verdict.status for verdict in verdicts] == [Status.CORRECT] * 100


def test_all_100_golds_are_right_in_20_forms(golds: list[str], verifier: Verifier) -> None:
    assert len(INTEGER_FORMS) == len(DEGREE_FORMS) == 20
    asked = []
    for gold in golds:
        if is_integer(gold):
            asked += [(gold, name, form(int(gold))) for name, form in INTEGER_FORMS.items()]
        else:
            assert gold == r"336^\circ"
            asked += [(gold, form, form) for form in DEGREE_FORMS]
    assert len(asked) == 2000
    verdicts = verifier.score([text for *_, text in asked], [gold for gold, *_ in asked], [False] * 2000)
    refused = [case for case, verdict in zip(asked, verdicts, strict=True) if verdict.status is not Status.CORRECT]
    assert refused == []


def test_none_of_100_near_misses_is_right(golds: list[str], verifier: Verifier) -> None:
    assert len(NEAR_MISSES) == len(set(NEAR_MISSES)) == 100
    assert {gold for gold, _ in NEAR_MISSES} <= set(golds)
    verdicts = verifier.score([rf"\boxed{{{text}}}" for _, text in NEAR_MISSES], [gold for gold, _ in NEAR_MISSES],
                              [False] * 100)  # fmt: skip
    accepted = [case for case, verdict in zip(NEAR_MISSES, verdicts, strict=True) if verdict.status is not Status.WRONG]
    assert accepted == []


def test_every_gold_next_door_is_wrong(golds: list[str], verifier: Verifier) -> None:
    asked = [(gold, rf"\boxed{{{other}}}") for gold in set(golds) for other in set(golds) - {gold}]
    verdicts = verifier.score([text for _, text in asked], [gold for gold, _ in asked], [False] * len(asked))
    assert len(asked) > 5000
    assert {verdict.status for verdict in verdicts} == {Status.WRONG}
