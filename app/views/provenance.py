"""The Provenance page: what a run depends on, and how to make it again."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, mlflow_link, notes_box, run_rows, selection, ui
from app.provenance_files import commands, leaves, params_yaml, sizes, verifier
from app.sources import RunEntry
from sdpg.records.manifest import NAME

SYSTEM = {
    "cpu_utilization_percentage": "CPU (%)",
    "system_memory_usage_megabytes": "Memory in use (MB)",
    "gpu_0_utilization_percentage": "GPU 0 (%)",
    "gpu_0_memory_usage_megabytes": "GPU 0 memory (MB)",
    "disk_usage_megabytes": "Disk in use (MB)",
    "network_receive_megabytes": "Network, received (MB)",
}


def header(run: RunEntry) -> None:
    """Shows the facts that tell runs apart, and links to the run's other pages."""
    git = run.config.get("git") or {}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{ui.plain(run.title)}**")
        st.markdown(f":gray-badge[{ui.plain(run.kind_label)}]")
        if git.get("dirty"):
            st.markdown(":orange-badge[:material/edit: uncommitted changes]")
        elif git.get("dirty") is False:
            st.markdown(":green-badge[:material/check: as committed]")
    notes_box.show(run)
    facts = {
        "Commit": git.get("commit"), "Fingerprint": run.config.get("fingerprint"),
        "Code": run.config.get("code"), "Profile": run.params.get("profile"), "Preset": run.params.get("preset"),
        "Verifier": verifier(run), "Found in": run.label_of(""), "Changed since": _changed(run),
    }  # fmt: skip
    st.dataframe(_two_columns(facts), hide_index=True, width="stretch", column_config=_named("What", "Value"))


def _changed(run: RunEntry) -> str | None:
    """Says whether anything tells that the run's files were changed; None for a run that is being made."""
    if run.kind == "in progress":
        return None
    if not run.place.files.exists(f"{run.folder}/{NAME}"):
        return "not known: the run is older than manifests"
    return "each file is compared with the run's manifest when it is read"


def _two_columns(facts: Mapping[str, Any]) -> pd.DataFrame:
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    return pd.DataFrame({"name": list(map(str, known)), "value": [ui.printable(_words(v)) for v in known.values()]})


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _named(first: str, second: str) -> dict[str, Any]:
    return {"name": st.column_config.TextColumn(first, width="small"), "value": st.column_config.TextColumn(second)}


def reproduce(run: RunEntry) -> None:
    """Shows the commands, and the files that they need."""
    st.subheader("Make it again")
    st.code(commands(run), language="bash")
    with st.container(horizontal=True):
        st.download_button("params.yaml, as recorded", lambda: params_yaml(run), "params.yaml", "application/yaml",
                           on_click="ignore", icon=":material/download:", key="save_params")  # fmt: skip
        if diff := run.config.get("diff"):
            text = (str(diff) + "\n").encode("utf-8", "replace")
            st.download_button("changes.diff", text, "changes.diff", "text/x-diff", on_click="ignore",
                               icon=":material/download:", key="save_diff")  # fmt: skip
    if run.kind in ("in progress", "unfinished"):
        st.caption("An interrupted run goes on where it stopped when its command is given again.")


def changes(run: RunEntry) -> None:
    """Shows how the tree differed from its commit."""
    git, diff = run.config.get("git") or {}, run.config.get("diff")
    if diff:
        lines = str(diff).count("\n") + 1
        with st.expander(f"Uncommitted changes, {lines:,} lines", expanded=lines <= 40, icon=":material/difference:"):
            st.code(ui.printable(str(diff)), language="diff", height=420 if lines > 25 else "content")
    elif git.get("dirty"):
        st.info("The tree had changes that were not committed, and what they were was not recorded: the code's digest "
                "tells whether another run had the same.", icon=":material/info:")  # fmt: skip


def parameters(run: RunEntry) -> None:
    """Shows all parameters, with a search."""
    st.subheader("Parameters")
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        wanted = selection.text("Search", "param", placeholder="beta, train.lr, math_verify …")
    with right:
        others = selection.toggle("Other methods too", "other_methods")
    everything = leaves(run.params)
    own = f"methods.{run.method}."
    words = wanted.lower().split()
    shown = [
        (path, value) for path, value in everything
        if (others or not path.startswith("methods.") or path.startswith(own))
        and all(word in f"{path} {value}".lower() for word in words)
    ]  # fmt: skip
    if shown:
        table = pd.DataFrame(
            {"name": [ui.printable(path) for path, _ in shown], "value": [ui.printable(value) for _, value in shown]}
        )
        st.dataframe(table, hide_index=True, width="stretch", height=min(38 + 35 * len(table), 420),
                     column_config=_named("Path", "Value"))  # fmt: skip
        st.caption(f"{len(shown)} of {len(everything)}")
    else:
        ui.empty("No parameter has all of these words.")


def deviations(run: RunEntry) -> None:
    """Shows in which options the run differs from the paper's preset and from that of its public code."""
    rows = run.config.get("deviations")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        return
    preset = ui.printable(str(run.params.get("preset", "")))
    with st.expander(f"Deviations: preset {preset}, {len(rows)} options differ from one of the presets",
                     icon=":material/fork_right:"):  # fmt: skip
        columns = {"id": "#", "path": "Option", "value": "This run", "paper": "Paper", "refcode": "Public code"}
        table = pd.DataFrame(
            [{title: ui.printable(str(row.get(name, ""))) for name, title in columns.items()} for row in rows],
            columns=list(columns.values()),
        )
        st.dataframe(table, hide_index=True, width="stretch", height="content")


def environment(run: RunEntry) -> None:
    """Shows versions, hardware and inputs."""
    columns = st.columns([2, 2, 3])
    sections = (("Versions", "versions", "Package", "Version"), ("Hardware", "hardware", "Part", "What"),
                ("Inputs", "inputs", "Input", "Digest"))  # fmt: skip
    for column, (title, key, first, second) in zip(columns, sections, strict=True):
        with column:
            st.subheader(title)
            facts = run.config.get(key)
            if isinstance(facts, Mapping) and facts:
                st.dataframe(_two_columns(facts), hide_index=True, width="stretch", height="content",
                             column_config=_named(first, second))  # fmt: skip
            else:
                ui.empty("Not recorded.")


def files(run: RunEntry) -> None:
    """Lists the files on disk."""
    st.subheader("Files")
    table = sizes(run)
    number = st.column_config.NumberColumn(format="%,.1f")
    st.dataframe(table, hide_index=True, width="stretch", height="content", column_config={"Kilobytes": number})
    if table["Kilobytes"].isna().to_numpy().any():
        st.caption("No size: in another commit, and not fetched. Weights are never fetched.")


def mlflow(run: RunEntry) -> None:
    """Shows what MLflow recorded of the run, on demand."""
    st.subheader("MLflow")
    if not selection.toggle("Look the run up", "mlflow", help="By its fingerprint, in the store that its parameters "
                            "name. Loading MLflow takes some seconds."):  # fmt: skip
        return
    with st.spinner("Asking MLflow", show_time=True):
        runs = mlflow_link.lookup(run)
    if not runs:
        ui.empty("The store has no run with this fingerprint.")
    for record in runs:
        tracked(record)
    if runs:
        st.caption("Its pages, after `sdpg mlflow` in the project's folder:")
        st.code("sdpg mlflow\n" + "\n".join(ui.printable(record.address) for record in runs), language="bash")


def tracked(each: mlflow_link.Tracked) -> None:
    """Shows one run of MLflow."""
    begun = "" if each.started is None else f"{datetime.fromtimestamp(each.started / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    took = "" if each.started is None or each.ended is None else run_rows.duration((each.ended - each.started) / 1000)
    facts = {"Run": each.id, "Name": each.name, "Status": each.status, "Begun": begun, "Took": took,
             "Metrics": f"{len(each.metrics)}"}  # fmt: skip
    st.dataframe(_two_columns(facts), hide_index=True, width="stretch", column_config=_named("What", "Value"))
    measured = [name for name in SYSTEM if name in set(each.system["metric"])]
    for place, name in zip(ui.grid(len(measured)), measured, strict=True):
        table = each.system[each.system["metric"] == name].assign(series=SYSTEM[name])
        with place:
            st.altair_chart(
                charts.lines(table, charts.styles([SYSTEM[name]]), title=SYSTEM[name], x="seconds", form=",.1f",
                             height=150, points=len(table) < 10), width="stretch"
            )  # fmt: skip


def page() -> None:
    """Shows the Provenance page."""
    st.header("Provenance")
    with ui.guard():
        run = ui.choose_run()
        for part in (header, reproduce, changes, parameters, deviations, environment, files, mlflow):
            with ui.guard():
                part(run)
        selection.link("compare", "Compare it with others")


page()
