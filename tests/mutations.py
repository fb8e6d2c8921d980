"""Breaks one line after another and says which changes no test notices (``make mutants``).

Each mutation is an edit that a review or a tired hand could let through. It is made in a copy of the project, the tests
named beside it run there, and one of them has to fail. tests/test_mutations.py keeps the list in step with the code.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutation:
    """A change of one place of a file, and the tests that have to notice it."""

    file: str
    old: str
    new: str
    tests: str
    """Arguments of pytest."""


SAVED, CHECKPOINTS, LOCKS = "sdpg/training/saved_files.py", "sdpg/training/checkpoints.py", "sdpg/locks.py"
QUEUE, DELIVERY, STORE = "sdpg/records/event_queue.py", "sdpg/records/delivery.py", "sdpg/records/mlflow_store.py"
PARQUET, WORK, FILES = "sdpg/records/parquet.py", "sdpg/records/work.py", "sdpg/files.py"
STUDY, LEASES, RECORDING = "sdpg/tuning/study.py", "sdpg/tuning/leases.py", "sdpg/training/recording.py"
MANIFEST, ARCHIVE = "sdpg/records/manifest.py", "sdpg/reproduction/archive.py"
ALTERED = "tests/records/test_manifest.py"
TEACHERS = "sdpg/models/teachers.py"
CREDIT = "sdpg/objective/token_credit.py"
DAMAGED, TRACKING = "tests/training/test_damaged_state.py", "tests/records/test_tracking.py"

MUTATIONS = (
    # Formulas.
    Mutation("sdpg/objective/gates.py", "4 * row.accuracy * (1 - row.accuracy)",
             "2 * row.accuracy * (1 - row.accuracy)", "tests/objective/test_advantages.py"),
    Mutation("sdpg/objective/gates.py", "-inputs.teacher_entropy, 1 - method.gate_quantile",
             "inputs.teacher_entropy, 1 - method.gate_quantile", "tests/objective/test_methods.py"),
    Mutation("sdpg/objective/gates.py", "return inputs.teacher_logprobs - inputs.logprobs.detach()",
             "return inputs.logprobs.detach() - inputs.teacher_logprobs", "tests/objective/test_methods.py"),
    Mutation(CREDIT, "(advantages + bonus) * advantages > 0", "advantages != 0",
             "tests/objective/test_token_credit.py"),
    Mutation(CREDIT, "evidenced = evidence.teacher - evidence.against\n    bonus = evidence.strength * torch.tanh",
             "evidenced = evidence.against - evidence.teacher\n    bonus = evidence.strength * torch.tanh",
             "tests/objective/test_token_credit.py"),
    Mutation(CREDIT, "torch.where(inside, sides, total - sides)", "torch.where(inside, total - sides, sides)",
             "tests/objective/test_token_credit.py"),
    Mutation("sdpg/objective/divergences.py", "torch.cat([kept, tail], -1)", "kept",
             "tests/objective/test_divergences.py"),
    Mutation("sdpg/objective/divergences.py", "self.whole.entries(log_p, log_q).clamp(max=self.bound)",
             "self.whole.entries(log_p, log_q).clamp(-self.bound, self.bound)", "tests/objective/test_divergences.py"),
    Mutation("sdpg/objective/outcomes.py", "log_ratio = inputs.ratio.detach().log()",
             "log_ratio = inputs.ratio.detach()", "tests/objective/test_methods.py"),
    Mutation("sdpg/objective/outcomes.py", "-bounded * inputs.advantages * inputs.logprobs",
             "-ratio * inputs.advantages * inputs.logprobs", "tests/objective/test_methods.py"),
    Mutation("sdpg/objective/methods.py", "apart.detach().clamp(max=train.sampler_correction)", "apart.detach()",
             "tests/objective/test_methods.py"),
    Mutation("sdpg/objective/methods.py", "advantages = advantages * (inputs.gates == 0)",
             "advantages = advantages * (inputs.gates > 0)", "tests/objective/test_methods.py"),
    Mutation("sdpg/objective/advantages.py", "(rewards.shape[1] / (rewards.shape[1] - 1))", "1.0",
             "tests/objective/test_advantages.py"),
    Mutation("sdpg/training/steps.py", "zip(empty, useful, strict=False)",
             "zip(empty, range(len(chosen)), strict=False)",
             "tests/training/test_steps.py"),
    Mutation("sdpg/training/steps.py", "row).logsumexp(0) - math.log(len(row))", "row).mean(0)",
             "tests/training/test_steps.py"),
    Mutation("sdpg/objective/schedules.py", "on = value >= start or (on and value >= self.off * start)",
             "on = value >= self.off * start", "tests/objective/test_schedules.py"),
    Mutation("sdpg/training/sampling.py", "self._generate(self.problems_of(step + 1), step + 1)",
             "self._generate(self.problems_of(step + 1), step)", "tests/training/test_sampling.py"),
    Mutation(CHECKPOINTS, "_write(folder, AHEAD, ahead.items())", "pass", "tests/training/test_sampling.py"),
    Mutation("sdpg/training/trainer.py", "self.switch.entropies = read_history(", "_ = read_history(",
             "tests/training/test_sampling.py"),
    Mutation("sdpg/training/diagnostics.py", 'method.model_copy(update=exact)',
             'method.model_copy(update={"distillation": "kl_student_teacher"})',
             "tests/training/test_diagnostics.py"),
    Mutation("sdpg/objective/schedules.py", "max(1, round(fraction * total))", "max(1, int(fraction * total))",
             "tests/objective"),
    Mutation("sdpg/objective/advantages.py", "(rewards == rewards[:, :1]).all(dim=1, keepdim=True)", "deviation == 0",
             "tests/objective/test_advantages.py"),
    Mutation("sdpg/rewards/extraction.py", 'text = text.rpartition("</think>")[2]',
             'text = text.partition("</think>")[2] or text', "tests/rewards/test_extraction.py"),
    Mutation("sdpg/rewards/extraction.py", '_ANSWER_LINE.findall(text.rpartition("</think>")[2])',
             '_ANSWER_LINE.findall(text.partition("</think>")[2] or text)', "tests/rewards/test_extraction.py"),
    # Manifests, archives, rebuilding, comparing.
    Mutation(MANIFEST, "elif sha256(path) != digest:", "elif False:", ALTERED),
    Mutation(MANIFEST, "if name not in manifest.files and _fits(name, patterns):", "if False:", ALTERED),
    Mutation(MANIFEST, "if (now := folder.resolve().name) != manifest.name:",
             "if (now := folder.resolve().name) is None:", ALTERED),
    Mutation(MANIFEST, "if manifest.fingerprint and _first_line", "if False and _first_line", ALTERED),
    Mutation("sdpg/results/runs.py", "check_origin(final.parent, check_folder(final.parent), _origin(noted))",
             "check_folder(final.parent)", ALTERED),
    Mutation("app/store.py", "            check_file(path)\n", "", ALTERED),
    Mutation(ARCHIVE, "if left or found.hexdigest() != digest:", "if left:", "tests/reproduction/test_archive.py"),
    Mutation(MANIFEST, "check_within(name, source)", "pass", "tests/reproduction/test_archive.py"),
    Mutation(ARCHIVE, "not in (0, 0o100000)", "not in (0, 0o100000, 0o120000)", "tests/reproduction/test_archive.py"),
    Mutation("sdpg/reproduction/rebuild.py", '" \\n" * empty', '""', "tests/reproduction/test_rebuild.py"),
    Mutation("sdpg/reproduction/cells.py", "if low <= found[0] <= high else", "if True else",
             "tests/reproduction/test_verification.py"),
    Mutation("sdpg/reproduction/cells.py", "if repr(recorded) == repr(found):", "if recorded[0] == found[0]:",
             "tests/reproduction/test_verification.py"),
    Mutation("sdpg/reproduction/divergence.py", 'return f"{found.name} was not written now"', "return None",
             "tests/reproduction/test_verification.py"),
    Mutation("sdpg/training/trainer.py", "step > self.until", "step - 1 == self.until",
             "tests/training/test_trainer.py"),
    # Teachers.
    Mutation(TEACHERS, "lerp_(_own_part(self.student[name]), rate)", "lerp_(_own_part(self.student[name]), 1 - rate)",
             "tests/models/test_teachers.py"),
    Mutation(TEACHERS, "accuracy > self.best:", "accuracy >= self.best:", "tests/models/test_teachers.py"),
    Mutation(TEACHERS, "step % self.method.teacher_every == 0", "step % self.method.teacher_every == 1",
             "tests/models/test_teachers.py"),
    Mutation(TEACHERS, 'self.refreshed, self.best = state["refreshed"], state["best"]', "pass",
             "tests/training/test_teachers.py"),
    Mutation(CHECKPOINTS, "_copy(folder, TEACHER, teacher.weights)", "pass", "tests/training/test_teachers.py"),
    Mutation("sdpg/models/adapters.py", "finally:\n            self._exchange()", "finally:\n            pass",
             "tests/models/test_teachers.py"),
    Mutation("sdpg/training/trainer.py", "self.policies.advance_teacher(step, accuracy.get(VALIDATION))", "pass",
             "tests/training/test_teachers.py"),
    # Checkpoints.
    Mutation(CHECKPOINTS, "other != target", "other == target", "tests/training/test_checkpoints.py"),
    Mutation(CHECKPOINTS, "if size >= PIECE_BYTES:", "if size >= 2 * PIECE_BYTES:",
             "tests/training/test_checkpoints.py"),
    Mutation(CHECKPOINTS, "piece, number, size = {}, number + 1, 0", "piece, number, size = {}, number, 0",
             "tests/training/test_checkpoints.py"),
    Mutation(CHECKPOINTS, "if row.get(c) is None else repr(v)", "if row.get(c) is None else f'{v:.12g}'",
             "tests/training/test_checkpoints.py"),
    Mutation(CHECKPOINTS, "check_files(folder, saved)", "pass", DAMAGED),
    Mutation(SAVED, "return checkpoints[-1] if checkpoints", "return checkpoints[0] if checkpoints",
             f"tests/training/test_checkpoints.py {DAMAGED}"),
    Mutation(SAVED, "int(match.group(1)) <= step", "int(match.group(1)) < step", DAMAGED),
    Mutation(SAVED, "if match is None or int(match.group(1)) > step:", "if match and int(match.group(1)) > step:",
             DAMAGED),
    Mutation(SAVED, "int(match.group(1)) > step:\n                path.unlink()",
             "int(match.group(1)) > step + 1:\n                path.unlink()", DAMAGED),
    Mutation(SAVED, "if path.stat().st_size > size:", "if path.stat().st_size > size + 400:", DAMAGED),
    Mutation(SAVED, "(found[0] < size if longer is not None else found[0] != size)", "found[0] < size", DAMAGED),
    Mutation(SAVED, 'values.pop("digest", None) != _own_digest(values)', 'values.pop("digest", None) is None', DAMAGED),
    Mutation(SAVED, "(checkpoint.parent, saved[\"files\"]))", "(checkpoint.parent, {}))", DAMAGED),
    Mutation(RECORDING, "while self.files and (len(self.files) >= self.waiting", "while self.files and (False",
             "tests/training/test_recording.py"),
    Mutation(RECORDING, "if error is None:\n            self.flush()", "if error:\n            self.flush()",
             "tests/training/test_recording.py"),
    # Files and locks.
    Mutation(FILES, "return match is not None and not psutil.pid_exists(int(match.group(1)))",
             "return match is not None", "tests/test_files.py"),
    Mutation(FILES, 'if ".outgoing-" in stale.name and not path.exists():', "if False:",
             "tests/test_files.py tests/evaluation/test_benchmarking.py"),
    Mutation(FILES, "os.replace(outgoing, path)\n                raise", "raise", "tests/test_files.py"),
    Mutation(FILES, 'elif "/" in name or', 'elif name.startswith("/") or', "tests/test_files.py"),
    Mutation(LOCKS, "if file in _held:\n        raise _in_use(place, _owner())", "if False:\n        pass",
             "tests/test_locks.py"),
    Mutation(LOCKS, "fcntl.LOCK_EX | fcntl.LOCK_NB)\n        except OSError as error:",
             "fcntl.LOCK_SH | fcntl.LOCK_NB)\n        except OSError as error:", "tests/test_locks.py"),
    Mutation(LOCKS, "hashlib.blake2b(place.encode(), digest_size=4).hexdigest()", "''", "tests/test_locks.py"),
    Mutation(LOCKS, "finally:\n            _held.discard(file)", "finally:\n            pass", "tests/test_locks.py"),
    Mutation(WORK, "if _described(folder) == (run, folder.name):", "if True:", "tests/records/test_work.py"),
    Mutation(WORK, "or folder.is_symlink()", "", "tests/records/test_work.py"),
    Mutation(WORK, 'return text if FINGERPRINT.fullmatch(text) else ""', "return text", "tests/records/test_work.py"),
    # Records and tracking.
    Mutation(PARQUET, "if said.isdecimal() and int(said) > current:", "if False:", "tests/records"),
    Mutation(PARQUET, "if values != expected:", "if False:", "tests/records/test_growing.py"),
    Mutation(QUEUE, "while (line := stream.readline()).endswith(b\"\\n\"):", "while line := stream.readline():",
             TRACKING),
    Mutation(QUEUE, "os.ftruncate(self._file, end)", "pass", TRACKING),
    Mutation(QUEUE, "default=0) + 1", "default=0)", TRACKING),
    Mutation(DELIVERY, "if event[\"step\"] > self._state[\"last_step\"]:", "if True:", TRACKING),
    Mutation(DELIVERY, "if ended:\n                shutil.rmtree(start)", "shutil.rmtree(start)", TRACKING),
    Mutation(DELIVERY, "write_json(self.folder / \"delivered.json\", self._state)\n", "pass\n", TRACKING),
    Mutation(STORE, "if not file.exists():\n                    create_database(file)",
             "if not file.exists():\n                    pass", "tests/records/test_mlflow_store.py"),
    # Leases and studies.
    Mutation(LEASES, "abs(process.create_time() - started) < START_TOLERANCE and", "", "tests/tuning/test_leases.py"),
    Mutation(LEASES, "return time.time() - self.beat > grace", "return time.time() - self.beat > 10 * grace",
             "tests/tuning/test_leases.py"),
    Mutation(LEASES, " and process.status() != psutil.STATUS_ZOMBIE", "", "tests/tuning/test_leases.py"),
    Mutation(STUDY, "if trial.number in followed or not", "if not", "tests/tuning/test_tuning_study.py"),
    Mutation(STUDY, "if not self.owns(claim):\n                return False", "pass",
             "tests/tuning/test_tuning_study.py"),
    Mutation(STUDY, "lease is None or Lease", "lease is not None and Lease", "tests/tuning/test_tuning_study.py"),
    Mutation(STUDY, '.get("attempt", 0) < self.params.tune.retries', '.get("attempt", 0) <= self.params.tune.retries',
             "tests/tuning/test_tuning_study.py"),
    # Studies.
    Mutation("sdpg/results/statistics/replication.py", "max(0.0, of_problems - of_rest)", "of_problems",
             "tests/results/test_replication.py tests/replication"),
    Mutation("sdpg/results/statistics/replication.py", "max(p_value, min(1.0, 2.0 ** (1 - differing)))", "p_value",
             "tests/results/test_replication.py"),
    Mutation("sdpg/replication/design.py", "SEEDS_OF_A_BASE * base + seed", "seed", "tests/replication"),
    Mutation("pipelines/side_by_side.py", "for task in tasks) - elapsed)", "for task in tasks))",
             "tests/pipelines/test_side_by_side.py"),
    Mutation("pipelines/study_stages.py", "and all((self.folder / out).exists() for out in outputs)", "",
             "tests/pipelines/test_study.py"),
    Mutation("sdpg/problems/prompts.py", '"answer": problem.hinted_answer,', '"answer": problem.answer,',
             "tests/problems/test_synthetic.py"),
)  # fmt: skip


def missing(mutations: Iterable[Mutation] = MUTATIONS, root: Path = ROOT) -> list[str]:
    """Returns the mutations whose line is not in its file exactly once."""
    return [f"{m.file}: {m.old!r}" for m in mutations if (root / m.file).read_text(encoding="utf-8").count(m.old) != 1]


def survives(mutation: Mutation, copy: Path) -> bool:
    """Says whether the tests pass with the change made in a copy of the project, which is put back."""
    path = copy / mutation.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-B", "-m", "pytest", "-x", "-p", "no:cacheprovider", *mutation.tests.split()],
            cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=1200,
        )  # fmt: skip
    finally:
        path.write_text(before, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the tests did not run:\n{done.stdout[-3000:]}")
    return done.returncode == 0


def main() -> None:
    """Tries the mutations one by one; exits with 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="*", metavar="N", help="numbers of mutations, from 0")
    chosen = parser.parse_args().only or range(len(MUTATIONS))
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
        changed = subprocess.run(["git", "diff", "HEAD", "--name-only"], cwd=ROOT, capture_output=True, text=True)
        for name in changed.stdout.split():
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, copy / name)
        for number in chosen:
            mutation = MUTATIONS[number]
            if survives(mutation, copy):
                survivors.append(number)
            verdict = "SURVIVES" if number in survivors else "killed"
            print(f"{number:3d} {verdict:8s} {mutation.file}: {mutation.new.strip()[:70]!r}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations are noticed")
    raise SystemExit(1 if survivors else 0)


if __name__ == "__main__":
    main()
