"""`sdpg app`: compares runs, and opens any rollout down to the token. `streamlit run app/main.py -- --folder PATH …`"""

from argparse import ArgumentParser
from pathlib import Path
import sys

import streamlit as st

# `python -m streamlit` looks into the working directory first, which may be another checkout with another app.
if sys.path[0] != (project := str(Path(__file__).parents[1])):
    sys.path.insert(0, project)

from app import added, address, mlflow_server, revisions, selection, sources, ui
from sdpg.errors import UserError


class Parser(ArgumentParser):
    """A parser that raises instead of ending the process: the server goes on, and the page says what is wrong."""

    def error(self, message: str) -> None:
        raise ValueError(message)


def options() -> tuple[list[Path], str | None]:
    """Returns the folders given after ``--`` and imported runs, and the MLflow server, if one was given."""
    parser = Parser(prog="streamlit run app/main.py --", add_help=False)
    parser.add_argument("--folder", type=Path, action="append", default=[], help="a project, or a folder of runs")
    parser.add_argument("--mlflow", help="an MLflow server, whose runs are listed")
    given = parser.parse_args(sys.argv[1:])
    server = mlflow_server.check(given.mlflow) if given.mlflow else None
    return [*given.folder, *sources.imported(Path())], server


def other_commits() -> tuple[list[sources.Place], list[sources.Notice]]:
    """Returns the commits and experiments, chosen here or named by the address, whose runs are shown as well."""
    listed = {revision.key: revision for revision in revisions.list_revisions()}
    named, keys, notices = st.query_params.get_all("rev"), {}, []
    for rev in dict.fromkeys(named):
        try:
            revision = revisions.find_revision(Path(), rev)
        except UserError as error:
            notices.append(sources.Notice(rev[:80], str(error)))
            continue
        listed.setdefault(revision.key, revision)
        keys[rev] = revision.key
    if (known := [keys[rev] for rev in named if rev in keys]) != named:
        st.query_params["rev"] = known  # a branch moves, and a link should not change with it
    if not listed:
        return [], notices
    with st.popover("Other commits", icon=":material/commit:", type="tertiary"):
        chosen = selection.choose_many(
            "Other commits", list(listed), "rev", shown=lambda key: listed[key].label, placeholder="None",
            help="Runs of other commits and of DVC experiments, read through DVC; nothing is checked out.",
        )  # fmt: skip
    with st.spinner("Reading other commits", show_time=True):
        places, unknown = revisions.open_revisions(Path(), chosen)
    return places, notices + unknown


def links() -> None:
    """Shows links to all pages, which keep the selection."""
    with st.container(horizontal=True, gap="small"):
        for name in selection.PAGES:
            selection.link(name, icon=None)  # all ten stand in one row of 1,024 pixels


def not_shown(notices: list[sources.Notice]) -> None:
    """Shows what could not be read."""
    with st.popover(f"{len(notices)} not shown", icon=":material/warning:", type="tertiary"):
        for notice in notices:
            st.markdown(f"**{ui.plain(notice.path)}** {ui.plain(notice.text)}")


st.set_page_config(page_title="SDPG workbench", page_icon=str(Path(__file__).parent / "icon.svg"), layout="wide")
st.html(Path(__file__).parent / "components" / "page.css")
if reached := address.reachable_from_elsewhere():
    # A run's prompts and answers are nobody else's business, and the pages ask no one who they are.
    st.error(ui.plain(f"The app listens on {', '.join(reached)}, which other machines can reach, so it shows nothing. "
                      "Start it without an address, or with --server.address=127.0.0.1; from another machine, forward "
                      "the port: ssh -L 8501:127.0.0.1:8501 HOST"))  # fmt: skip
    st.stop()
pages = {
    name: st.Page(selection.view(name), title=title, icon=icon, url_path=name, default=name == "overview")
    for name, (title, icon) in selection.PAGES.items()
}
page = st.navigation(list(pages.values()), position="hidden")
selection.begin()
try:
    folders, server = options()
except ValueError as error:
    st.error(ui.plain(f"{error}: the options after -- are --folder PATH, once per folder, and --mlflow ADDRESS"))
    st.stop()
bar = st.container(horizontal=True, vertical_alignment="center", key="bar")
with bar:
    navigation = st.empty()
    with navigation:
        links()
    selection.follow()
    places, unknown = other_commits()
    more, st.session_state["_mlflow"] = added.added(server)
found = st.session_state["_found"] = sources.discover(Path(), [*folders, *more], places)
found.notices.extend(unknown)
if found.notices:
    with bar:
        not_shown(found.notices)
lacking = st.empty()
if found.only_sample:
    st.info(
        "There are no runs here yet. This is a **sample**, made by a real run of the tiny profile and bundled with the "
        "app. `sdpg repro` makes your own runs in minutes.",
        icon=":material/science:",
    )
try:
    page.run()
finally:
    # Only a drawn page says what it shows of the selection, which is what the links carry on.
    with navigation:
        links()
    if said := selection.unknown(run=found.runs):
        lacking.warning("  \n".join(map(ui.plain, said)), icon=":material/link_off:")
