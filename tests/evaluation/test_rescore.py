"""Tests rescoring: which verdicts change, what that does to the table, and that the run stays as it is."""

from collections.abc import Sequence
from hashlib import sha256
from itertools import product
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from sdpg.errors import UserError
from sdpg.evaluation.rescoring import VERDICT_SCHEMA, advantage_signs, find_run
from sdpg.objective.advantages import group_advantages
from sdpg.objective.gate_choice import find_gate
from sdpg.params import Imported, RewardParams
from sdpg.records.schemas import EVALUATION_SCHEMA, ROLLOUT_SCHEMA, write_evaluations, write_rollouts
from sdpg.results.rescoring_report import SHOWN, write_rescored
from sdpg.rewards.verifiers import RULES_VERSION, Status, Verdict
from sdpg.training.steps import kept_rollouts
from tests.helpers.fabricated import params_with
from tests.helpers.own_modules import own_modules

ROOT = Path(__file__).parents[2]

Stored = tuple[str, str, str]
"""(completion, gold, stored status) of each stored answer."""

RIGHT: Stored = (r"\boxed{204}", "204", "correct")
WRONG: Stored = (r"\boxed{205}", "204", "wrong")
HALF: Stored = (r"\boxed{0.5}", r"\frac{1}{2}", "correct")
FOOLED: Stored = (r"\boxed{205=204}", "204", "correct")
CUT: Stored = ("and so", "204", "truncated")
NONE: Stored = ("I do not know", "204", "no_answer")
LOST: Stored = (r"\boxed{7} and", "7", "truncated")
"""A completion that a verifier called cut because it did not see the answer."""


def reward(status: str) -> float:
    return 1.0 if status == "correct" else -1.0


def evaluation(
    step: int, rows: Sequence[Stored], temperature: float = 1.0, run: str = "grpo-0"
) -> list[dict[str, Any]]:
    return [
        {
            "run": run, "method": run.split("-")[0], "seed": 0, "step": step, "benchmark": "chain-3",
            "problem_id": f"p{at // 2}", "sample": at % 2, "prompt": "p", "completion": text, "status": status,
            "reward": reward(status), "extracted_answer": None, "gold": gold, "length": 1,
            "truncated": status == "truncated", "temperature": temperature,
            "verifier": "math_verify", "verifier_version": "0",
        }
        for at, (text, gold, status) in enumerate(rows)
    ]  # fmt: skip


def rollouts(step: int, groups: Sequence[Sequence[Stored]]) -> list[dict[str, Any]]:
    return [
        dict.fromkeys(ROLLOUT_SCHEMA.names) | {
            "run": "grpo-0", "method": "grpo", "seed": 0, "step": step, "problem_id": f"q{group}", "group": group,
            "sibling": sibling, "completion": text, "completion_ids": [1], "tokens": ["a"], "token_starts": [0],
            "token_ends": [1], "rollout_logprob": [-0.5], "reward": reward(status), "status": status, "gold": gold,
            "length": 1, "truncated": status == "truncated",
        }
        for group, siblings in enumerate(groups)
        for sibling, (text, gold, status) in enumerate(siblings)
    ]  # fmt: skip


def write_run(root: Path, name: str = "grpo-0", config: dict[str, Any] | None = None) -> Path:
    folder = root / "runs" / name
    write_evaluations(folder / "evaluations" / "step-000010.parquet", evaluation(10, [WRONG, WRONG], run=name))
    write_evaluations(
        folder / "evaluations" / "step-000020.parquet", evaluation(20, [RIGHT, FOOLED, HALF, WRONG], run=name)
    )
    write_rollouts(folder / "rollouts" / "step-000001-rank-0.parquet",
                   rollouts(1, [[RIGHT, FOOLED], [RIGHT, WRONG], [FOOLED, WRONG], [CUT, NONE]]))  # fmt: skip
    write_rollouts(folder / "rollouts" / "step-000002-rank-0.parquet", rollouts(2, [[LOST, NONE]]))
    final = evaluation(20, [RIGHT, FOOLED], run=name) + evaluation(20, [FOOLED], 0.0, run=name)
    write_evaluations(root / "evaluations" / name / "final.parquet", final)
    if config is not None:
        (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    return folder


def digest(root: Path) -> dict[str, str]:
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def rescored(root: Path, *names: str, verifier: str = "math_verify", audit: bool = False) -> tuple[dict[str, Any], str]:
    runs = [find_run(name, {"verifier": verifier, "timeout": 20.0}, root) for name in names or ["grpo-0"]]
    report = write_rescored(runs, root / "out", with_audit=audit)
    return json.loads((root / "out" / "rescore.json").read_text(encoding="utf-8")), report


def test_who_changed_and_what_it_does_to_the_table(tmp_path: Path) -> None:
    write_run(tmp_path)
    before = digest(tmp_path / "runs") | digest(tmp_path / "evaluations")
    found, report = rescored(tmp_path)
    assert digest(tmp_path / "runs") | digest(tmp_path / "evaluations") == before
    assert (found["runs"], found["answers"], found["changed"]) == (["grpo-0"], 19, 6)
    assert found["verifiers"] == {"math_verify": f"0.9.0+rules.{RULES_VERSION}"}
    # Of step 20: 3 of 4 were right and 2 are; of the larger samples 2 of 2 and 1; greedy 1 of 1 and 0.
    assert [(row["evaluation"], row["old"], row["new"], row["difference"], row["changed"], row["answers"])
            for row in found["accuracies"]] == [
        ("Last", 0.75, 0.5, -0.25, 1, 4), ("final", 1.0, 0.5, -0.5, 1, 2), ("final, greedy", 1.0, 0.0, -1.0, 1, 1),
    ]  # fmt: skip
    # Step 1, groups: ++ → +−: two signs from 0; +− stays; +− → −−: two signs to 0, one gate shut; −− stays.
    # The mean reward was (4 right of 8) 0 and is (2 of 8) −0.5. Step 2: −− → +−.
    assert found["steps"] == [
        {"run": "grpo-0", "step": 1, "rollouts": 8, "old": 0.0, "new": -0.5, "changed": 2, "advantages": 4, "gates": 2},
        {"run": "grpo-0", "step": 2, "rollouts": 2, "old": -1.0, "new": 0.0, "changed": 1, "advantages": 2, "gates": 1},
    ]
    changes = [json.loads(text) for text in (tmp_path / "out" / "changes.jsonl").read_text("utf-8").splitlines()]
    assert [(row["kind"], row["step"], row["problem_id"], row["sample"], row["old_status"], row["status"])
            for row in changes] == [
        ("rollouts", 1, "q0", 1, "correct", "wrong"), ("rollouts", 1, "q2", 0, "correct", "wrong"),
        ("rollouts", 2, "q0", 0, "truncated", "correct"), ("training", 20, "p0", 1, "correct", "wrong"),
        ("final", 20, "p0", 1, "correct", "wrong"), ("final", 20, "p0", 0, "correct", "wrong"),
    ]  # fmt: skip
    assert "6 changed: 5 correct → wrong, 1 truncated → correct." in report
    assert "- grpo-0, rollouts, step 1, group 0, q0, sample 1: '205=204' for '204', correct → wrong" in report
    assert "| grpo | chain-3 | Last | 0.750 | 0.500 | −0.250 | 1 | 4 |" in report
    assert (
        "3 of 10 rollouts changed, in 2 of 2 steps; 6 advantages would have another sign, 3 gates would flip" in report
    )


def test_verdicts_name_verifier_and_version_and_keep_what_is_known_of_cuts(tmp_path: Path) -> None:
    write_run(tmp_path)
    rescored(tmp_path, verifier="exact")
    table = pq.read_table(tmp_path / "out" / "verdicts" / "grpo-0" / "rollouts-step-000001-rank-0.parquet")
    assert table.schema.equals(VERDICT_SCHEMA)
    rows = table.to_pylist()
    assert {(row["verifier"], row["verifier_version"]) for row in rows} == {("exact", RULES_VERSION)}
    assert [(row["old_status"], row["status"]) for row in rows[-2:]] == [
        ("truncated", "truncated"),
        ("no_answer", "no_answer"),
    ]
    assert [row["extracted_answer"] for row in rows[:2]] == ["204", "205=204"]
    assert len(list((tmp_path / "out" / "verdicts").rglob("*.parquet"))) == 5


def test_verifiers_differ_on_the_same_answers(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert rescored(tmp_path, verifier="math_verify_only")[0]["changed"] == 1  # the answer that was called cut
    assert rescored(tmp_path, verifier="exact")[0]["changed"] == 7  # those of math_verify, and 0.5
    # The public code keeps what is right of the last equals sign, and knows no fractions.
    assert rescored(tmp_path, verifier="string_match")[0]["changed"] == 2


def test_runs_are_averaged_per_method(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, "grpo-1")
    folder = tmp_path / "runs" / "grpo-1" / "evaluations"
    write_evaluations(folder / "step-000030.parquet", evaluation(30, [RIGHT, RIGHT], run="grpo-1"))
    found, _ = rescored(tmp_path, "grpo-0", str(tmp_path / "runs" / "grpo-1"))
    last = found["accuracies"][0]
    assert (last["evaluation"], last["runs"], last["old"], last["new"]) == ("Last", 2, 0.875, 0.75)
    assert {row["run"] for row in found["steps"]} == {"grpo-0", "grpo-1"}
    with pytest.raises(UserError, match="named twice: grpo-0, grpo-0"):
        rescored(tmp_path, "grpo-0", "grpo-0")


def test_the_run_says_how_it_was_scored(tmp_path: Path) -> None:
    params = params_with(["grpo"], [0]).model_dump(mode="json")
    params["reward"] |= {"wrong": 0.0, "answer_format": "answer_line", "verifier": "string_match"}
    config = {"method": "grpo", "seed": 0, "params": params}
    write_run(tmp_path, config=config)
    run = find_run("grpo-0", {"verifier": "exact"}, tmp_path)
    assert (run.params.wrong, run.params.answer_format, run.params.verifier) == (0.0, "answer_line", "exact")
    assert run.gate is not None and run.gate.formula == find_gate("positive").formula == "m = 1[A > 0]"
    params["methods"]["grpo"] |= {"distillation": "kl_student_teacher", "gate": "all"}
    write_run(tmp_path, config=config)
    found, _ = rescored(tmp_path)
    assert [row["gates"] for row in found["steps"]] == [0, 0]
    # A gate of the run's own is not looked at, as that would run its code.
    params["methods"]["grpo"]["gate"] = {"kind": "import", "path": "nowhere:gate", "options": {}}
    write_run(tmp_path, config=config)
    found, report = rescored(tmp_path)
    assert [row["gates"] for row in found["steps"]] == [None, None]
    assert "no gate was looked at (a gate of a run's own is left out: its code is not run here)" in report
    params["methods"]["grpo"]["gate"] = "later"
    write_run(tmp_path, config=config)
    with pytest.raises(UserError, match="gate 'later', which this version does not know"):
        find_run("grpo-0", {}, tmp_path)
    params["methods"]["grpo"]["gate"] = "all"
    params["reward"]["timeout"] = -1
    write_run(tmp_path, config=config)
    with pytest.raises(UserError, match="reward section that the run was made with is not valid any more"):
        find_run("grpo-0", {}, tmp_path)


def test_without_a_configuration_the_defaults_hold(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert find_run("grpo-0", {}, tmp_path).params == RewardParams()


@pytest.mark.parametrize("kind", ["population", "sample"])
def test_signs_are_those_of_the_advantages(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randint(0, 2, (50, 3), generator=generator) * 2.0 - 1 for _ in range(2))
    rows = [
        {
            "group": group,
            "old_status": "correct" if old[group, at] > 0 else "wrong",
            "status": "correct" if new[group, at] > 0 else "timeout",
        }
        for group in range(50)
        for at in range(3)
    ]
    expected = [group_advantages(rewards, kind, 1e-6).sign().flatten().int().tolist() for rewards in (old, new)]
    assert list(advantage_signs(rows)) == list(zip(*expected, strict=True))
    gates = [float(each > 0) for each in group_advantages(new, kind, 1e-6).flatten().tolist()]
    assert [float(sign > 0) for _, sign in advantage_signs(rows)] == gates


@pytest.mark.parametrize("drops", [False, True])
def test_signs_of_failed_verifications_are_those_of_training(drops: bool) -> None:
    groups = list(product(("correct", "wrong", "timeout"), repeat=4))
    rows = [
        {"group": at, "old_status": status, "status": status} for at, group in enumerate(groups) for status in group
    ]
    params = RewardParams(on_failure="drop" if drops else "wrong")
    verdicts = [Verdict(Status(row["status"]), None, reward(row["status"])) for row in rows]
    rewards = torch.tensor([verdict.reward for verdict in verdicts]).view(-1, 4)
    kept = torch.tensor(kept_rollouts(verdicts, params)).view(-1, 4)
    expected = group_advantages(rewards, "population", 1e-6, kept).sign().flatten().int().tolist()
    assert [new for _, new in advantage_signs(rows, not drops, drops)] == expected
    assert [old for old, _ in advantage_signs(rows, drops, not drops)] == expected


def test_a_run_says_whether_failures_were_dropped(tmp_path: Path) -> None:
    for stored, dropped in (({"on_failure": "drop"}, True), ({"on_failure": "wrong"}, False), ({}, False)):
        write_run(tmp_path, config={"method": "grpo", "params": {"reward": stored}})
        assert find_run("grpo-0", {}, tmp_path).dropped is dropped


def test_a_long_list_is_cut_and_the_file_holds_all(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "grpo-0" / "evaluations"
    write_evaluations(folder / "step-000010.parquet", evaluation(10, [FOOLED] * (SHOWN + 5)))
    found, report = rescored(tmp_path)
    assert found["changed"] == SHOWN + 5
    assert report.count("'205=204'") == SHOWN
    assert "- … and 5 more, all in changes.jsonl" in report
    assert found["steps"] == [] and "What it does to training" not in report


def test_audit_is_part_of_the_report(tmp_path: Path) -> None:
    write_run(tmp_path)
    found, report = rescored(tmp_path, audit=True)
    # Distinct pairs: 204, 205, 0.5, 205=204, 7.
    assert found["audit"] == {"pairs": 5, "answers": 16, "disagreements": 2, "timeouts": 0}
    lines = [json.loads(text) for text in (tmp_path / "out" / "disagreements.jsonl").read_text("utf-8").splitlines()]
    assert [(row["answer"], row["count"], row["verdict"]) for row in lines] == [
        ("205=204", 5, "wrong"),
        ("0.5", 1, "correct"),
    ]
    assert "exact match and math-verify disagree on 2 of 5 distinct pairs (6 of 16 answers)" in report


def test_an_own_verifier_scores_again_with_the_options_of_the_run(tmp_path: Path) -> None:
    rule = "def ends(completion, gold, tail=''):\n    return completion.endswith(gold + tail)\n"
    (tmp_path / "own_end.py").write_text(rule)
    own = {"kind": "import", "path": "own_end:ends", "options": {"tail": "}"}}
    write_run(tmp_path, config={"method": "grpo", "params": {"reward": {"verifier": own}}})
    with own_modules(tmp_path):
        again = {"verifier": Imported(kind="import", path="own_end:ends"), "timeout": 20.0}
        write_rescored([find_run("grpo-0", again, tmp_path)], tmp_path / "out")
    found = json.loads((tmp_path / "out" / "rescore.json").read_text(encoding="utf-8"))
    assert list(found["verifiers"]) == ["own_end:ends"]
    # Of RIGHT, FOOLED, HALF and WRONG, the first two end in 204}.
    assert [row["new"] for row in found["accuracies"]] == [0.5, 1.0, 1.0]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="'rlsd-0' is neither a run nor a folder; runs/ has: grpo-0"):
        find_run("rlsd-0", {}, tmp_path)
    with pytest.raises(UserError, match="holds no rollouts/"):
        find_run(str(tmp_path / "empty"), {}, tmp_path)
    with pytest.raises(UserError, match="run the stage base"):
        find_run("base", {}, tmp_path)


def test_the_base_is_scored_too(tmp_path: Path) -> None:
    rows = evaluation(0, [RIGHT, FOOLED], run="base")
    write_evaluations(tmp_path / "models" / "base-evaluations" / "sampled.parquet", rows)
    found, _ = rescored(tmp_path, "base")
    assert [(row["method"], row["evaluation"], row["old"], row["new"]) for row in found["accuracies"]] == [
        ("base", "final", 1.0, 0.5)
    ]


@pytest.mark.parametrize("place", ["runs/grpo-0", "runs/grpo-0/again", "runs", "evaluations/grpo-0", ".", "other"])
def test_a_folder_that_is_not_ours_is_not_replaced(tmp_path: Path, place: str) -> None:
    write_run(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("keep")
    before = digest(tmp_path)
    with pytest.raises(UserError, match="choose another --out"):
        write_rescored([find_run("grpo-0", {}, tmp_path)], tmp_path / place)
    assert digest(tmp_path) == before


def test_an_unreadable_record_leaves_an_earlier_result(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    rescored(tmp_path)
    before = digest(tmp_path / "out")
    path = folder / "evaluations" / "step-000020.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.replace_schema_metadata({**EVALUATION_SCHEMA.metadata, b"sdpg_schema_version": b"0"}), path)
    with pytest.raises(UserError, match="schema version 0"):
        rescored(tmp_path)
    assert digest(tmp_path / "out") == before


def test_a_run_of_older_code_is_scored_again(tmp_path: Path) -> None:
    """Its rollouts do not say which of them were cut, and its parameters say what is unknown now."""
    reward_params = {"verifier": "exact", "spell": "lumos"}
    folder = write_run(tmp_path, config={"method": "grpo", "params": {"reward": reward_params, "methods": {}}})
    for path in folder.glob("*/*.parquet"):
        table = pq.read_table(path)
        lacking = ["truncated", "verifier", "verifier_version"] if path.parent.name == "rollouts" else ["truncated"]
        older = table.drop_columns(lacking)
        pq.write_table(older.replace_schema_metadata({**table.schema.metadata, b"sdpg_schema_version": b"1"}), path)
    expected, _ = rescored(tmp_path)
    assert (expected["answers"], expected["changed"]) == (19, 6)
    table = pq.read_table(tmp_path / "out" / "verdicts" / "grpo-0" / "rollouts-step-000001-rank-0.parquet")
    assert table["status"].to_pylist()[6:] == ["truncated", "no_answer"], "a cut is known where the status told it"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path) / "evaluations" / "step-000020.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"step-000020\.parquet is damaged"):
        rescored(tmp_path)


def test_the_command_loads_no_torch_and_writes_to_reports(tmp_path: Path) -> None:
    write_run(tmp_path)
    program = (
        "import sys, runpy; sys.argv = ['rescore', 'grpo-0', '--verifier', 'string_match']\n"
        "runpy.run_module('pipelines.rescore', run_name='__main__')\n"
        "assert not {'torch', 'transformers', 'sympy'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if "has no manifest.json" not in line]
    assert (done.returncode, said) == (0, [])
    assert "## Who changed" in done.stdout and "## What it does to the table" in done.stdout
    assert (tmp_path / "reports" / "rescore" / "string_match" / "rescore.json").is_file()
