"""Makes a small finished project by hand: two runs with policies, rollouts, evaluations, tables and manifests."""

from pathlib import Path
from typing import Any

from sdpg import paths
from sdpg.files import write_json, write_text
from sdpg.records.manifest import note_folder
from sdpg.records.provenance import hash_files
from sdpg.records.schemas import ROLLOUT_REQUIRED, ROLLOUT_SCHEMA, write_rollouts
from sdpg.results.runs import read_results
from sdpg.results.tables import main_json, main_rows
from tests.helpers.fabricated import params_with, write_base, write_run

METHODS = ("grpo", "rlsd")
PARAMS = params_with(list(METHODS), [0], report={"resamples": 50})


def rollout(method: str, step: int, sibling: int) -> dict[str, Any]:
    row: dict[str, Any] = {name: None for name in ROLLOUT_SCHEMA.names if name not in ROLLOUT_REQUIRED}
    return row | {
        "run": f"{method}-0", "method": method, "seed": 0, "step": step, "problem_id": "p", "group": 0,
        "sibling": sibling, "student_prompt": "s", "completion": "c", "completion_ids": [1], "tokens": ["c"],
        "token_starts": [0], "token_ends": [1], "reward": 1.0, "status": "correct", "gold": "1", "advantage": 0.0,
        "gate": 0.0, "length": 1, "truncated": False,
    }  # fmt: skip


def make_finished(root: Path, more: dict[str, Any] | None = None) -> None:
    """Fills a folder; ``more`` is added to each run's config.yaml."""
    for name in ("train", "chain-3", "chain-4"):
        write_text(root / paths.PREPARED / f"{name}.jsonl", f'{{"of": "{name}"}}\n')
    note_folder(root / paths.PREPARED, "prepared")
    write_text(root / paths.BASE_MODEL / "config.json", "{}")
    write_base(root)
    parts = (paths.PREPARED, paths.BASE_MODEL, paths.BASE_EVALUATIONS)
    inputs = {str(part): hash_files([root / part], root / part) for part in parts[:2]}
    note_folder(root / paths.BASE_EVALUATIONS, "base-evaluations", made_from=inputs)
    for at, method in enumerate(METHODS):
        config = {"params": PARAMS.model_dump(mode="json"), "inputs": inputs, **(more or {})}
        run = write_run(root, method, 0, lambda name, step, problem, at=at: 1 + (problem + at) % 3, config=config)
        for step in (1, 2, 3):
            rows = [rollout(method, step, sibling) for sibling in range(2)]
            write_rollouts(run / "rollouts" / f"step-{step:06d}-rank-0.parquet", rows)
        for name in ("model.safetensors", "tokenizer.json"):
            write_text(run / "policy" / name, f"{name} of {method}")
        manifest = note_folder(run, run.name, f"{at:016x}", inputs)
        write_text(run / "COMPLETE", f"{at:016x}\n")
        made_from = inputs | {"policy": manifest.digest("policy/*")}
        note_folder(root / "evaluations" / run.name, run.name, made_from=made_from)
    rows = main_rows(read_results(PARAMS, root))
    write_json(root / "reports/table.json", main_json(rows))
    write_text(root / "reports/table.md", "# Results\n\nheadline\n\nwhat was run\n")
    note_folder(root / "reports", "reports", names=["table.json", "table.md"])
