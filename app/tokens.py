"""The token strip of a rollout: its data, how a page mounts it, and the same strip as one HTML file.

The text of a record goes to the browser as JSON and onto the page as text; components/strip.js never makes it markup.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import hashlib
from html import escape
import json
import math
from pathlib import Path
from typing import Any

import streamlit as st

from app import differences, ui
from app.signals import Reading, number
from sdpg.records.schemas import TOP_TOKENS

COMPONENTS = Path(__file__).parent / "components"
MOST_TOKENS = 32_768
MOST_TOKEN_CHARACTERS = 2_000
MOST_TEXT_CHARACTERS = 20_000
"""The number of characters beyond which text is cut on the page, which says so; downloads hold all of it."""
VERDICTS = {"correct": "✓ correct", "wrong": "✕ wrong", "no_answer": "∅ no answer", "truncated": "✂ truncated",
            "timeout": "◷ timeout"}  # fmt: skip


ORIGINS = {"answer_and_solution": "answer and solution", "answer": "answer", "sibling": "correct response",
           "wrong_sibling": "wrong response", "feedback": "verdict on this response",
           "contrast": "wrong hint"}  # fmt: skip
"""What the title of a privileged prompt says of its hint."""


def _source(name: str) -> str:
    return (COMPONENTS / name).read_text(encoding="utf-8")


_strip = st.components.v2.component(
    "sdpg_token_strip",
    html='<div class="strip"></div>',
    css=_source("strip.css"),
    js=_source("strip.js") + _source("mount.js"),
)


def cut(text: str, most: int) -> str:
    """Returns text in a form that can be shown, cut to the length that a page can hold."""
    if len(text) <= most:
        return ui.printable(text)
    return f"{ui.printable(text[:most])} … {len(text) - most:,} more characters"


def _clean(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _signal(reading: Reading) -> dict[str, Any]:
    signal, values = reading.signal, reading.values
    if isinstance(values, list):
        shown: Any = [_clean(value) for value in values[:MOST_TOKENS]]
    else:
        shown = None if values is None else _clean(values)
    scale = signal.scale
    return {
        "key": signal.key, "label": signal.label, "unit": signal.unit, "formula": signal.formula,
        "derived": signal.derived, "low": scale.low, "centre": scale.centre, "high": scale.high, "ends": scale.ends(),
        "values": shown, "reason": reading.reason, "note": reading.note,
    }  # fmt: skip


def strip_data(
    row: Mapping[str, Any],
    readings: Sequence[Reading],
    signal: str,
    key: str,
    *,
    token: int | None = None,
    differing: Sequence[bool] | None = None,
    prompt: bool = True,
    distils: bool = True,
) -> dict[str, Any]:
    """Returns the data that the strip needs of a rollout.

    Args:
        row: a row of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`.
        readings: the rollout's signals.
        signal: the key of the signal that gives the colours.
        key: the key of the rollout; a strip that gets the same key again keeps its scroll position.
        token: the index of the selected token.
        differing: per token, whether to mark it as different from another rollout's.
        prompt: whether the student's prompt stands before the completion.
        distils: whether the method distils; if not, no gate keeps anything out.
    """
    count = len(row["tokens"])
    spans = zip(row["tokens"], row["token_starts"], row["token_ends"], strict=True)
    special = [index for index, (text, start, end) in enumerate(spans) if start == end and text]
    gated = distils and row["gate"] == 0
    return {
        "key": key,
        "tokens": [cut(text, MOST_TOKEN_CHARACTERS) for text in row["tokens"][:MOST_TOKENS]],
        "more": f"… {count - MOST_TOKENS:,} more tokens" if count > MOST_TOKENS else None,
        "ids": row["completion_ids"][:MOST_TOKENS],
        "special": special,
        "signals": [_signal(reading) for reading in readings],
        "signal": signal,
        "token": token,
        "prompt": cut(row["student_prompt"] or "", MOST_TEXT_CHARACTERS) if prompt else None,
        "top": top_tokens(row),
        "marked": None if differing is None else [place for place, mark in enumerate(differing[:MOST_TOKENS]) if mark],
        "masks": {
            "gated": "gate closed: not distilled" if gated else None,
            "cut": f"cut off after {row['length']:,} tokens" if row["truncated"] else None,
            "differs": None if differing is None else "not in the other",
        },
    }  # fmt: skip


def top_tokens(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the k most probable tokens of student and teacher at each token; None where they were not recorded."""
    count = min(len(row["tokens"]), MOST_TOKENS)
    found: dict[str, Any] = {}
    for name in TOP_TOKENS:
        texts, logprobs = row.get(name), row.get(f"{name}_logprob")
        if not texts or not logprobs or not count:
            return None
        k = len(texts) // len(row["tokens"])
        found["k"] = k
        found[name.removesuffix("_top")] = {
            "texts": [cut(text or "", 80) for text in texts[: count * k]],
            "logprobs": [_clean(value) for value in logprobs[: count * k]],
        }
    return found


def facts(row: Mapping[str, Any], limit: int | None, distils: bool = True) -> list[list[str]]:
    """Returns name, value and kind of each fact about a whole rollout; ``limit`` is ``rollout.max_tokens``."""
    answer, gold = (None if row[name] is None else cut(row[name], 60) for name in ("extracted_answer", "gold"))
    return [
        ["verdict", VERDICTS.get(row["status"], ui.printable(str(row["status"]))), ""],
        ["rule", cut(row["reason"] or "not recorded", 80), ""],
        ["extracted answer", "none found" if answer is None else answer, "" if answer is None else "mono"],
        ["gold", gold or "–", "mono"],
        ["reward", number(row["reward"]), ""],
        ["advantage", number(row["advantage"]), ""],
        ["gate", ("open" if row["gate"] else "closed") if distils else "no distillation", ""],
        ["length", f"{row['length']:,}" + (f" of at most {limit:,}" if limit else "") + " tokens", ""],
        ["verifier", cut(" ".join(filter(None, (row["verifier"], row["verifier_version"]))) or "not recorded", 60), ""],
    ]


def prompts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the student's prompt beside the teacher's, in parts: text, and whether the student's prompt lacks it.

    The teacher's prompt with a wrong hint comes third, where its method has one.
    """
    student, kind = row["student_prompt"] or "", row.get("hint_kind")
    shown = [
        ("Privileged prompt, which the teacher sees", row["teacher_prompt"], _origin(kind, row.get("hint_sibling")))
    ]
    if contrast := row.get("contrast_prompt"):
        origin = _origin("contrast", row.get("contrast_sibling"))
        if others := row.get("contrast_others"):
            origin += f"; further passes show {', '.join(map(str, others))}"
        shown.append(("Prompt of the teacher's second pass", contrast, origin))
    sides: list[dict[str, Any]] = []
    for title, text, origin in shown:
        left, right = (differences.words((each or "")[:MOST_TEXT_CHARACTERS]) for each in (student, text))
        # Beside a prompt that is not there, nothing is marked.
        difference = differences.difference(left, left if text is None else right)
        if not sides:
            sides.append(_prompt("Student's prompt", student, differences.runs(left, difference.left)))
        sides.append(_prompt(title + origin, text or "", differences.runs(right, difference.right[: len(right)])))
    if kind == "none":
        sides[1]["parts"] = [["no hint: skipped", False]]
    return sides


def _origin(kind: str | None, sibling: int | None) -> str:
    """Returns what a title says of the hint in a prompt; nothing where the record does not tell."""
    name = ORIGINS.get(kind or "", "")
    return "" if not name else f": {name}" + ("" if sibling is None else f" of sibling {sibling}")


def _prompt(title: str, text: str, runs: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    shown: list[list[Any]] = [[ui.printable(part), mark] for part, mark in runs]
    if len(text) > MOST_TEXT_CHARACTERS:
        shown.append([f" … {len(text) - MOST_TEXT_CHARACTERS:,} more characters", False])
    return {"title": title, "parts": shown or [["none", False]]}


def mount(data: Mapping[str, Any], key: str, on_pick: Any = None) -> None:
    """Shows the strip; ``on_pick`` is called with (key of the data, token) when a reader selects a token."""

    def picked() -> None:
        if on_pick and (pick := st.session_state[key].get("picked")):
            on_pick(pick["key"], int(pick["token"]))

    _strip(key=key, data=dict(data), on_picked_change=picked)


def _sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(value: Any) -> str:
    """Returns JSON that can stand in a script element: nothing in it can end the element, or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def standalone(data: Mapping[str, Any], title: str, lines: Sequence[str], completion: str) -> str:
    """Returns one HTML file with the strip, which makes no requests and may run nothing but its own script.

    Args:
        data: the result of :func:`strip_data`, with facts and prompts.
        title: the title of the page.
        lines: the lines below the title.
        completion: the text that is shown where scripts are off.
    """
    style, script = _source("alone.css") + _source("strip.css"), _source("strip.js") + _source("alone.js")
    policy = f"default-src 'none'; style-src {_sha256(style)}; script-src {_sha256(script)}; "
    policy += "base-uri 'none'; form-action 'none'"
    below = "".join(f"<p>{escape(ui.printable(line))}</p>" for line in lines)
    shown = escape(ui.printable(title))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<title>{shown}</title><style>{style}</style></head><body><h1>{shown}</h1>{below}"
        f'<div class="strip"></div><noscript><pre>{escape(ui.printable(completion))}</pre></noscript>'
        f'<script type="application/json" id="data">{embedded({**data, "picker": True})}</script>'
        f"<script>{script}</script></body></html>\n"
    )
