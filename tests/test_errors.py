from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]


def run(body: str, reader: str = "cat") -> tuple[int, str]:
    """Exit code and stderr of a program whose output another one reads."""
    program = f"from sdpg.errors import UserError, entry_point\ndef main():\n    {body}\nentry_point(main)"
    first = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    subprocess.run(["sh", "-c", reader], stdin=first.stdout, check=True, capture_output=True)
    assert first.stdout is not None and first.stderr is not None
    first.stdout.close()
    errors = first.stderr.read().decode()
    return first.wait(), errors


def test_a_user_error_is_one_message() -> None:
    assert run("raise UserError('a.b is 3: use 4')") == (2, "error: a.b is 3: use 4\n")


@pytest.mark.parametrize(("number", "said"), [("ENOSPC", "full (a): free"), ("EFBIG", "ulimit"), ("EIO", "fails (a)")])
def test_what_the_disk_refuses_is_one_message(number: str, said: str) -> None:
    code, errors = run(f"import errno; raise OSError(errno.{number}, 'x', 'a')")
    assert code == 2 and errors.count("\n") == 1
    assert said in errors and "run the same command again" in errors


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    code, errors = run("1 / 0")
    assert code == 1
    assert "ZeroDivisionError" in errors


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code, errors = run("[print('x' * 100) for _ in range(100_000)]", reader="head -n 1")
    assert (code, errors) == (141, "")
    # So little that it is written only as the program ends, when nobody reads any more.
    code, errors = run("import time; time.sleep(1); print('x')", reader="exec 0<&-")
    assert (code, errors) == (141, "")
