"""Tests that the digest of code changes with what a program does, and with nothing else."""

from collections.abc import Callable
import json
from pathlib import Path
import subprocess
import sys

import pytest

from sdpg.errors import UserError
from sdpg.records import code
from sdpg.records.code import CACHE, parse_module, read_code, source_digest

TEXT = '''"""A module."""

import json


class Rule:
    """A rule."""

    limit: int = 3
    """How many."""

    def holds(self, text: str) -> bool:
        """Whether it does."""
        # Few enough.
        return len(f"{text!r:>4}") < self.limit
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of a user's own, a package, and templates."""
    monkeypatch.chdir(tmp_path)
    files = {
        "mine.py": "import math\n\n\ndef judge(a, b):\n    from parts import late\n    return late.same(a, b)\n",
        "parts/__init__.py": "SIZE = 1\n",
        "parts/late.py": "from . import near\nfrom .near import same\n",
        "parts/near.py": "from pathlib import Path\n\nTEXTS = Path(__file__).parent / 'texts'\n\n\ndef same(a, b):\n"
        "    return a == b\n",
        "parts/unused.py": "raise SystemExit\n",
        "parts/texts/one.txt": "one\n",
        "parts/other/two.txt": "two\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        ("# Few enough.", "# Not too many.\n\n", False),
        ('"""Whether it does."""', '"""Whether\n        it is."""', False),
        ('    """How many."""\n', "", False),
        ('"""A module."""', "", False),
        ("(self, text: str)", "(\n        self,\n        text: str,\n    )", False),
        ('f"{text!r:>4}"', "f'{text!r:>4}'", False),
        ("= 3", "= 4", True),
        ("= 3", "= 3.0", True),
        ("!r", "!s", True),
        (":>4", ":>5", True),
        ("< self", "<= self", True),
        ("import json", "import math", True),
        ("holds", "hold", True),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(old: str, new: str, moves: bool) -> None:
    assert old in TEXT
    before, after = (parse_module(text, "rule.py").digest for text in (TEXT, TEXT.replace(old, new)))
    assert (before != after) == moves


def test_the_digest_is_that_of_every_python() -> None:
    # Written down: which fields a syntax tree has differs from one Python to the next, and the digest must not.
    assert parse_module(TEXT, "rule.py").digest == "ceec21fb839c1f5b955302c477f3225d"


def test_imports_inside_functions_packages_and_named_data_are_part(project: Path) -> None:
    assert list(read_code("mine").modules) == [
        "mine.py", "parts/__init__.py", "parts/late.py", "parts/near.py", "parts/texts/one.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        (lambda: Path("mine.py").write_text(Path("mine.py").read_text() + "# Mine.\n"), False),
        (lambda: Path("parts/unused.py").write_text("1 / 0\n"), False),
        (lambda: Path("parts/other/two.txt").write_text("2\n"), False),
        (lambda: Path("parts/__init__.py").write_text("SIZE = 2\n"), True),
        (lambda: Path("parts/near.py").write_text("def same(a, b):\n    return True\n"), True),
        (lambda: Path("parts/texts/one.txt").write_text("1\n"), True),
        (lambda: Path("parts/texts/three.txt").write_text("3\n"), True),
        (lambda: Path("parts/late.py").rename("parts/later.py"), True),
    ],
)
def test_what_an_entry_does_not_reach_does_not_count(project: Path, change: Callable[[], object], moves: bool) -> None:
    before = source_digest("mine:judge")
    change()
    assert (source_digest("mine:judge") != before) == moves


def test_a_damaged_cache_is_made_anew(project: Path) -> None:
    expected = read_code("mine")
    good = CACHE.read_text()
    for text in (
        "",
        "{",
        "[]",
        good[:-40],
        json.dumps(json.loads(good) | {"modules": {"a": 1}}),
        good.replace(": [", ": [["),
    ):
        CACHE.write_text(text)
        assert read_code("mine") == expected
        assert json.loads(CACHE.read_text())["modules"].items() >= json.loads(good)["modules"].items()


def test_the_cache_is_used_and_never_trusted_after_a_change_of_rules(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_code("mine")
    with monkeypatch.context() as patched:
        patched.setattr(code, "parse_module", lambda text, name: pytest.fail(f"{name} was parsed again"))
        assert read_code("mine") == expected
    stored = json.loads(CACHE.read_text())
    made_up = {key: ["made up", *value[1:]] for key, value in stored["modules"].items()}
    CACHE.write_text(json.dumps({"rules": "of old", "modules": made_up}))
    assert read_code("mine") == expected


def test_a_place_that_cannot_be_written_has_no_cache(project: Path) -> None:
    Path(".state").write_text("a file where the folder belongs")
    assert read_code("mine").modules


def test_an_installed_package_is_followed_through_itself_alone(project: Path) -> None:
    modules = read_code("ruamel.yaml").modules
    assert "ruamel/yaml/main.py" in modules and all(path.startswith("ruamel/") for path in modules)


@pytest.mark.parametrize("name", ["nowhere", "parts.nowhere", "mine.judge"])
def test_a_missing_module_is_named(project: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"no module {name}: it is looked for in"):
        read_code(name)


def test_a_module_that_is_not_python_is_named(project: Path) -> None:
    Path("parts/late.py").write_text("def same(:\n")
    with pytest.raises(UserError, match=r"late\.py is not valid Python: .*line 1"):
        read_code("mine")


def test_all_stages_take_less_than_a_second() -> None:
    command = (
        "import sys, time; start = time.process_time(); from sdpg.records.code import read_code\n"
        "for stage in ('prepare', 'base', 'train', 'evaluate', 'tabulate'): read_code(f'pipelines.{stage}')\n"
        "assert not {'torch', 'transformers', 'pandas'} & sys.modules.keys()\n"
        "print(time.process_time() - start)"
    )
    took = [float(subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True,
                                 cwd=code.SOURCE).stdout) for _ in range(3)]  # fmt: skip
    assert min(took[1:]) < 1.0
