"""Lets a reader add folders of runs and an MLflow server, for as long as the window is open.

What is added stays out of the address: a link must neither open a folder of this machine nor make the app ask a server.
"""

from os.path import expanduser
from pathlib import Path

import streamlit as st

from app import mlflow_server, ui


def added(server: str | None) -> tuple[list[Path], str | None]:
    """Shows the fields; returns the folders and the MLflow server, which is ``server`` where none was added."""
    with st.popover("Add runs", icon=":material/create_new_folder:", type="tertiary"):
        lines = st.text_area(
            "Folders on this machine, one a line", key="_folders", height=80, placeholder="path/to/project",
            help="Projects, folders of run folders, or single runs. They stay until this window is closed; "
            "`--folder` keeps them.",
        )  # fmt: skip
        asked = st.text_input(
            "MLflow server", key="_server", placeholder="http://127.0.0.1:5000",
            help="Its runs are listed on the Overview page. It stays until this window is closed; `--mlflow` keeps it.",
        )  # fmt: skip
        if asked.strip():
            try:
                server = mlflow_server.check(asked.strip())
            except ValueError as error:
                st.error(ui.plain(str(error).removeprefix("--mlflow ")), icon=":material/warning:")
    # Not Path's own expanduser, which raises for a user that is not here.
    folders = [Path(expanduser(line.strip())) for line in lines.splitlines() if line.strip() and "\0" not in line]
    return folders, server
