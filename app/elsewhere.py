"""The part of the Overview page that lists the runs of an MLflow server, with curves and artifacts on demand."""

from datetime import UTC, datetime

import pandas as pd
import streamlit as st

from app import charts, mlflow_server, selection, ui

FIRST = 4
"""The number of metrics that are columns of the table without a choice."""


def show(uri: str) -> None:
    """Shows the server's runs; selecting one shows its metrics over steps and its artifacts."""
    st.subheader("Runs of the MLflow server")
    with ui.guard():
        found = mlflow_server.runs(uri)
        if not found:
            ui.empty("The server has no run yet. Training sends its runs there with tracking.uri in params.yaml.")
            return
        metrics = sorted({name for run in found for name in run.metrics if not name.startswith("system/")})
        params = sorted({name for run in found for name in run.params})
        left, right = st.columns(2)
        with left:
            shown = selection.choose_many(
                "Metrics of the server's runs", metrics, "server_metrics", first=metrics[:FIRST]
            )
        with right:
            listed = selection.choose_many("Parameters of the server's runs", params, "server_params")
        table = pd.DataFrame({
            "Run": ui.texts(run.name for run in found), "Experiment": ui.texts(run.experiment for run in found),
            "Status": ui.texts(run.status for run in found),
            "Begun": [begun(run) for run in found],
            **{name: [run.metrics.get(name) for run in found] for name in shown},
            **{f"{name} ": ui.texts(run.params.get(name) for run in found) for name in listed},
        })  # fmt: skip
        ids = [run.id for run in found]
        asked = st.query_params.get("server_run")
        selection.pick_row(table, "server_runs", lambda at: selection.put(server_run=ids[at]), placeholder="–",
                           height="content" if len(table) <= 9 else 360,
                           chosen=ids.index(asked) if asked in ids else None)  # fmt: skip
        st.caption(f"{len(found):,} runs, the newest first. Select one for its metrics over steps and its artifacts.")
        if asked in ids:
            one(uri, found[ids.index(asked)], shown)


def begun(run: mlflow_server.ServerRun) -> datetime | None:
    """Returns when a run was begun."""
    return None if run.started is None else datetime.fromtimestamp(run.started / 1000, UTC)


def one(uri: str, run: mlflow_server.ServerRun, metrics: list[str]) -> None:
    """Shows a run's metrics over steps and its artifacts."""
    own = [name for name in metrics if name in run.metrics]
    for place, name in zip(ui.grid(len(own)), own, strict=True):
        with place:
            lines = mlflow_server.history(uri, run.id, name).assign(series=run.name)
            chart = charts.lines(lines, charts.styles([run.name]), title=name, points=len(lines) < 30, form=".4g")
            st.altair_chart(chart, width="stretch")
    files = mlflow_server.artifacts(uri, run.id)
    if len(files):
        files["path"] = ui.texts(files["path"])
        st.dataframe(files, hide_index=True)
