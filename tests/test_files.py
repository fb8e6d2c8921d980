"""Tests that outputs are whole or as they were, whatever interrupts the writing."""

from pathlib import Path
import resource
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from sdpg.errors import UserError
from sdpg.files import (
    check_within,
    child,
    make_folder,
    read_json_lines,
    replaced_file,
    replaced_folder,
    write_json,
    write_text,
)
from sdpg.locks import exclusive


def test_a_failure_while_writing_leaves_the_earlier_file(tmp_path: Path) -> None:
    target = tmp_path / "table.md"
    write_text(target, "earlier")
    with pytest.raises(RuntimeError), replaced_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "run"
    for content in ("one", "two"):
        with replaced_folder(target) as folder:
            (folder / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["two"]
    with pytest.raises(RuntimeError), replaced_folder(target) as folder:
        (folder / "three").write_text("")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_process_left_behind_is_cleared(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (tmp_path / f".run.partial-{int(gone.stdout)}").mkdir()
    (tmp_path / f".run.outgoing-{int(gone.stdout)}").mkdir()
    with replaced_folder(tmp_path / "run") as folder:
        (folder / "x").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_is_one_message_and_the_earlier_file_stays(tmp_path: Path) -> None:
    # A limit on file size is how a process meets a full disk without filling one.
    target = tmp_path / "weights"
    write_text(target, "earlier")
    program = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from sdpg.errors import entry_point
        from sdpg.files import write_text
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        entry_point(lambda: write_text(Path({str(target)!r}), "x" * 100000))
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: cannot write {target}: ")
    assert "free some space" in result.stderr and "Traceback" not in result.stderr
    assert target.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize("within", ["reports", "reports/tune", "reports/tune/a/b"])
@pytest.mark.parametrize("writes", [replaced_file, replaced_folder])
def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path, writes: Any, within: str) -> None:
    (tmp_path / "reports").write_text("mine")
    refused = pytest.raises(UserError, match=r"/reports is no folder, and one is needed there: move it away")
    with refused, writes(tmp_path / within / "x"):
        pytest.fail("nothing may be made for a place that cannot be written")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("reports", "mine")]


def test_a_file_and_a_folder_do_not_take_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("")
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(UserError, match=r"/run is a folder, and a file is to be written there"):
        write_text(tmp_path / "run", "x")
    with (
        pytest.raises(UserError, match=r"/table.md is no folder, and one is to be"),
        replaced_folder(tmp_path / "table.md"),
    ):
        pytest.fail("nothing may be made for a place that cannot be written")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["run", "run/mine", "table.md"]


def test_a_link_that_leads_nowhere_and_a_file_in_place_of_the_state_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"/runs is no folder"):
        make_folder(tmp_path / "runs" / "grpo-0")
    (tmp_path / ".state").write_text("")
    with (
        pytest.raises(UserError, match=r"/.state is no folder"),
        exclusive("runs/grpo-0", locks=tmp_path / ".state/locks"),
    ):
        pytest.fail("nothing is locked")


@pytest.mark.parametrize(
    ("line", "message"), [('{"a": ', "line 2: not valid JSON"), ("[1]", "line 2: a JSON object is expected")]
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read_json_lines(path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"accuracy": float("nan")})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\\b", "a\0b", "a\nb", "é" * 128, "\ud800"])
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"^--study: ") as refused:
        child(tmp_path, name, "--study")
    assert str(refused.value).isprintable()


def test_a_link_is_no_child_and_a_plain_name_is_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="symbolic link"):
        child(tmp_path, "link", "--study")
    assert child(tmp_path, "grpo-0", "--study") == tmp_path / "grpo-0"


@pytest.mark.parametrize("path", ["", "/x", "../x", "a/../../x", "a\0", "."])
def test_a_path_out_of_its_folder_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=r"^base\.model\.path: "):
        check_within(path, "base.model.path")


def test_a_tokenizer_that_finds_no_room_is_one_message(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*too large"), replaced_folder(tmp_path / "made") as folder:
            Tokenizer(BPE()).save(str(folder / "tokenizer.json"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_path_within_its_folder_is_taken() -> None:
    for path in ("Qwen/Qwen3-4B", "model/", "./model", "some model é"):
        check_within(path, "base.model.path")


def test_what_stepped_aside_for_an_unfinished_folder_is_there_again(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    aside = tmp_path / f".run.outgoing-{int(gone.stdout)}"
    aside.mkdir()
    (aside / "earlier").write_text("")
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "run"):
        raise RuntimeError
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["run", "run/earlier"]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    """Two writers of one folder: the second does not take the first one's unfinished work away."""
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = tmp_path / f".run.partial-{living.pid}"
    theirs.mkdir()
    try:
        with replaced_folder(tmp_path / "run"):
            pass
        assert theirs.is_dir()
    finally:
        living.communicate(b"\n")
    with replaced_folder(tmp_path / "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_remains_of_a_target_whose_name_is_a_pattern_are_its_own(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    others = tmp_path / f".run.partial-{int(gone.stdout)}"
    others.mkdir()
    with replaced_folder(tmp_path / "r*n"):
        pass
    assert others.is_dir()
