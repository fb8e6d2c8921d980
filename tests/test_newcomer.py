"""What a newcomer adds, and how many files of the product that takes: made in a copy of the package, and run there."""

from collections.abc import Mapping
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]
Edits = Mapping[str, tuple[str, str]]
"""File → a passage of it, which must occur once, and what it becomes."""


def worked_example() -> Edits:
    """What CONTRIBUTING.md says to add for a divergence."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text[text.index("## A worked example: a divergence") : text.index("## Attacks")]
    kind, entry, name = re.findall(r"```(?:python|text)\n(.*?)```", text, re.DOTALL)
    table = "DIVERGENCES: dict[str, type[Divergence]] = {\n"
    return {
        "sdpg/objective/divergences.py": (table, f"{kind}\n\n{table}{entry}"),
        "sdpg/params/method.py": ('"jsd", "skewed_kl",', f'"jsd", "skewed_kl", {name.strip()}'),
    }


DIVERGENCE = worked_example()
TOKEN_GATE: Edits = {
    "sdpg/objective/gates.py": (
        'GATES: dict[str, Gate] = {\n',
        'GATES: dict[str, Gate] = {\n'
        '    "unsure": Gate("m = 1[A > 0, H > 3]", lambda row: float(row.advantage > 0),\n'
        '                   lambda inputs: (inputs.entropy > 3).to(inputs.entropy.dtype)),\n',
    ),
    "sdpg/params/method.py": ('GateName = Literal["positive", ', 'GateName = Literal["positive", "unsure", '),
}  # fmt: skip
SEQUENCE_RATIO: Edits = {
    "sdpg/objective/outcomes.py": (
        'OUTCOMES: dict[str, Outcome] = {\n',
        'def geometric(inputs: OutcomeInputs) -> OutcomeTerm:\n'
        '    """Returns the geometric mean of the ratios of a response, clipped."""\n'
        '    ratio = inputs.responses.spread(inputs.responses.mean(inputs.ratio.log()).exp())\n'
        '    return ppo_clip(OutcomeInputs(**{**vars(inputs), "ratio": ratio}))\n\n\n'
        'OUTCOMES: dict[str, Outcome] = {\n    "geometric": Outcome(geometric, clips=True, whole_responses=True),\n',
    ),
    "sdpg/params/method.py": ('"gspo", "cispo"]', '"gspo", "cispo", "geometric"]'),
}  # fmt: skip
LENGTH = '("length", pa.int64()),\n'
COLUMN: Edits = {
    "sdpg/records/schemas.py": (
        f'{LENGTH}        ("truncated", pa.bool_()),\n        ("verifier"',
        f'{LENGTH}        ("words", pa.int64()),\n        ("truncated", pa.bool_()),\n        ("verifier"',
    ),
    "sdpg/training/rollout_rows.py": (
        '"length": len(ids),\n', '"length": len(ids),\n                "words": len(text.split()),\n',
    ),
}  # fmt: skip
CHANGES = {"divergence": DIVERGENCE, "gate per token": TOKEN_GATE, "sequence ratio": SEQUENCE_RATIO, "column": COLUMN}

PROGRAM = """
from dataclasses import fields
from pathlib import Path
import torch
from sdpg.objective.coefficients import Coefficients
from sdpg.objective.divergences import DIVERGENCES, WORKED_P, WORKED_Q
from sdpg.models.experience import Experience, Rollouts
from sdpg.problems.prompts import PreparedRow
from sdpg.problems.token_pieces import TokenPieces
from sdpg.records.schemas import read_rollouts, write_rollouts
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.training.rollout_rows import rollout_rows, token_columns
from sdpg.training.steps import Sampled, Step, Update
from tests.helpers.plain_update import update
from tests.helpers.tiny import counted_passes, tiny_experience, tiny_method, tiny_policies, tiny_train

x, off = tiny_experience(shifted_old=True), Coefficients(0.0, 0.0, 0.0)
for kind, method, at in (
    ("divergence", tiny_method(outcome="none", distillation="hellinger"), Coefficients(0.0, 1.0, 0.0)),
    ("gate", tiny_method(outcome="none", distillation="jsd", gate="unsure"), Coefficients(0.0, 1.0, 0.0)),
    ("usual", tiny_method(outcome="ppo_clip", clip_high=0.28), off),
    ("ratio", tiny_method(outcome="gspo", clip_high=0.28), off),
):
    policies = tiny_policies(torch.float64)
    with counted_passes(policies.student) as passes:
        found, gradient = update(policies, x, method, at, tiny_train(updates_per_batch=2))
    assert gradient.isfinite().all() and gradient.abs().max() > 1e-4, kind
    print(kind, len(passes.seen))
    if kind == "gate":
        gated = found.columns["kl_gated"].numbers()
        assert 0 < sum(value == 0 for value in gated) < len(gated)
for options, value in DIVERGENCES["hellinger"].worked.items():
    p, q = (torch.tensor([each], dtype=torch.float64).log() for each in (WORKED_P, WORKED_Q))
    assert abs(DIVERGENCES["hellinger"](*options).value(p, q).item() - value) < 1e-12

class Tokenizer:
    all_special_ids = [0, 1]
    def decode(self, ids, skip_special_tokens=False):
        return "".join("" if token < 2 and skip_special_tokens else f" w{token}" for token in ids)

tokenizer = Tokenizer()
texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in x.responses]
problems = [PreparedRow(id=str(i), problem="", answer="1", solution="", source="", student_prompt="", teacher_prompt="",
                        student_tokens=1, teacher_tokens=1) for i in range(3)]
rollouts = Rollouts(*(getattr(x, field.name) for field in fields(Rollouts) if not field.kw_only))
sampled = Sampled(problems, rollouts, texts, [False] * 12)
step = Step(sampled, [Verdict(Status.WRONG, None, -1.0)] * 12, x, Update(0.0, 0.0, 0.0, found.columns), {})
identity = {"run": "r", "method": "m", "seed": 0, "step": 1, "verifier": "v", "verifier_version": "1"}
write_rollouts(Path("new.parquet"), rollout_rows(step, identity), token_columns(step, TokenPieces(tokenizer)))
new = read_rollouts(Path("new.parquet")).to_pylist()
assert [row["words"] for row in new] == [len(text.split()) for text in texts]
old = read_rollouts(Path("old.parquet"))
assert len(old) > 0 and set(old["words"].to_pylist()) == {None} and None not in old["completion"].to_pylist()
print("column", len(old))
"""


@pytest.mark.parametrize("change", CHANGES)
def test_a_newcomers_change_touches_two_files_of_the_product(change: str) -> None:
    assert len(CHANGES[change]) <= 2
    for name, (passage, _) in CHANGES[change].items():
        assert (ROOT / name).read_text(encoding="utf-8").count(passage) == 1, f"{name}: {passage!r}"


def test_a_newcomers_changes_work(tmp_path: Path) -> None:
    for name in ("sdpg", "tests/helpers"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(next((ROOT / "app/sample/runs/grpo-0/rollouts").glob("*.parquet")), tmp_path / "old.parquet")
    for change in CHANGES.values():
        for name, (passage, becomes) in change.items():
            path = tmp_path / name
            path.write_text(path.read_text(encoding="utf-8").replace(passage, becomes), encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    passes = dict(line.split() for line in done.stdout.splitlines())
    # A ratio of whole responses takes no pass more than one of tokens.
    assert passes.keys() == {"divergence", "gate", "usual", "ratio", "column"}
    assert passes["ratio"] == passes["usual"]
