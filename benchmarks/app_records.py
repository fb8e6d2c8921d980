"""Makes up a project with one run of a million recorded response tokens, in the layout of a real one."""

import csv
from pathlib import Path
import random
import shutil
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from tqdm import tqdm

from app.sources import SAMPLE
from sdpg.params import read_yaml
from sdpg.records.schemas import TOKEN_SIGNALS, write_evaluations, write_rollouts

RUN = "sdpg-ufkl-0"
STEPS, GROUPS, SIBLINGS, LENGTH = 62, 2, 2, 4_096
"""The sizes: 62 × 2 × 2 × 4,096 = 1,015,808 tokens, with every signal of every token recorded."""
PROBLEMS, SAMPLES = 60, 8
WORDS = (
    "so",
    "then",
    "the",
    "sum",
    "is",
    "we",
    "have",
    "step",
    "equals",
    "carry",
    "=",
    "+",
    "x",
    "12",
    "7",
    "therefore",
)


def _rollout(step: int, group: int, sibling: int, rng: np.random.Generator, words: random.Random) -> dict[str, Any]:
    tokens = [f" {word}" for word in words.choices(WORDS, k=LENGTH)]
    tokens[50::80] = ["\n"] * len(tokens[50::80])
    ends = np.cumsum([len(token) for token in tokens])
    logprob = -rng.exponential(0.4, LENGTH)
    teacher = logprob + rng.normal(0, 0.7, LENGTH) * (rng.random(LENGTH) < 0.2)
    right = (group + sibling) % 2 == 0
    signals = {
        "rollout_logprob": logprob + rng.normal(0, 1e-4, LENGTH), "logprob": logprob,
        "ref_logprob": logprob + rng.normal(0, 0.3, LENGTH), "teacher_logprob": teacher,
        "kl_to_teacher": rng.exponential(0.1, LENGTH), "entropy": rng.exponential(0.4, LENGTH),
        "weight": np.ones(LENGTH), "loss": rng.normal(0, 1e-6, LENGTH),
    }  # fmt: skip
    return {
        "run": RUN, "method": RUN[:-2], "seed": 0, "step": step, "problem_id": f"train-{step * GROUPS + group:04d}",
        "group": group, "sibling": sibling, "student_prompt": "Solve step by step: 12 a+7\n",
        "teacher_prompt": "Solve step by step: 12 a+7\nHint: the answer is 19. Solution: a=19\n",
        "completion": "".join(tokens), "completion_ids": rng.integers(0, 500, LENGTH).tolist(), "tokens": tokens,
        "token_starts": [0, *ends[:-1].tolist()], "token_ends": ends.tolist(),
        **{name: signals[name].astype(np.float32).tolist() for name in TOKEN_SIGNALS},
        "reward": 1.0 if right else -1.0, "status": "correct" if right else "wrong",
        "extracted_answer": "19" if right else "18", "gold": "19", "advantage": 1.0 if right else -1.0,
        "gate": float(right), "length": LENGTH, "truncated": not right, "verifier": "math_verify",
        "verifier_version": "made up",
    }  # fmt: skip


def _answers(step: int, sets: list[str], method: str, temperature: float = 1.0) -> list[dict[str, Any]]:
    chance = random.Random(step)
    rows = []
    for name, problem in ((name, problem) for name in sets for problem in range(PROBLEMS)):
        for sample in range(SAMPLES if temperature else 1):
            right = chance.random() < 0.3 + 0.4 * step / STEPS
            rows.append({
                "run": RUN, "method": method, "seed": 0, "step": step, "benchmark": name,
                "problem_id": f"{name}-{problem:03d}", "sample": sample, "prompt": "Solve step by step: 12 a+7\n",
                "completion": "a=19 \\boxed{19}", "status": "correct" if right else "wrong",
                "reward": 1.0 if right else -1.0, "extracted_answer": "19" if right else "18", "gold": "19",
                "length": 12, "truncated": False, "temperature": temperature, "verifier": "math_verify",
                "verifier_version": "made up",
            })  # fmt: skip
    return rows


def _stretched(path: Path, target: Path) -> None:
    """Writes a CSV with as many rows as there are steps, made of the sample's rows."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([str(step), *rows[(step - 1) % len(rows)][1:]] for step in range(1, STEPS + 1))


def make_project(root: Path) -> int:
    """Writes the project; returns the number of recorded response tokens."""
    sample, folder = SAMPLE / "runs" / RUN, root / "runs" / RUN
    folder.mkdir(parents=True)
    config = read_yaml(sample / "config.yaml")
    config["params"]["train"] |= {"steps": STEPS, "prompts_per_step": GROUPS, "responses_per_prompt": SIBLINGS,
                                  "record_every": 1, "record_rows": GROUPS * SIBLINGS}  # fmt: skip
    config["params"]["rollout"]["max_tokens"] = LENGTH
    with (folder / "config.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(config, file)
    for name in ("metrics.csv", "timing.csv"):
        _stretched(sample / name, folder / name)
    for name in ("summary.json", "COMPLETE"):
        shutil.copyfile(sample / name, folder / name)
    rng, words = np.random.default_rng(0), random.Random(0)
    for step in tqdm(range(1, STEPS + 1), desc="records", leave=False):
        rows = [_rollout(step, g, s, rng, words) for g in range(GROUPS) for s in range(SIBLINGS)]
        write_rollouts(folder / "rollouts" / f"step-{step:06d}-rank-0.parquet", rows)
    sets = [*config["params"]["data"]["benchmarks"], "validation"]
    lines = [",".join(["step", *sets])]
    for step in (0, *range(10, STEPS, 10), STEPS):
        rows = _answers(step, sets, RUN[:-2])
        share = {
            name: np.mean([row["status"] == "correct" for row in rows if row["benchmark"] == name]) for name in sets
        }
        lines.append(",".join([str(step), *(f"{share[name]:.6f}" for name in sets)]))
        if step:
            write_evaluations(folder / "evaluations" / f"step-{step:06d}.parquet", rows)
    (folder / "curves.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_evaluations(root / "evaluations" / RUN / "final.parquet",
                      [*_answers(STEPS, sets, RUN[:-2]), *_answers(STEPS, sets, RUN[:-2], 0.0)])  # fmt: skip
    write_evaluations(root / "models" / "base-evaluations" / "sampled.parquet",
                      [*_answers(0, sets, "base"), *_answers(0, sets, "base", 0.0)])  # fmt: skip
    return STEPS * GROUPS * SIBLINGS * LENGTH
