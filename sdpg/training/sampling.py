"""Samples the responses of each step from the current weights, or those of the next step ahead of its update.

Axes: P prompts a step, G responses per prompt, B = P·G rollouts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdpg.models.experience import Rollouts
from sdpg.params import RolloutParams
from sdpg.params.train import TrainParams
from sdpg.problems.prompts import PreparedRow, prompt_ids
from sdpg.problems.token_pieces import TokenPieces
from sdpg.rollouts import Completion, RolloutEngine, Sampling
from sdpg.seeds import derive_seed
from sdpg.training.steps import Sampled, step_prompts


class RolloutSampler:
    """Samples for one run.

    With ``rollout.lag`` 1, the responses of step k + 1 are drawn before the update of step k, from the weights that
    step k - 1 left: those of step k are one update older than the policy that learns from them, as where generation and
    training run side by side. Those of step 1 are as old as they are without a lag.

    Attributes:
        ahead: the responses of the next step, (B); None where they are yet to be drawn.
        staleness: the updates that were made since the present step's responses were drawn; None without a lag.
    """

    def __init__(
        self, engine: RolloutEngine, tokenizer: Any, pieces: TokenPieces, problems: list[PreparedRow],
        rollout: RolloutParams, train: TrainParams, seed: int,
    ) -> None:  # fmt: skip
        self.engine, self.tokenizer, self.pieces, self.problems = engine, tokenizer, pieces, problems
        self.rollout, self.train, self.seed = rollout, train, seed
        self.ahead: list[Completion] | None = None
        self.staleness: float | None = None

    def next(self, step: int) -> Sampled:
        """Returns the responses of step k, and with a lag draws those of the step after it."""
        ready, chosen = self.ahead, self.problems_of(step)
        if self.rollout.lag:
            self.staleness = float(ready is not None)
        sampled = self.draw(step) if ready is None else self._sampled(chosen, ready)
        self.ahead = None
        if self.rollout.lag and step < self.train.steps:
            self.ahead = self._generate(self.problems_of(step + 1), step + 1)
        return sampled

    def problems_of(self, step: int) -> list[PreparedRow]:
        """Returns the problems of step k, (P)."""
        order = step_prompts(len(self.problems), self.train.prompts_per_step, step, self.seed)
        return [self.problems[i] for i in order]

    def draw(self, step: int, chosen: list[PreparedRow] | None = None, refill: int = 0) -> Sampled:
        """Samples G responses to each of some problems, by default the step's, from the current weights."""
        chosen = self.problems_of(step) if chosen is None else chosen
        return self._sampled(chosen, self._generate(chosen, step, refill))

    def _generate(self, chosen: Sequence[PreparedRow], step: int, refill: int = 0) -> list[Completion]:
        rollout = self.rollout
        seed = derive_seed(self.seed, "rollout", step, *([refill] if refill else []))
        sampling = Sampling(rollout.temperature, rollout.top_p, rollout.max_tokens, seed)
        return self.engine.generate(self._repeated([row.student_prompt for row in chosen]), sampling)

    def _repeated(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each prompt G times. Siblings share their prompt: each is tokenised once."""
        tokens = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        return [ids for ids in tokens for _ in range(self.train.responses_per_prompt)]

    def _sampled(self, chosen: list[PreparedRow], completions: Sequence[Completion]) -> Sampled:
        rollouts = Rollouts(
            problem_ids=[row.id for row in chosen for _ in range(self.train.responses_per_prompt)],
            student_prompts=self._repeated([row.student_prompt for row in chosen]),
            teacher_prompts=self._repeated([row.teacher_prompt or "" for row in chosen]),
            responses=[completion.ids for completion in completions],
            rollout_logprobs=[completion.rollout_logprobs for completion in completions],
            ended=[not completion.truncated for completion in completions],
        )
        texts = [self.pieces.text(ids) for ids in rollouts.responses]
        return Sampled(chosen, rollouts, texts, [completion.truncated for completion in completions])

    def ahead_tensors(self) -> dict[str, Tensor] | None:
        """Returns what a checkpoint holds of the next step's responses; None where they are yet to be drawn."""
        if self.ahead is None:
            return None
        return {
            "lengths": torch.tensor([len(one.ids) for one in self.ahead]),
            "ids": torch.tensor([token for one in self.ahead for token in one.ids]),
            "logprobs": torch.tensor([v for one in self.ahead for v in one.rollout_logprobs], dtype=torch.float64),
            "truncated": torch.tensor([one.truncated for one in self.ahead]),
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Takes over what :meth:`ahead_tensors` returned; of nothing, the next step's responses are yet to be drawn."""
        if not saved:
            return
        lengths = saved["lengths"].tolist()
        parts = zip(saved["ids"].split(lengths), saved["logprobs"].split(lengths), saved["truncated"], strict=True)
        self.ahead = [Completion(ids.tolist(), values.tolist(), bool(cut)) for ids, values, cut in parts]
