"""The list of tokens on the Rollouts page: which disagree most, and where they stand."""

import pandas as pd
import streamlit as st

from app import selection, store, token_ranking, ui
from app.rollout_list import Query
from app.token_ranking import SIGNALS
from sdpg.params.stored import train_of

MOST = 500
"""The number of tokens that are listed."""
EACH, TEXT = "each place", "by text"
HELP = {
    "disagreement": "log q − log p of the sampled token: teacher less student, in nats",
    "KL to teacher": "D(p‖q) in nats, over the vocabulary",
    "entropy": "of the student's distribution, in nats",
    "loss": "N · ℓ: the token's share of its step's loss, times the step's response tokens",
}


def show(query: Query, chosen: pd.DataFrame) -> None:
    """Shows the tokens of the rollouts that pass, the largest first; selecting one opens it."""
    run = query.runs[0]
    bar = st.columns([5, 3, 3], vertical_alignment="bottom")
    with bar[0]:
        by = selection.segments("Tokens by", tuple(SIGNALS), "rank")
    with bar[1]:
        each = selection.segments("Rows", (EACH, TEXT), "each", label_visibility="collapsed")
    piece = st.query_params.get("piece")
    keys = set(zip(chosen["step"], chosen["group"], chosen["sibling"], strict=True))
    steps = sorted(set(chosen["step"]))
    if each == TEXT and piece is None:
        texts(query, by, keys, steps)
        return
    found = token_ranking.largest(run, steps, by, keys, MOST, piece)
    if piece is not None:
        with bar[2]:
            st.button(f"All tokens but “{ui.plain(shown_text(piece))}”", on_click=lambda: selection.put(piece=None),
                      icon=":material/close:", type="tertiary")  # fmt: skip
    if found.empty:
        nothing(query, by)
        return
    rows = found.to_dict("records")
    table = pd.DataFrame({
        "token": [shown_text(text) for text in found["token"]], "mark": found["mark"], by: found["value"],
        "step": found["step"], "group": found["group"], "sibling": found["sibling"], "place": found["at"] + 1,
        "problem": ui.texts(found["problem"]),
    })  # fmt: skip
    selection.pick_row(
        table, "tokens", lambda at: selection.go(
            "rollout", run=run.id, signal=SIGNALS[by], token=rows[at]["at"],
            **{name: rows[at][name] for name in ("step", "group", "sibling")},
        ), height="content" if len(table) <= 16 else 600,
        column_config={by: st.column_config.NumberColumn(format="%+.3f", help=HELP[by]),
                       "mark": st.column_config.TextColumn(help="EOS: the end of the response; boxed: in its answer")},
    )  # fmt: skip
    st.caption(f"The {len(table):,} tokens with the largest values, whatever their sign. Select one to see it in its "
               "rollout.")  # fmt: skip


def texts(query: Query, by: str, keys: set[tuple[int, int, int]], steps: list[int]) -> None:
    """Shows the texts of tokens by their share of the whole; selecting one lists its places."""
    table = token_ranking.by_text(query.runs[0], steps, by, keys).head(MOST)
    if table.empty:
        nothing(query, by)
        return
    pieces = table["token"].tolist()
    shown = pd.DataFrame({
        "token": [shown_text(text) for text in pieces], "places": table["count"], "mean": table["mean"],
        "mean size": table["size"], "share of all": table["share"],
    })  # fmt: skip
    selection.pick_row(
        shown, "texts", lambda at: selection.put(piece=pieces[at]), height="content" if len(shown) <= 16 else 600,
        column_config={"mean": st.column_config.NumberColumn(format="%+.3f", help=HELP[by]),
                       "mean size": st.column_config.NumberColumn(format="%.3f", help="whatever the sign"),
                       "share of all": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)},
    )  # fmt: skip
    st.caption("Share: of the sum over all tokens of the rollouts listed, whatever the sign. Select a text to see its "
               "places.")  # fmt: skip


def shown_text(text: str) -> str:
    """Returns a token's text as a table can show it: blanks are dots, line ends arrows."""
    return ui.printable(text).replace("\n", "↵").replace(" ", "·") or "◌"


def nothing(query: Query, by: str) -> None:
    """Says why no token has a value."""
    run = query.runs[0]
    recorded = store.index(run)[0]["kl_to_teacher"].notna().any()
    rows = train_of(run.params).record_rows
    if by in ("disagreement", "KL to teacher") and not recorded:
        ui.empty(f"No rollout of {run.name} was scored by the teacher, since train.record_rows is {rows}. Training "
                 "records it with a number above 0.", f"dvc repro train@{run.name}")  # fmt: skip
    else:
        ui.empty("None of the rollouts listed has this value: loosen the filters, or list the whole run.")
