"""Methods of stored runs, of any version and from anybody: described, never imported, never a crash."""

from typing import Any

import pytest

from sdpg.objective.coefficients import gate_name, has_teacher
from sdpg.objective.gate_choice import gate_formula
from sdpg.params import Imported
from sdpg.params.stored import method_of

OWN = {"kind": "import", "path": "nowhere:at_all", "options": {"a": 1}, "of_a_later_version": 3}


def stored(**entry: Any) -> Any:
    return method_of({"methods": {"m": {"distillation": "jsd", **entry}}}, "m")


def test_an_own_gate_and_term_are_described_without_being_imported() -> None:
    method = stored(gate=OWN, terms={"mine": OWN | {"coefficient": 0.1, "reads_teacher": True}})
    assert isinstance(method.gate, Imported)
    assert gate_name(method) == "nowhere:at_all" and gate_formula(method.gate) == "m = nowhere:at_all"
    assert method.terms["mine"].reads_teacher and has_teacher(method)


@pytest.mark.parametrize("gate", [{}, 3, [], None, {"path": ["x"]}, {"kind": "later"}, {"path": None}])
def test_a_gate_of_another_form_is_a_name_that_nobody_knows(gate: Any) -> None:
    assert gate_name(stored(gate=gate)) == str(gate)


@pytest.mark.parametrize("terms", [3, [], None, {"a": 1}, {"a": {}}, {"a": {"path": 2}}])
def test_terms_of_another_form_are_left_out(terms: Any) -> None:
    assert stored(terms=terms).terms == {}
