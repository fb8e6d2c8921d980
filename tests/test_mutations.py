"""Keeps the list of mutations in step with the code: each names a line that is there once, and tests that exist."""

from tests.mutations import MUTATIONS, ROOT, missing


def test_each_mutation_changes_one_place() -> None:
    assert missing() == []


def test_the_tests_named_exist() -> None:
    assert [name for m in MUTATIONS for name in m.tests.split() if not (ROOT / name).exists()] == []
