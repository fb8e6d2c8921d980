"""Tests that outputs are whole or as they were, whatever interrupts the writing."""

from pathlib import Path
import subprocess
import sys
import textwrap

import pytest

from sdpg.errors import UserError
from sdpg.files import read_json_lines, replaced_file, replaced_folder, write_json, write_text


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
    (tmp_path / ".run.partial-1").mkdir()
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
