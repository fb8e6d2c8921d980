"""Algorithm 1: rollouts → rewards → advantages and gate → losses → update → log, resumable at any instant.

Axes: P prompts a step, G responses per prompt, B = P·G rollouts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
import random
from typing import Any

import torch
from torch import Tensor

from sdpg.errors import Diverged, UserError
from sdpg.evaluation.evaluation import Identity, accuracies, evaluate
from sdpg.models.experience import Experience, Signals
from sdpg.models.loading import trainable
from sdpg.models.passes import Policies
from sdpg.models.ranks import whole
from sdpg.objective import schedules
from sdpg.objective.advantages import gate, group_advantages
from sdpg.objective.losses import reference_term
from sdpg.objective.methods import Coefficients, coefficients, teacher_rows, trained_rows
from sdpg.params import MethodParams, Params
from sdpg.problems.prompts import PreparedRow, prompt_ids
from sdpg.records.schemas import write_evaluations, write_rollouts
from sdpg.rewards.verifiers import Scorer, Verdict
from sdpg.rollouts import RolloutEngine, Sampling
from sdpg.seeds import derive_seed
from sdpg.training.checkpoints import cut_after, load_checkpoint, save_checkpoint
from sdpg.training.leakage import leak_shares
from sdpg.training.metrics import step_metrics
from sdpg.training.recording import diagnose, rollout_rows, sample_rows
from sdpg.training.step_log import Logbook, Stopwatch
from sdpg.training.term_gradients import term_gradients
from sdpg.training.update import Task, accumulate_gradients

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def step_prompts(count: int, per_step: int, step: int, seed: int) -> list[int]:
    """Which of ``count`` problems step k takes: whole epochs, each in an order of its own, cut into steps.

    The order depends on the seed alone, so that methods meet the same problems at the same step.
    """
    places = (divmod(place, count) for place in range((step - 1) * per_step, step * per_step))
    return [_epoch_order(count, seed, epoch)[position] for epoch, position in places]


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
    return order


@dataclass
class Trainer:
    """One training run: a method, a seed, and the folder in which its work in progress lies.

    Attributes:
        params: the pipeline's.
        name: of the method, as in ``methods.<name>``.
        method: its values.
        seed: of prompts and sampling.
        state: ``.state/<fingerprint>``.
        policies: the models.
        tokenizer: theirs.
        engine: samples from the student.
        verifier: scores answers.
        problems: to train on.
        sets: benchmarks and validation, by name.
        base_accuracies: of step 0, by name.
        on_step: told (step, metrics) after every step, for tracking; where it returns True, training ends there.
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

    def __post_init__(self) -> None:
        train = self.params.train
        self.run = f"{self.name}-{self.seed}"
        self.ranks = self.policies.ranks
        self.trained = trainable(self.policies.student)
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay
        )
        self.warmup, self.decay = (schedules.window(part, train.steps) for part in (train.lr_warmup, train.lr_decay))

    def train(self) -> None:
        """Runs the steps that are still missing; the first rank alone writes, beside them all."""
        train, ranks = self.params.train, self.ranks
        done = self.resume()
        book = None
        if ranks.first:
            base = {name: self.base_accuracies[name] for name in self.sets}
            book = Logbook(self.state, self.run, self.params, base, self.on_step)
        self.engine.sync_weights()
        for step in range(done + 1, train.steps + 1):
            watch = Stopwatch()
            metrics = self.step(step, watch)
            accuracy: dict[str, float] = {}
            if step % train.eval_every == 0 or step == train.steps:
                accuracy = self.evaluate(step)
                watch.lap("evaluation")
            # Whether to end here is the first rank's to say: it alone has the books.
            stop = ranks.from_first(book is not None and book.enter(step, metrics, accuracy, watch))
            if stop or step % train.checkpoint_every == 0 or step == train.steps:
                save_checkpoint(self.state, step, self.policies.student, self.optimizer, ranks)
            if stop:
                break
        if book is not None:
            book.close()

    def resume(self) -> int:
        """Restores the newest checkpoint, cuts what lies past it, and returns its step."""
        self.state.mkdir(parents=True, exist_ok=True)
        done = load_checkpoint(self.state, self.policies.student, self.optimizer)
        if set(self.ranks.values(done)) != {done}:
            raise UserError(
                f"{self.state}: the processes find checkpoints of different steps: all machines must see the same "
                "files, so put the project on a folder that they share"
            )
        if self.ranks.first:
            cut_after(self.state, done)
        self.ranks.wait()
        return done

    def step(self, step: int, watch: Stopwatch) -> dict[str, float | None]:
        """One rollout batch and its update(s); returns the step's metrics, which only the first rank knows."""
        train, at = self.params.train, coefficients(self.method, step, self.params.train.steps)
        chosen = [self.problems[i] for i in step_prompts(len(self.problems), train.prompts_per_step, step, self.seed)]
        experience, texts, verdicts = self.rollouts(chosen, step, watch)
        everyone = range(len(texts))
        self.judge(experience, verdicts, at)
        watch.lap("update")

        recorded = step % train.record_every == 0 or step in (1, train.steps)
        diagnosed: dict[int, dict[str, list[float]]] = {}
        if recorded and train.record_rows:
            rows = sample_rows(len(texts), train.record_rows, derive_seed(self.seed, "record", step))
            diagnosed = diagnose(self.policies, experience, rows, self.method, train)
            watch.lap("diagnostic")

        task = Task(
            self.policies, experience, self.method, at, train, self.params.rollout.max_tokens,
            self.state / f"not-finite-step-{step:06d}.json",
        )  # fmt: skip
        gradients: dict[str, float | None] = {}
        if train.gradients_every and (step % train.gradients_every == 0 or step == 1):
            gradients = term_gradients(task, self.mini_batches(experience)[0])
            watch.lap("diagnostic")

        signals = Signals()
        lr = schedules.learning_rate(
            step, train.lr, self.warmup, train.lr_starts_at_zero, train.steps, self.decay, train.lr_shape
        )
        loss, grad_norm = self.update(step, task, lr, signals)
        signals = signals.gathered(self.ranks)
        watch.lap("update")
        if not self.ranks.first:
            return {}
        metrics = step_metrics(experience, verdicts, signals, diagnosed, train.responses_per_prompt, self.method)
        metrics |= gradients | leak_shares(texts, chosen, self.params.watch) | {
            "loss": loss, "grad_norm": grad_norm, "lr": lr,
            "alpha": at.alpha, "beta": at.beta, "rlsd_lambda": at.rlsd_lambda,
            "teacher_rows": float(teacher_rows(self.method, at, experience.advantages, experience.gates).sum()),
            "trained_rows": float(trained_rows(self.method, at, experience.advantages, experience.gates).sum()),
            "truncated": sum(ids[-1] != self.tokenizer.eos_token_id for ids in experience.responses) / len(everyone),
        }  # fmt: skip
        identity = {
            "run": self.run, "method": self.name, "seed": self.seed, "step": step,
            "verifier": self.verifier.name, "verifier_version": self.verifier.version,
        }  # fmt: skip
        write_rollouts(
            self.state / "rollouts" / f"step-{step:06d}-rank-0.parquet",
            rollout_rows(identity, self.tokenizer, chosen, experience, texts, verdicts, signals, diagnosed),
        )
        watch.lap("record")
        return metrics

    def rollouts(
        self, chosen: Sequence[PreparedRow], step: int, watch: Stopwatch
    ) -> tuple[Experience, list[str], list[Verdict]]:
        """Samples G responses per problem from the current weights and verifies them."""
        rollout, siblings = self.params.rollout, self.params.train.responses_per_prompt
        asked = [row for row in chosen for _ in range(siblings)]
        student_prompts = [prompt_ids(self.tokenizer, row.student_prompt) for row in asked]
        sampling = Sampling(
            rollout.temperature, rollout.top_p, rollout.max_tokens, derive_seed(self.seed, "rollout", step)
        )
        completions = self.engine.generate(student_prompts, sampling)
        watch.lap("rollout")
        texts = [self.tokenizer.decode(completion.ids, skip_special_tokens=True) for completion in completions]
        verdicts = self.verifier.score(
            texts, [row.answer for row in asked], [completion.truncated for completion in completions]
        )
        watch.lap("reward")
        experience = Experience(
            problem_ids=[row.id for row in asked],
            student_prompts=student_prompts,
            teacher_prompts=[prompt_ids(self.tokenizer, row.teacher_prompt or "") for row in asked],
            responses=[completion.ids for completion in completions],
            rollout_logprobs=[completion.rollout_logprobs for completion in completions],
            advantages=torch.zeros(len(asked), dtype=torch.float64),
            gates=torch.zeros(len(asked), dtype=torch.float64),
        )
        return experience, texts, verdicts

    def judge(self, experience: Experience, verdicts: Sequence[Verdict], at: Coefficients) -> None:
        """Fills advantages and gates, and the log-probs that must be those of the start of the step."""
        train, everyone = self.params.train, list(range(len(verdicts)))
        rewards = torch.tensor([verdict.reward for verdict in verdicts], dtype=torch.float64)
        if self.method.reference != "none" and self.method.reference_in == "reward":
            rewards = rewards - at.alpha * self.reference_penalty(experience, everyone)
        groups = rewards.view(-1, train.responses_per_prompt)
        advantages = group_advantages(groups, train.advantage_std, train.advantage_eps)
        # The first rank decides: who differed in a last bit could plan other passes than the rest.
        flat = self.ranks.from_first(advantages.flatten().tolist())
        advantages = torch.tensor(flat, dtype=torch.float64).view_as(advantages)
        experience.advantages = advantages.flatten()
        kind = self.method.gate if self.method.distillation != "none" else "positive"
        experience.gates = gate(advantages, kind).flatten()
        budget = train.tokens_per_micro_batch
        if train.old_logprobs == "rollout":
            experience.old_logprobs = [torch.tensor(values) for values in experience.rollout_logprobs]
        elif train.updates_per_batch > 1:
            found = self.policies.sampled_logprobs(
                self.policies.student, experience, everyone, experience.student_prompts, budget
            )
            experience.old_logprobs = [found[row] for row in everyone]
        if train.updates_per_batch > 1 and at.rlsd_lambda > 0:
            read = teacher_rows(self.method, at, experience.advantages, experience.gates).nonzero().flatten().tolist()
            scored = self.policies.sampled_logprobs(
                self.policies.teacher(self.method), experience, read, experience.teacher_prompts, budget,
                self.policies.teacher_temperature(train),
            )  # fmt: skip
            experience.teacher_logprobs = [scored.get(row) for row in everyone]

    def reference_penalty(self, experience: Experience, rows: list[int]) -> Tensor:
        """D4: the summed per-token KL estimate of each response, (B,), to subtract from its reward."""
        arguments = (experience, rows, experience.student_prompts, self.params.train.tokens_per_micro_batch)
        student = self.policies.sampled_logprobs(self.policies.student, *arguments)
        reference = self.policies.sampled_logprobs(self.policies.reference, *arguments)
        kind = self.method.reference
        assert kind != "none"
        return torch.stack([reference_term(student[i], reference[i], kind).double().sum() for i in rows])

    def mini_batches(self, experience: Experience) -> list[range]:
        """The rows of each optimiser update."""
        size = len(experience.responses) // self.params.train.updates_per_batch
        return [range(start, start + size) for start in range(0, len(experience.responses), size)]

    def update(self, step: int, task: Task, lr: float, signals: Signals) -> tuple[float, float]:
        """The optimiser updates of one rollout batch; returns loss and gradient norm, averaged over the updates."""
        train = self.params.train
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total_loss = total_norm = 0.0
        for rows in self.mini_batches(task.experience):
            self.optimizer.zero_grad(set_to_none=True)
            total_loss += accumulate_gradients(task, rows, signals)
            for parameter in self.trained:
                # Where no row has a term no pass was made: the gradient is 0, which the optimiser's momentum and decay
                # must see, and not missing.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            norm = whole(torch.nn.utils.clip_grad_norm_(self.trained, train.max_grad_norm))
            if not torch.isfinite(norm):
                raise Diverged(f"{self.run}: the gradient's norm at step {step} is {norm.item()}: lower train.lr")
            total_norm += norm.item()
            self.optimizer.step()
        # Once, however many updates a batch feeds: nothing is sampled between them.
        self.engine.sync_weights()
        return total_loss / train.updates_per_batch, total_norm / train.updates_per_batch

    def evaluate(self, step: int) -> dict[str, float]:
        """Samples benchmarks and validation, stores every answer, returns accuracies."""
        identity = Identity(self.run, self.name, self.seed, step)
        params = self.params.evaluation
        rows = evaluate(
            self.engine, self.tokenizer, self.verifier, self.sets, params, identity, params.samples,
            show=self.ranks.first,
        )  # fmt: skip
        if self.ranks.first:
            write_evaluations(self.state / "evaluations" / f"step-{step:06d}.parquet", rows)
        return accuracies(rows)
