"""Tests the list of rollouts over several runs, the filter of leaks, and the way from one rollout to the next."""

from pathlib import Path
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from app import filters, leaks, rollout_list, sources, store
from app.sources import SAMPLE, RunEntry
from tests.helpers import pages

LIST = {"listing": "rollouts", "scope": "whole run", "status": "wrong", "sort": "tokens", "falling": "true"}
OTHERS = ["rlsd-0", "sdpg-ufkl-0"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("list") / "project"
    shutil.copytree(SAMPLE, root)
    return root


def expected(runs: list[RunEntry]) -> list[tuple[str, int, int, int]]:
    """The longest wrong rollouts of the runs first; among equals, in the order of the runs and of their records."""
    found = [
        (-row.length, at, run.id, row.step, row.group, row.sibling)
        for at, run in enumerate(runs) for row in store.index(run)[0].itertuples() if row.status == "wrong"
    ]  # fmt: skip
    found.sort(key=lambda row: row[:2])
    return [row[2:] for row in found]


def test_the_list_goes_over_several_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = pages.opened("rollouts", root, monkeypatch, run="rlsd-0", **LIST, **{"with": ["grpo-0", "sdpg-ufkl-0"]})  # pyright: ignore
    assert not at.exception and not at.error
    (table,) = [each.value for each in at.dataframe]
    runs = list(sources.discover(root).runs.values())
    wanted = expected(runs)
    assert table["run"].tolist() == [row[0] for row in wanted][: len(table)]
    assert table["step"].tolist() == [row[1] for row in wanted] and len(wanted) > 100
    assert table["sibling"].tolist() == [row[3] for row in wanted]
    assert f"{len(wanted):,} of" in at.markdown[0].value
    # Without others the list is of one run, and has no column that says the same in every row.
    at = pages.opened("rollouts", root, monkeypatch, run="rlsd-0", **LIST)
    assert "run" not in at.dataframe[0].value and len(at.dataframe[0].value) < len(wanted)


def test_next_and_previous_follow_the_list_through_its_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = expected(list(sources.discover(root).runs.values()))
    place = next(at for at in range(3, len(wanted)) if len({row[0] for row in wanted[at : at + 2]}) == 2)
    run, step, group, sibling = wanted[place]
    at = pages.opened(
        "rollout", root, monkeypatch, run=run, step=str(step), group=str(group), sibling=str(sibling), token="1",
        **LIST, **{"with": ["grpo-0", *OTHERS]},
    )  # pyright: ignore  # fmt: skip
    assert not at.exception and any(f"{place + 1:,} of {len(wanted):,}" in each.value for each in at.caption)
    next(each for each in at.button if each.label == "Next").click().run()
    names = ("run", "step", "group", "sibling")

    def now() -> list[str]:
        values = [at.query_params[name] for name in names]
        return [value if isinstance(value, str) else value[0] for value in values]

    assert now() == [str(part) for part in wanted[place + 1]]
    assert at.selectbox(key="run").value == wanted[place + 1][0] != run
    assert "token" not in at.query_params and at.query_params["sort"] in ("tokens", ["tokens"])
    for _ in range(2):
        next(each for each in at.button if each.label == "Previous").click().run()
    assert now() == [str(part) for part in wanted[place - 1]]


def test_the_ends_of_the_list_and_a_rollout_beside_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run, step, group, sibling), *_, last = expected(list(sources.discover(root).runs.values())[:1])
    here = {"run": run, "step": str(step), "group": str(group), "sibling": str(sibling)}
    at = pages.opened("rollout", root, monkeypatch, **here, **LIST)
    assert {each.label: each.disabled for each in at.button if each.label in ("Next", "Previous")} == {
        "Previous": True, "Next": False,
    }  # fmt: skip
    here |= dict(zip(("step", "group", "sibling"), map(str, last[1:]), strict=True))
    at = pages.opened("rollout", root, monkeypatch, **here, **LIST)
    assert {each.label: each.disabled for each in at.button}["Next"]
    at = pages.opened("rollout", root, monkeypatch, **here, **LIST | {"status": "correct"})
    assert any("Not in the list" in each.value for each in at.caption)
    at = pages.opened("rollout", root, monkeypatch, **here)
    assert "Next" not in [each.label for each in at.button]


def leaking_project(root: Path, mention: str, copy: str) -> tuple[RunEntry, tuple[int, int, int], tuple[int, int, int]]:
    """Rewrites two completions of a run: one says that it had a hint, one repeats the privileged prompt."""
    shutil.copytree(SAMPLE, root, dirs_exist_ok=True)
    config = root / "runs/grpo-0/config.yaml"
    said = yaml.safe_load(config.read_text())
    said["params"]["watch"]["span_words"] = 20  # more than the tiny world says
    config.write_text(yaml.safe_dump(said))
    path = sorted((root / "runs/grpo-0/rollouts").iterdir())[1]
    table = pq.read_table(path)
    texts, prompts = table["completion"].to_pylist(), table["teacher_prompt"].to_pylist()
    prompts[7] = f"{prompts[7]} {copy}"
    texts[3], texts[7] = mention, f"so {copy.upper()} indeed"
    for name, values in (("completion", texts), ("teacher_prompt", prompts)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values))
    pq.write_table(table, path)
    keys = [tuple(table[name][row].as_py() for name in ("step", "group", "sibling")) for row in (3, 7)]
    return sources.discover(root).runs["grpo-0"], *keys  # pyright: ignore[reportReturnType]


def test_what_leaks_is_found_by_the_rules_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = "multiply the second root by nine and add " + " ".join(f"w{at}" for at in range(12))
    run, mentioning, copying = leaking_project(tmp_path, "As the hint\n  says, 7", copy)
    monkeypatch.chdir(tmp_path)
    steps = store.rollout_steps(run)
    assert leaks.leaking(run, steps) == {mentioning, copying}
    assert leaks.leaking(run, steps[:1]) == set()
    assert leaks.leaking(run, steps) == leaks.leaking(run, steps[1:2])
    at = pages.opened("rollouts", tmp_path, monkeypatch, run="grpo-0", listing="rollouts", scope="whole run",
                      only=filters.LEAKS)  # fmt: skip
    table = at.dataframe[0].value
    assert {tuple(row) for row in table[["step", "group", "sibling"]].itertuples(index=False)} == {mentioning, copying}


def test_a_list_is_read_from_the_address_as_the_page_reads_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**LIST, "only": list(filters.SUSPECTS), "reward": ["1", "-1", "x", "nan"], "gate": "closed",
             "min_length": "3", "max_length": "1e9", "kl": "10-90", "flagged": "true", "regex": "true", "q": "a|b",
             "within": "all", "with": OTHERS}  # fmt: skip
    made: list[rollout_list.Query] = []
    real = rollout_list.Query.scope
    monkeypatch.setattr(rollout_list.Query, "scope", lambda self: made.append(self) or real(self))
    row = {"run": "grpo-0", "step": "60", "group": "1", "sibling": "5"}
    for page in ("rollouts", "rollout"):
        at = pages.opened(page, root, monkeypatch, **row, **asked)  # pyright: ignore[reportArgumentType]
        assert not at.exception, page
    of_list, of_rollout = made
    assert of_list == of_rollout and of_list.chosen.longest is None and of_list.chosen.rewards == (1.0, -1.0)
