"""Tests notes and tags: kept whole in one file beside the runs, shown, filtered, and never of another run."""

from concurrent.futures import ThreadPoolExecutor
import json
from pathlib import Path
import shutil
from typing import Any

import pytest

from app import notes, rollout_list, sources, store
from app.sources import SAMPLE, RunEntry
from sdpg.errors import UserError
from tests.helpers import pages

PLACE = (60, 1, 5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(SAMPLE, root)
    return root


def run_of(root: Path, name: str = "rlsd-0") -> RunEntry:
    return sources.discover(root).runs[name]


def test_notes_on_runs_and_rollouts_are_kept_apart(root: Path) -> None:
    run, other = run_of(root), run_of(root, "grpo-0")
    notes.write(run, None, " good $x$\n", ("keep", "paper"))
    notes.write(run, PLACE, "", ("odd",))
    notes.write(other, PLACE, "of another run", ())
    assert notes.of_run(run).text == "good $x$" and notes.of_run(run).tags == ("keep", "paper")
    assert {key: note.tags for key, note in notes.of_rollouts(run).items()} == {PLACE: ("odd",)}
    assert notes.of_rollouts(other)[PLACE].text == "of another run" and notes.of_run(other) == notes.Note()
    notes.write(run, PLACE, "", ())
    assert notes.of_rollouts(run) == {} and set(json.loads((root / "runs" / notes.NAME).read_text())) == {
        "runs/rlsd-0", "runs/grpo-0#60/1/5",
    }  # fmt: skip
    assert list(sources.discover(root).runs) == ["grpo-0", "rlsd-0", "sdpg-ufkl-0"]
    assert not sources.discover(root).notices


def test_many_at_once_lose_nothing(root: Path) -> None:
    run = run_of(root)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: notes.write(run, (1, 0, at), f"note {at}", ()), range(60)))
    assert {key[2]: note.text for key, note in notes.of_rollouts(run).items()} == {at: f"note {at}" for at in range(60)}


def test_a_note_on_an_earlier_run_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes.write(run_of(root), None, "best so far", ())
    config = root / "runs/rlsd-0/config.yaml"
    before = notes.fingerprint(run_of(root))
    assert len(before) == 16
    config.write_text(config.read_text().replace(before, before[::-1]))
    assert not notes.of_run(run_of(root)).is_of(run_of(root))
    at = pages.opened("provenance", root, monkeypatch, run="rlsd-0")
    assert not at.exception and any("earlier run" in each.value for each in at.caption)


def test_a_damaged_file_is_told_and_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "runs" / notes.NAME
    path.write_text('{"runs/rlsd-0": {"text": 5')
    with pytest.raises(UserError, match=r"notes.json is damaged.*mend it"):
        notes.write(run_of(root), None, "lost?", ())
    assert path.read_text() == '{"runs/rlsd-0": {"text": 5'
    for page in ("rollouts", "rollout", "provenance", "overview"):
        at = pages.opened(page, root, monkeypatch, run="rlsd-0", step="60")
        said = [*at.warning, *at.error]
        assert not at.exception, page
        assert page == "overview" or any("damaged" in each.value for each in said), page
    assert len(pages.opened("rollouts", root, monkeypatch, run="rlsd-0", step="60").dataframe) == 2


@pytest.mark.parametrize(
    ("text", "tags"),
    [("a, b ,a", ("a", "b")), (" ,, ", ()), ("two  words\t, x", ("two words", "x")), ("<b>,`c`", ("<b>", "`c`"))],
)
def test_tags(text: str, tags: tuple[str, ...]) -> None:
    assert notes.parse_tags(text) == tags


def test_what_is_too_long_or_has_no_place_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="more than 40 characters"):
        notes.parse_tags("x" * 41)
    with pytest.raises(UserError, match="21 tags"):
        notes.parse_tags(",".join(map(str, range(21))))
    with pytest.raises(UserError, match="at most 4,000"):
        notes.write(run_of(root), None, "x" * 4001, ())
    sample = next(iter(sources.discover(Path("/nonexistent")).runs.values()))
    with pytest.raises(UserError, match="no notes are kept"):
        notes.write(sample, None, "x", ())


def field(fields: Any, label: str) -> Any:
    """The field of the page whose label begins like this."""
    return next(each for each in fields if each.label.startswith(label))


def test_a_note_is_written_and_shown_on_the_page(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"run": "rlsd-0", "step": "60", "group": "1", "sibling": "5"}
    at = pages.opened("rollout", root, monkeypatch, **here)
    field(at.text_area, "Note").set_value("teacher is **wrong** here")
    field(at.text_input, "Tags").set_value("odd, <b>")
    next(each for each in at.button if each.label == "Keep").click().run()
    assert not at.exception and not at.error
    assert any(each.value == "teacher is \\*\\*wrong\\*\\* here" for each in at.markdown)
    assert notes.of_rollouts(run_of(root))[PLACE].tags == ("odd", "<b>")
    at = pages.opened("rollout", root, monkeypatch, **here | {"sibling": "6"})
    assert field(at.text_area, "Note").value == "" and not any("wrong" in each.value for each in at.markdown)
    at = pages.opened("rollouts", root, monkeypatch, run="rlsd-0", listing="rollouts", scope="whole run", tag="odd")
    table = at.dataframe[0].value
    assert table[["step", "group", "sibling", "tags", "note"]].to_numpy().tolist() == [
        [*PLACE, "odd, <b>", "teacher is **wrong** here"]
    ]
    query = rollout_list.with_notes(run_of(root), store.index(run_of(root))[0])
    assert sum(map(bool, query["tags"])) == 1


def test_the_overview_shows_and_finds_tags(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = pages.opened("overview", root, monkeypatch)
    assert "Tags" not in at.dataframe[0].value
    notes.write(run_of(root), None, "to be made again", ("odd-one",))
    at = pages.opened("overview", root, monkeypatch, filter="odd-one")
    assert at.dataframe[0].value[["Run", "Tags", "Note"]].to_numpy().tolist() == [
        ["rlsd-0", "odd-one", "to be made again"]
    ]
