from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
import re

from matplotlib.figure import Figure
from matplotlib.image import imread
import numpy as np
import pytest

from sdpg.colours import INK, PALETTE, Theme, smooth, smoothing_width
from sdpg.results.figures import curves, drawn, in_dark, legend, tidy
from sdpg.results.report import write_reports
from sdpg.results.runs import Results, read_results
from tests.helpers.fabricated import params_with, write_base, write_run

HOSTILE = "<script>alert('x')</script> & $a_b | [red]"


class Elements(HTMLParser):
    """Tags and the addresses that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data")]


def plan(name: str, step: int, problem: int) -> int:
    return min(4, step // 10 + problem % 2)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    root = tmp_path_factory.mktemp("project")
    write_base(root)
    for method in ("grpo", "sdpg-ufkl"):
        for seed in (0, 1):
            write_run(root, method, seed, plan, config={"hardware": {HOSTILE: HOSTILE}})
    params = params_with(["grpo", "sdpg-ufkl"], [0, 1])
    methods = {**params.methods, "grpo": params.methods["grpo"].model_copy(update={"title": HOSTILE})}
    benchmarks = {**params.data.benchmarks}
    benchmarks["chain-3"] = benchmarks["chain-3"].model_copy(update={"title": HOSTILE})
    data = params.data.model_copy(update={"benchmarks": benchmarks})
    params = params.model_copy(update={"methods": methods, "data": data, "profile": HOSTILE})
    write_reports(params, root)
    return read_results(params, root), root / "reports"


def test_the_page_is_self_contained_and_has_no_scripts(hostile: tuple[Results, Path]) -> None:
    page = Elements()
    page.feed((hostile[1] / "report.html").read_text())
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.loads
    # The one address that is no part of the page is where studies have theirs.
    assert {load for load in page.loads if not load.startswith(("data:image/", "#"))} == {"tune/index.html"}
    assert not re.search(r"url\(|@import", (hostile[1] / "report.html").read_text())


def test_what_comes_from_data_is_escaped(hostile: tuple[Results, Path]) -> None:
    page = (hostile[1] / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; $a_b" in page
    assert "<script" not in (hostile[1] / "curves.svg").read_text()
    assert "<script" not in (hostile[1] / "table.md").read_text()


def test_the_page_holds_every_part_in_order(hostile: tuple[Results, Path]) -> None:
    page = (hostile[1] / "report.html").read_text()
    parts = ["No method improves greedy", "Commit abcdef012345; profile", 'id="table"', 'id="curves"', 'id="final"',
             'id="paired"', 'id="claims"', 'id="paper"', 'id="choices"', 'id="provenance"']  # fmt: skip
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert "prefers-color-scheme: dark" in page


def test_the_figure_is_deterministic_and_undated(hostile: tuple[Results, Path]) -> None:
    results, folder = hostile
    svg = curves(results, "svg")
    assert svg == curves(results, "svg") == (folder / "curves.svg").read_bytes()
    assert b"dc:date" not in svg
    assert curves(results, "png") == (folder / "curves.png").read_bytes()


def test_a_figure_in_dark_is_the_same_drawing_in_the_other_colours() -> None:
    def draw(theme: Theme) -> bytes:
        def two_lines(figure: Figure) -> None:
            panel = figure.subplots()
            for place, colour in enumerate(PALETTE[theme]):
                panel.plot([place, 2], color=colour, label="#ffffff")
            panel.axhspan(0, 1, color=INK[theme][1], alpha=0.2)
            tidy(panel, theme)
            legend(figure, panel)

        return drawn((4, 3), "svg", theme, two_lines)

    assert in_dark(draw("light")) == draw("dark").replace(b"#ffffff", b"#1b1e23") != draw("light")


def test_the_figure_is_drawn(hostile: tuple[Results, Path]) -> None:
    image = imread(BytesIO(curves(hostile[0], "png")))
    assert image.shape[1] == 1800
    # Both methods' colours are there.
    for colour in ((0x4D, 0x4D, 0x4D), (0xD5, 0x5E, 0x00)):
        near = np.abs(image[..., :3] * 255 - colour).max(axis=-1) < 3
        assert near.sum() > 200


def test_smoothing_keeps_lines_straight_and_lengths() -> None:
    line = np.linspace(0, 8, 9, dtype=np.float64)
    assert smooth(line, 3)[1:-1] == pytest.approx(line[1:-1])
    assert len(smooth(line, 5)) == 9
    assert smooth(line, 1).tolist() == line.tolist()
    assert [smoothing_width(steps) for steps in (5, 60, 400)] == [1, 3, 21]


def test_a_run_of_one_step_can_be_reported(tmp_path: Path) -> None:
    write_base(tmp_path)
    for method in ("grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl", "alpha0", "beta0"):
        folder = write_run(tmp_path, method, 0, plan)
        for name, lines in (("curves.csv", 3), ("metrics.csv", 2)):
            path = folder / name
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]).replace("\n10,", "\n1,"))
        (folder / "evaluations" / "step-000010.parquet").rename(folder / "evaluations" / "step-000001.parquet")
    params = params_with(["grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl", "alpha0", "beta0"], [0])
    write_reports(params, tmp_path)
    assert "the runs are shorter than 8 steps" in (tmp_path / "reports" / "table.md").read_text()
