"""Algorithm 1: rollouts → rewards → advantages and gate → losses → update → log; a run can be resumed at any point.

Axes: P prompts a step, G responses per prompt, B = P·G rollouts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sdpg.errors import Diverged, Interrupted, UserError
from sdpg.evaluation.evaluation import Identity, accuracies, evaluate
from sdpg.files import make_folder
from sdpg.models.columns import TokenColumn, gather_columns, join_columns
from sdpg.models.experience import Experience, Rollouts
from sdpg.models.loading import trainable
from sdpg.models.passes import Policies
from sdpg.models.ranks import whole
from sdpg.objective import coefficients as rules
from sdpg.objective.coefficients import Coefficients
from sdpg.objective.losses import reference_term
from sdpg.params import MethodParams, Params
from sdpg.problems.hints import Hint, HintDrawer
from sdpg.problems.prompts import PreparedRow
from sdpg.problems.token_pieces import TokenPieces
from sdpg.records.schemas import VALIDATION, write_evaluations, write_rollouts
from sdpg.records.watch import read_history
from sdpg.rewards.parts import reward_parts
from sdpg.rewards.verifiers import Scorer, Verdict
from sdpg.rollouts import RolloutEngine
from sdpg.seeds import derive_seed
from sdpg.training.checkpoints import load_ahead, load_checkpoint, save_checkpoint
from sdpg.training.diagnostics import diagnose, sample_rows, term_gradients
from sdpg.training.leakage import leak_shares
from sdpg.training.metrics import step_metrics
from sdpg.training.recording import BackgroundWriter
from sdpg.training.rollout_rows import rollout_rows, token_columns
from sdpg.training.sampling import RolloutSampler
from sdpg.training.saved_files import cut_after, newest_checkpoint, read_state
from sdpg.training.step_digests import append_digests
from sdpg.training.step_log import StepLog, Stopwatch
from sdpg.training.steps import (
    Sampled,
    Step,
    Update,
    group_credit,
    kept_rollouts,
    mini_batches,
    mixed_logprobs,
    refill,
    shuffled,
)  # fmt: skip
from sdpg.training.update import Task, accumulate_gradients

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Trainer:
    """One training run: a method, a seed, and the folder of its work in progress.

    Attributes:
        params: the pipeline's parameters.
        name: the method's name, as in ``methods.<name>``.
        method: the method's values.
        seed: the seed of prompts and sampling.
        state: the folder ``.state/<fingerprint>``.
        policies: the models.
        tokenizer: the policies' tokenizer.
        engine: the engine that samples from the student.
        verifier: the verifier that scores the answers.
        problems: the training problems.
        sets: benchmarks and validation, by name.
        base_accuracies: the accuracies of step 0, by problem set.
        on_step: the function that is called with (step, metrics) after every step, for tracking; if it returns True,
            training ends.
        interrupted: the function that says whether this process was asked to end and go on later.
        until: the step after which the run ends in the same way; None for the last one.
    """

    params: Params
    name: str
    method: MethodParams
    seed: int
    state: Path
    policies: Policies
    tokenizer: Any
    engine: RolloutEngine
    verifier: Scorer
    problems: list[PreparedRow]
    sets: dict[str, list[PreparedRow]]
    base_accuracies: dict[str, float]
    on_step: Callable[[int, dict[str, float | None]], bool | None] = lambda step, metrics: None
    interrupted: Callable[[], bool] = lambda: False
    until: int | None = None

    def __post_init__(self) -> None:
        train = self.params.train
        self.run = f"{self.name}-{self.seed}"
        self.ranks = self.policies.ranks
        self.pieces = TokenPieces(self.tokenizer)
        self.sampler = RolloutSampler(
            self.engine, self.tokenizer, self.pieces, self.problems, self.params.rollout, train, self.seed
        )
        self.switch = rules.entropy_switch(self.method, train.steps)
        self.records = BackgroundWriter()
        self.trained = trainable(self.policies.student)
        self.hints = None
        if rules.draws_hints(self.method):
            self.hints = HintDrawer(self.tokenizer, self.params.prompts, self.method, self.seed)
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay
        )

    def train(self) -> None:
        """Runs the steps that are still missing; afterwards all of their records are on disk, also after an error.

        Raises:
            Interrupted: if a rank was asked to end and steps are left; a checkpoint of the last one is written.
        """
        with self.records:
            self.run_steps()

    def run_steps(self) -> None:
        """Runs the steps that are still missing; the first rank alone writes metrics, records and checkpoints."""
        train, ranks = self.params.train, self.ranks
        done = self.resume()
        log = None
        if ranks.first:
            base = {name: self.base_accuracies[name] for name in self.sets}
            log = StepLog(self.state, self.run, self.params, base, self.on_step)
        self.engine.sync_weights()
        saved = done
        for step in range(done + 1, train.steps + 1):
            # A signal may have reached one rank alone.
            if any(ranks.values(self.interrupted() or (self.until is not None and step > self.until))):
                if saved != step - 1:
                    self.save(step - 1)
                if log is not None:
                    log.close()
                # Where one process ends, its launcher ends the others.
                ranks.wait()
                raise Interrupted(
                    f"{self.run}: interrupted with {step - 1} of {train.steps} steps done, which are kept: run the "
                    "same command again, and it goes on from there"
                )
            watch = Stopwatch()
            metrics = self.step(step, watch)
            accuracy: dict[str, float] = {}
            if step % train.eval_every == 0 or step == train.steps:
                accuracy = self.evaluate(step)
                watch.lap("evaluation")
            self.policies.advance_teacher(step, accuracy.get(VALIDATION))
            watch.lap("update")
            # The first rank decides whether to end here: it alone has the log.
            stop = ranks.from_first(log is not None and log.enter(step, metrics, accuracy, watch))
            if stop or step % train.checkpoint_every == 0 or step == train.steps:
                self.save(step)
                saved = step
            if stop:
                break
        if log is not None:
            log.close()

    def save(self, step: int) -> None:
        """Saves a checkpoint, once the records of all steps up to it are on disk."""
        self.records.flush()
        save_checkpoint(
            self.state, step, self.policies.student, self.optimizer, self.ranks, self.policies.teacher_weights,
            self.sampler.ahead_tensors(),
        )  # fmt: skip

    def resume(self) -> int:
        """Restores the newest checkpoint, cuts the files at its step, and returns that step."""
        make_folder(self.state)
        done = load_checkpoint(
            self.state, self.policies.student, self.optimizer, self.ranks, self.policies.teacher_weights
        )
        if set(self.ranks.values(done)) != {done}:
            raise UserError(
                f"{self.state}: the processes find checkpoints of different steps: all machines must see the same "
                "files, so put the project on a folder that they share"
            )
        if self.ranks.first:
            newest = newest_checkpoint(self.state)
            cut_after(self.state, done, {} if newest is None else read_state(newest)["files"])
        self.ranks.wait()
        self.sampler.restore(load_ahead(self.state))
        if self.switch is not None and done:
            self.switch.entropies = read_history(self.state / "metrics.csv", ["teacher_entropy"])["teacher_entropy"]
        return done

    def step(self, number: int, watch: Stopwatch) -> dict[str, float | None]:
        """Makes one step: sample → verify → hint → credit → update → write; its metrics are on the first rank."""
        at = rules.coefficients(self.method, number, self.params.train.steps)
        sampled = self.sampler.next(number)
        watch.lap("rollout")
        verdicts = self.verify(sampled)
        watch.lap("reward")
        refilled = None
        if rounds := self.params.train.refill_rounds:
            spare = shuffled(self.problems, derive_seed(self.seed, "refill", number))
            more = partial(self.sampler.draw, number)
            sampled, verdicts, refilled = refill(sampled, verdicts, spare, rounds, more, self.verify)
            watch.lap("rollout")
        self.engine.rest()
        if self.hints is not None:
            sampled = sampled.with_hints(self.hints, verdicts, number)
        if self.switch is not None:
            entropy = self.policies.teacher_entropy(sampled.rollouts, self.method, self.params.train)
            # The first rank decides: who differed in a last bit could switch at another step than the rest.
            on = self.switch.enter(self.ranks.from_first(entropy))
            at = at if on else replace(at, rlsd_lambda=0.0)
        parts = reward_parts(self.params.reward, verdicts, sampled.lengths, self.params.rollout.max_tokens)
        experience = self.credit(sampled.rollouts, verdicts, at, parts, sampled.contrasts)
        task = self.task(experience, number, at)
        watch.lap("update")
        diagnosed = self.diagnose(experience, number)
        gradients = self.term_gradients(task, number)
        teacher = self.policies.teacher_metrics(number)
        if diagnosed or gradients or teacher:
            watch.lap("diagnostic")
        update = self.update(task, number)
        watch.lap("update")
        if not self.ranks.first:
            return {}
        diagnosed, kept = diagnosed | experience.contrast_column(), kept_rollouts(verdicts, self.params.reward)
        step = Step(sampled, verdicts, experience, update, diagnosed, kept, parts)
        metrics = self.write(step, number) | gradients | teacher | {
            "refilled_groups": refilled, "staleness": self.sampler.staleness,
            "teacher_entropy": None if self.switch is None else self.switch.entropies[-1],
            "alpha": at.alpha, "beta": at.beta, "rlsd_lambda": at.rlsd_lambda,
            "teacher_rows": float(sum(task.taught_rows())), "trained_rows": float(sum(task.trained_rows())),
        }  # fmt: skip
        watch.lap("record")
        return metrics

    def verify(self, sampled: Sampled) -> list[Verdict]:
        """Returns the verifier's verdict on each response."""
        siblings = self.params.train.responses_per_prompt
        golds = [row.answer for row in sampled.problems for _ in range(siblings)]
        return self.verifier.score(sampled.texts, golds, sampled.truncated)

    def credit(
        self, rollouts: Rollouts, verdicts: Sequence[Verdict], at: Coefficients,
        parts: Mapping[str, Sequence[float]] = MappingProxyType({}), contrasts: list[list[Hint]] | None = None,
    ) -> Experience:  # fmt: skip
        """Gives each rollout its advantage, its gate, and the log-probs that must be taken at the start of the step."""
        train, everyone = self.params.train, list(range(len(verdicts)))
        rewards = torch.tensor([[verdict.reward for verdict in verdicts], *parts.values()], dtype=torch.float64).sum(0)
        if rules.penalizes_reward(self.method):
            rewards = rewards - at.alpha * self.reference_penalty(rollouts, everyone)
        credit = group_credit(self.method, train, rewards, verdicts, self.params.reward)
        # The first rank decides: who differed in a last bit could plan other passes than the rest.
        advantages, gates = self.ranks.from_first(credit)
        # A rollout without a hint has no teacher: its gate is closed.
        gates = [gate if prompt else 0.0 for gate, prompt in zip(gates, rollouts.teacher_prompts, strict=True)]
        experience = Experience(
            **vars(rollouts),
            advantages=torch.tensor(advantages, dtype=torch.float64),
            gates=torch.tensor(gates, dtype=torch.float64),
            old_logprobs=self.old_logprobs(rollouts, everyone),
        )
        if rules.scores_teacher_first(train, at):
            taught = [row for row, read in enumerate(self.task(experience, 0, at).taught_rows()) if read]
            experience = replace(experience, teacher_logprobs=self.teacher_logprobs(rollouts, taught))
        if rules.reads_certainty(self.method, at):
            distilled = [row for row in everyone if experience.gates[row] > 0]
            experience = replace(experience, certainty=self.policies.certainty(rollouts, distilled, self.method, train))
        if contrasts is not None:
            reads = self.task(experience, 0, at).contrasted_rows()
            passes = []
            for prompts in ([hint.ids for hint in hints] for hints in contrasts):
                read = [row for row, there in enumerate(reads) if there and prompts[row]]
                passes.append(self.teacher_logprobs(rollouts, read, prompts))
            experience = replace(experience, contrast_logprobs=mixed_logprobs(passes))
        return experience

    def teacher_logprobs(
        self, rollouts: Rollouts, rows: list[int], prompts: list[list[int]] | None = None
    ) -> list[Tensor | None]:
        """Returns the teacher's log-probs of each response's tokens, under its own prompts or others; None outside
        ``rows``."""
        train, shown = self.params.train, rollouts.teacher_prompts if prompts is None else prompts
        scored = self.policies.sampled_logprobs(
            self.policies.teacher(self.method), rollouts, rows, shown, train.tokens_per_micro_batch,
            self.policies.teacher_temperature(train),
        )  # fmt: skip
        return [scored.get(row) for row in range(len(rollouts.responses))]

    def old_logprobs(self, rollouts: Rollouts, rows: list[int]) -> list[Tensor] | None:
        """Returns log π_old of each response's tokens; None where π_old is the policy of the passes with gradient."""
        train = self.params.train
        if train.old_logprobs == "rollout":  # those of the sampler are at hand
            return [torch.tensor(values) for values in rollouts.rollout_logprobs]
        if not rules.scores_old_policy(train):
            return None
        scored = self.policies.sampled_logprobs(
            self.policies.student, rollouts, rows, rollouts.student_prompts, train.tokens_per_micro_batch
        )
        return [scored[row] for row in rows]

    def reference_penalty(self, rollouts: Rollouts, rows: list[int]) -> Tensor:
        """Returns D4's summed per-token KL estimate of each response, (B,) on the CPU, to subtract from its reward."""
        arguments = (rollouts, rows, rollouts.student_prompts, self.params.train.tokens_per_micro_batch)
        student = self.policies.sampled_logprobs(self.policies.student, *arguments)
        reference = self.policies.sampled_logprobs(self.policies.reference, *arguments)
        kind = self.method.reference
        assert kind != "none"
        return torch.stack([reference_term(student[i], reference[i], kind).double().sum() for i in rows]).cpu()

    def task(self, experience: Experience, step: int, at: Coefficients) -> Task:
        """Returns the inputs of a step's passes."""
        return Task(
            self.policies, experience, self.method, at, self.params.train, self.params.rollout.max_tokens,
            self.state / f"not-finite-step-{step:06d}.json",
        )  # fmt: skip

    def diagnose(self, rollouts: Rollouts, step: int) -> dict[str, TokenColumn]:
        """Scores sampled rollouts of a recorded step under teacher and reference, for the records alone."""
        train = self.params.train
        if not rules.is_recorded(train, step):
            return {}
        rows = sample_rows(len(rollouts.responses), train.record_rows, derive_seed(self.seed, "record", step))
        return diagnose(self.policies, rollouts, rows, self.method, train, self.params.watch.top_k)

    def term_gradients(self, task: Task, step: int) -> dict[str, float | None]:
        """Measures each term's own gradient at the steps that ``train.gradients_every`` names."""
        every = self.params.train.gradients_every
        if not every or (step % every and step != 1):
            return {}
        return term_gradients(task, mini_batches(task.experience, self.params.train.updates_per_batch)[0])

    def update(self, task: Task, step: int) -> Update:
        """Makes the optimiser updates of one rollout batch, and hands the new weights to the sampler."""
        train, lr = self.params.train, rules.learning_rate(self.params.train, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total_loss = total_norm = 0.0
        columns = []
        for rows in mini_batches(task.experience, self.params.train.updates_per_batch):
            self.optimizer.zero_grad(set_to_none=True)
            accumulated = accumulate_gradients(task, rows)
            total_loss += accumulated.loss
            columns.append(accumulated.columns)
            for parameter in self.trained:
                # Where no row has a term no pass was made: the gradient is 0, not missing, for the optimiser's momentum
                # and decay must see it.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            norm = whole(torch.nn.utils.clip_grad_norm_(self.trained, train.max_grad_norm))
            if not torch.isfinite(norm):
                raise Diverged(f"{self.run}: the gradient's norm at step {step} is {norm.item()}: lower train.lr")
            total_norm += norm.item()
            self.optimizer.step()
        # One synchronisation is enough, however many updates a batch feeds: nothing is sampled between them.
        self.engine.sync_weights()
        count = train.updates_per_batch
        gathered = gather_columns(join_columns(columns), self.ranks)
        return Update(total_loss / count, total_norm / count, lr, gathered)

    def write(self, step: Step, number: int) -> dict[str, float | None]:
        """Hands the step's rollouts over to be written, and returns its metrics."""
        identity = {
            "run": self.run, "method": self.name, "seed": self.seed, "step": number,
            "verifier": self.verifier.name, "verifier_version": self.verifier.version,
        }  # fmt: skip
        path = self.state / "rollouts" / f"step-{number:06d}-rank-0.parquet"

        def write() -> None:
            write_rollouts(path, rollout_rows(step, identity), token_columns(step, self.pieces))

        self.records.put(path, write)
        append_digests(self.state, number, step.sampled.rollouts, self.policies.student)
        leaks = leak_shares(step.sampled.texts, step.sampled.shown_problems, self.params.watch)
        return step_metrics(step, self.method) | leaks

    def evaluate(self, step: int) -> dict[str, float]:
        """Samples benchmarks and validation, stores every answer, and returns the accuracies."""
        identity = Identity(self.run, self.name, self.seed, step)
        params = self.params.evaluation
        rows = evaluate(
            self.engine, self.tokenizer, self.verifier, self.sets, params, identity, params.samples,
            show=self.ranks.first,
        )  # fmt: skip
        if self.ranks.first:
            path = self.state / "evaluations" / f"step-{step:06d}.parquet"
            self.records.put(path, lambda: write_evaluations(path, rows))
        return accuracies(rows)
