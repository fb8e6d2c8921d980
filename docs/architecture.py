"""Draws how data flows: `python docs/architecture.py` writes docs/architecture.svg, for light and dark themes."""

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from sdpg.colours import INK, PALETTE

FILE = Path(__file__).with_name("architecture.svg")
WIDTH, HEIGHT = 1240, 842
MARGIN, GAP, COLUMN = 32, 24, 176
"""Six columns stand between the margins."""
ROLES = {"plain": 0, "student": 3, "teacher": 4, "reference": 5}
"""The role of a box → its colour in the palette of the figures."""
PANELS = {"light": ("#f5f6f8", "#ffffff", "#c6cbd3", "#5b616b"), "dark": ("#22262c", "#2b3037", "#4a515b", "#a9b0bb")}
"""Panel, box, line and quiet text, by theme."""


@dataclass(frozen=True)
class Box:
    """A step of the flow: a title, lines of text and the package that holds its code.

    ``note`` stands below the box: what is written there.
    """

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...]
    package: str
    role: str = "plain"
    note: str = ""

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def middle(self) -> int:
        return self.y + self.height // 2

    @property
    def centre(self) -> int:
        return self.x + self.width // 2

    @property
    def bottom(self) -> int:
        return self.y + self.height

    def draw(self) -> list[str]:
        """Returns the box as elements of SVG."""
        drawn = [
            f'<rect class="box" x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="7"/>',
            f'<rect class="{self.role} bar" x="{self.x}" y="{self.y + 9}" width="4" height="{self.height - 18}"/>',
            text(self.x + 15, self.y + 24, self.title, "title"),
        ]
        drawn += [text(self.x + 15, self.y + 43 + 16 * at, line, "line") for at, line in enumerate(self.lines)]
        drawn.append(text(self.x + 15, self.bottom - 11, self.package, "code"))
        if self.note:
            drawn.append(text(self.centre, self.bottom + 19, self.note, "code", "middle"))
        return drawn


def column(at: int) -> int:
    """Returns the left edge of a column."""
    return MARGIN + at * (COLUMN + GAP)


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    """Returns one line of text."""
    placed = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x}" y="{y}"{placed}>{escape(words)}</text>'


def path(*points: tuple[int, int], kind: str = "plain") -> str:
    """Returns an arrow through points, with rounded corners."""
    points = tuple(dict.fromkeys(points))
    steps = [f"M{points[0][0]} {points[0][1]}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        ends = []
        for other in (before, after):
            length = abs(other[0] - corner[0]) + abs(other[1] - corner[1])
            share = min(9, length / 2) / length
            ends.append([round(c + (o - c) * share, 1) for c, o in zip(corner, other, strict=True)])
        steps.append(f"L{ends[0][0]:g} {ends[0][1]:g}Q{corner[0]} {corner[1]} {ends[1][0]:g} {ends[1][1]:g}")
    steps.append(f"L{points[-1][0]} {points[-1][1]}")
    return f'<path class="{kind} flow" d="{"".join(steps)}" marker-end="url(#{kind})"/>'


NAMES: list[Any] = [
    ("check", ("looks at every input", "before any output", "is touched"), "sdpg/params"),
    ("prepare", ("renders both prompts;", "the teacher's holds the", "answer and solution"), "sdpg/problems", "plain",
     "data/prepared"),
    ("base", ("holds the initial policy,", "which is the reference", "policy too"), "sdpg/models", "reference",
     "models/base"),
    ("train", ("runs Algorithm 1 for", "each method and seed"), "sdpg/training", "student", "runs/<method>-<seed>"),
    ("evaluate", ("samples final policies", "on the benchmarks"), "sdpg/evaluation", "plain", "evaluations/"),
    ("tabulate", ("computes tables with", "intervals, claims and", "the report"), "sdpg/results", "plain",
     "reports/report.html"),
]  # fmt: skip
STAGES = [Box(column(at), 96, COLUMN, 112, *words) for at, words in enumerate(NAMES)]

SAMPLE = Box(46, 392, 160, 112, "Rollouts", ("The student samples", "G responses for each", "prompt."),
             "sdpg/rollouts", "student")  # fmt: skip
VERIFY = Box(230, 392, 150, 112, "Rewards", ("A verifier compares", "each with the gold", "answer."),
             "sdpg/rewards")  # fmt: skip
CREDIT = Box(404, 392, 166, 112, "Advantages, gate", ("A = (R − mean)/std,", "and m = 1[A > 0]",
             "opens for the teacher"), "sdpg/objective")  # fmt: skip
STUDENT = Box(608, 296, 186, 82, "Student pass", ("log π_θ of each rollout",), "sdpg/models", "student")
TEACHER = Box(608, 394, 186, 108, "Teacher pass", ("the same weights, shown", "answer and solution,", "where m > 0"),
              "sdpg/models", "teacher")  # fmt: skip
REFERENCE = Box(608, 518, 186, 82, "Reference pass", ("log π_ref of each rollout",), "sdpg/models", "reference")
HEAD = Box(832, 380, 164, 136, "Exact head", ("D_KL(π_θ‖q) over the", "whole vocabulary, and", "the log-probs of the",
           "sampled tokens"), "sdpg/models")  # fmt: skip
LOSS = Box(1020, 380, 174, 136, "Loss, Eq. 3.1", ("L = outcome", "  + β(k)·m·D_KL(π_θ‖q)", "  + α·reference term"),
           "sdpg/objective")  # fmt: skip
STEP = (SAMPLE, VERIFY, CREDIT, STUDENT, TEACHER, REFERENCE, HEAD, LOSS)

BESIDE = (
    ("Records", ("Parquet of rollouts,", "digests, MLflow"), "sdpg/records"),
    ("Worked solutions", ("from data or a model,", "checked by the verifier"), "sdpg/solutions"),
    ("Plan", ("memory, hours and disk", "before a run starts"), "sdpg/planning"),
    ("Tuning", ("Optuna, equal budgets,", "on the validation set"), "sdpg/tuning"),
    ("Studies", ("over bases and seeds:", "what holds elsewhere"), "sdpg/replication"),
    ("Reproduction", ("runs made again, bit by", "bit, and carried along"), "sdpg/reproduction"),
)
AROUND = [Box(column(at), 728, COLUMN, 92, *words) for at, words in enumerate(BESIDE)]


def boxes() -> list[Box]:
    """Returns every box of the picture."""
    return [*STAGES, *STEP, *AROUND]


def flows() -> list[str]:
    """Returns the arrows."""
    drawn = [path((one.right + 2, one.middle), (two.x - 3, two.middle)) for one, two in pairwise(STAGES)]
    drawn += [path((a.right + 2, a.middle), (b.x - 3, b.middle)) for a, b in ((SAMPLE, VERIFY), (VERIFY, CREDIT))]
    drawn.append(path((HEAD.right + 2, HEAD.middle), (LOSS.x - 3, LOSS.middle)))
    for box in (STUDENT, TEACHER, REFERENCE):
        turn, arrival = (CREDIT.right + box.x) // 2, HEAD.middle + (box.middle - HEAD.middle) // 4
        away = (box.right + HEAD.x) // 2
        drawn.append(path((CREDIT.right + 2, CREDIT.middle), (turn, CREDIT.middle), (turn, box.middle),
                          (box.x - 3, box.middle), kind=box.role))  # fmt: skip
        drawn.append(path((box.right + 2, box.middle), (away, box.middle), (away, arrival), (HEAD.x - 3, arrival),
                          kind=box.role))  # fmt: skip
    back = 626
    drawn.append(path((LOSS.centre, LOSS.bottom + 2), (LOSS.centre, back), (SAMPLE.centre, back),
                      (SAMPLE.centre, SAMPLE.bottom + 4), kind="student"))  # fmt: skip
    return drawn


def style() -> str:
    """Returns the style sheet of both themes."""

    def colours(theme: str) -> str:
        paper, ink, _ = INK[theme]  # pyright: ignore[reportArgumentType]
        panel, box, line, quiet = PANELS[theme]
        rules = [f".paper{{fill:{paper}}}.panel{{fill:{panel}}}.box{{fill:{box};stroke:{line}}}text{{fill:{ink}}}",
                 f".line,.code,.quiet{{fill:{quiet}}}"]  # fmt: skip
        for role, at in ROLES.items():
            colour = quiet if role == "plain" else PALETTE[theme][at]  # pyright: ignore[reportArgumentType]
            rules.append(f".{role}.bar,.{role}.head{{fill:{colour}}}.{role}.flow{{stroke:{colour}}}")
            rules.append(f".{role}.word{{fill:{colour}}}")
        return "".join(rules)

    return (
        "text{font:13px 'Segoe UI',system-ui,-apple-system,'Helvetica Neue',Arial,sans-serif}"
        ".heading{font-size:17px;font-weight:600}.title{font-size:14.5px;font-weight:600}.line,.quiet{font-size:12px}"
        ".code{font:11.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}.word{font-size:12.5px;font-weight:600}"
        f".flow{{fill:none;stroke-width:1.7}}{colours('light')}@media (prefers-color-scheme:dark){{{colours('dark')}}}"
    )


def picture() -> str:
    """Returns the picture as text of SVG."""
    markers = "".join(
        f'<marker id="{role}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path class="{role} head" d="M0 0.5L7 4L0 7.5Z"/></marker>'
        for role in ROLES
    )
    tip, panel_width = STAGES[3].centre, WIDTH - 2 * MARGIN + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="name">',
        '<title id="name">How data flows: six stages, one training step, and what stands beside them</title>',
        f"<style>{style()}</style><defs>{markers}</defs>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
        f'<rect class="panel" x="{MARGIN - 12}" y="252" width="{panel_width}" height="396" rx="10"/>',
        f'<path class="panel" d="M{tip - 18} 253L{tip} 234L{tip + 18} 253Z"/>',
        text(MARGIN, 42, "From params.yaml to the paper's tables", "heading"),
        text(
            MARGIN, 66, "Stages of dvc.yaml. Each runs again only where its parameters, data or code changed.", "quiet"
        ),
        text(MARGIN + 6, 284, "One training step", "heading"),
        text(MARGIN + 6, 306, "Algorithm 1 of arXiv 2606.04036", "quiet"),
        text(
            (SAMPLE.centre + LOSS.centre) // 2, 619, "AdamW updates θ by the exact gradient", "student word", "middle"
        ),
        text(MARGIN, 686, "Beside the stages", "heading"),
        text(MARGIN, 711, "What is recorded, planned, searched and repeated. The app, app/, reads it all.", "quiet"),
        *flows(),
        *(line for box in boxes() for line in box.draw()),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(picture(), encoding="utf-8")
