"""Tests that a method's own gate and terms are tried before a run, and refused by field, path and remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.objective.own import check_own_parts
from tests.helpers.tiny import tiny_method

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text) and None


def method(gate: str | None = None, term: str | None = None, **options: Any) -> Any:
    values: dict[str, Any] = {}
    if gate:
        part = {"kind": "import", "path": gate, "options": options}
        values = {"distillation": "kl_student_teacher", "gate": part}
    if term:
        values["terms"] = {"mine": {"kind": "import", "path": term, "coefficient": 0.1, "options": options}}
    return tiny_method(**values)


GATE = "from sdpg.objective.gates import Gate\n\n\ndef gate(limit=1.0):\n    return "
GATES = {
    "fine": (GATE + "Gate('', lambda r: max(r.advantage, 0.0), lambda x: (x.entropy < limit).float())\n", None),
    "a function": (
        GATE + "lambda r: r.advantage > 0\n",
        "methods.m.gate: own_{}:gate returns function: let it return a sdpg",
    ),
    "negative": (
        GATE + "Gate('', lambda r: r.advantage)\n",
        "row of own_{}:gate gives -1.0 for RowCredit.advantage=-1.0",
    ),
    "below 0": (
        GATE + "Gate('', lambda r: abs(r.advantage), lambda x: -x.entropy.detach())\n",
        "let it give numbers that are not negative",
    ),
    "silent of entropy": (
        GATE + "Gate('', lambda r: abs(r.advantage), lambda x: x.teacher_entropy)\n",
        "says reads_teacher_entropy=True",
    ),
    "of whole responses": (
        GATE
        + "Gate('', lambda r: abs(r.advantage), lambda x: x.responses.spread(x.responses.sum(x.entropy)).detach())\n",
        "set whole_responses: true",
    ),
    "one number": (
        GATE + "Gate('', lambda r: abs(r.advantage), lambda x: x.entropy.mean())\n",
        r"own_{}:gate returns \(\) for 6 tokens",
    ),
}
TERMS = {
    "fine": ("def term(inputs, limit=1.0):\n    return inputs.responses.positions * inputs.logprobs\n", None),
    "says too little of responses": (
        "def term(x):\n    return x.responses.spread(x.responses.mean(x.entropy))\n",
        "another value where it sees fewer tokens of its response: set whole_responses: true",
    ),
    "says too little of the teacher": (
        "def term(x):\n    return x.logprobs - x.teacher_logprobs\n",
        "set reads_teacher: true; they are NaN otherwise",
    ),
    "reads a reference": (
        "def term(x):\n    return x.logprobs - x.ref_logprobs\n",
        "own_{}:term raises TypeError: .* .ref_logprobs is None, as the method reads no reference.",
    ),
    "of a response": ("def term(x):\n    return x.responses.mean(x.entropy)\n", r"own_{}:term returns \(3,\) for 6"),
    "constant": ("def term(inputs):\n    return inputs.logprobs.detach()\n", "without a gradient, which teach nothing"),
    "no argument": ("def term():\n    return 1\n", r"methods.m.terms.mine: term\(\) cannot be called as \(inputs\)"),
}


@pytest.mark.parametrize("name", GATES)
def test_own_gates(write: Write, name: str) -> None:
    text, message = GATES[name]
    module = f"gate_{name.replace(' ', '_')}"
    write(f"own_{module}", text)
    if message is None:
        check_own_parts(method(gate=f"own_{module}:gate", limit=0.5), "methods.m")
        return
    with pytest.raises(UserError, match=message.format(module)):
        check_own_parts(method(gate=f"own_{module}:gate"), "methods.m")


@pytest.mark.parametrize("name", TERMS)
def test_own_terms(write: Write, name: str) -> None:
    text, message = TERMS[name]
    module = f"term_{name.replace(' ', '_')}"
    write(f"own_{module}", text)
    if message is None:
        check_own_parts(method(term=f"own_{module}:term", limit=0.5), "methods.m")
        return
    with pytest.raises(UserError, match=message.format(module)):
        check_own_parts(method(term=f"own_{module}:term"), "methods.m")


def test_an_own_gate_with_an_unknown_option(write: Write) -> None:
    write("own_gate_options", GATES["fine"][0])
    with pytest.raises(UserError, match=r"methods.m.gate: gate\(limit=1.0\) cannot be called as \(bound=2\)"):
        check_own_parts(method(gate="own_gate_options:gate", bound=2), "methods.m")
