"""Tests that docs/troubleshooting.md quotes messages that the code still has."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
import re
from typing import Any

import pytest

from sdpg.params import Params

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
OWN = re.findall(r"^### `([^`]+)`$", PAGE, flags=re.MULTILINE)
OTHERS = re.findall(r"^### `([^`]+)` \((\w+)\)$", PAGE, flags=re.MULTILINE)
LIBRARIES = {"DVC": "dvc", "Streamlit": "streamlit.web.server"}


def texts(source: str) -> list[str]:
    """The text of each string of some code; what is filled in is …, and strings that stand side by side are one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    # Places of older formatting, as in "Port %s" and "free{where}".
    return [re.sub(r"%[sd]|\{\w*\}", "…", text) for text in found]


@cache
def own_messages() -> list[str]:
    folders = ("sdpg", "pipelines", "app")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    shell = (ROOT / "tests" / "helpers" / "install_browser.sh").read_text(encoding="utf-8")
    return [text for path in files for text in texts(path.read_text(encoding="utf-8"))] + [shell]


def occurs(quoted: str, messages: list[str]) -> bool:
    pattern = re.compile(".*?".join(map(re.escape, quoted.strip("…").split("…"))), re.DOTALL)
    return any(pattern.search(message) for message in messages if len(message) < 5000)


def test_there_are_many_and_none_twice() -> None:
    assert len(OWN) >= 20 and len(OWN) == len(set(OWN))


@pytest.mark.parametrize("quoted", OWN)
def test_the_code_prints_what_is_quoted(quoted: str) -> None:
    assert len(quoted.replace("…", "")) > 15, "too short to say anything"
    assert occurs(quoted, own_messages())


@pytest.mark.parametrize(("quoted", "library"), OTHERS)
def test_libraries_print_what_is_quoted(quoted: str, library: str) -> None:
    spec = find_spec(LIBRARIES[library])
    assert spec is not None and spec.origin is not None
    files = Path(spec.origin).parent.rglob("*.py")
    first = quoted.split("…")[0]
    assert any(occurs(quoted, texts(code)) for path in files if first in (code := path.read_text(encoding="utf-8")))


def test_what_is_gone_is_noticed() -> None:
    assert not occurs("the weights in … are those of its config.json", own_messages())
    assert not occurs("Port … is taken", texts('log("Port %s is not available", port)'))


def fields(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The fields of a section of params.yaml, also where it may be null or one of several kinds."""
    found = dict(node.get("properties", {}))
    for part in [*node.get("anyOf", []), *node.get("oneOf", []), *([node] if "$ref" in node else [])]:
        target = schema["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
        found |= fields(schema, target)
    return found


def test_every_field_that_it_names_is_one() -> None:
    schema = Params.model_json_schema()
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:: [^`]*)?`", PAGE)
    assert len(set(named)) >= 15
    for name in named:
        node = schema
        for part in name.split("."):
            assert part in fields(schema, node), name
            node = fields(schema, node)[part]
