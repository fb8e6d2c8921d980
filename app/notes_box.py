"""The box in which a reader writes a note and tags on a run or a rollout."""

import streamlit as st

from app import notes, ui
from app.notes import Place
from app.sources import RunEntry
from sdpg.errors import UserError


def show(run: RunEntry, place: Place | None = None) -> None:
    """Shows the note and the tags on a run or on one of its rollouts, and a button behind which they are written."""
    try:
        note = notes.read(run).get(notes.key_of(run, place), notes.Note())
    except UserError as error:
        st.error(ui.plain(error), icon=":material/warning:")
        return
    name = notes.key_of(run, place)
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.popover("Note" if note == notes.Note() else "Change the note", icon=":material/sticky_note_2:"):
            write(run, place, note, name)
        if note.tags:
            st.markdown(" ".join(f":blue-badge[{ui.plain(tag)}]" for tag in note.tags), width="content")
        if note.text:
            st.markdown(ui.plain(note.text))
        if note != notes.Note() and not note.is_of(run):
            st.caption(f"Written on {note.changed[:10]}, on an earlier run in this folder.")


def write(run: RunEntry, place: Place | None, note: notes.Note, name: str) -> None:
    """Shows the form that writes the note."""
    if notes.file_of(run) is None:
        ui.empty("Notes are kept for finished runs in folders of this disk.")
        return

    def save() -> None:
        try:
            tags = notes.parse_tags(st.session_state[f"tags_{name}"])
            notes.write(run, place, st.session_state[f"note_{name}"], tags)
        except UserError as error:
            st.session_state["_note_failed"] = str(error)

    with st.form(f"form_{name}", border=False):
        st.text_area("Note", note.text, key=f"note_{name}", max_chars=notes.LONGEST, height=120)
        st.text_input("Tags, with commas between them", ", ".join(note.tags), key=f"tags_{name}")
        st.form_submit_button("Keep", on_click=save)
    if failed := st.session_state.pop("_note_failed", None):
        st.error(ui.plain(failed), icon=":material/warning:")
    st.caption(ui.plain(f"Kept in {notes.file_of(run)}."))
