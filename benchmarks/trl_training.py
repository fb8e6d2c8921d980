"""Runs TRL's GRPOTrainer on what our trainer trains on: model, prompts, verifier, settings."""

from collections.abc import Callable
from dataclasses import dataclass
import tempfile
import time
from typing import Any

from sdpg import paths
from sdpg.models.loading import load_model
from sdpg.params import Params
from sdpg.problems.prompts import prompt_ids, read_prepared
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.rewards.verifiers import Verifier
from sdpg.training.steps import step_prompts


@dataclass(frozen=True)
class Turns:
    """The functions by which a trainer takes turns with another.

    Attributes:
        wait: a function that returns when the next step may begin.
        answer: a function that sends a message to the other side.
    """

    wait: Callable[[], None]
    answer: Callable[[dict[str, Any]], None]


def run_trl(params: Params, method: str, steps: int, turns: Turns) -> None:
    """Trains with TRL; the prompts of step k are those of our trainer's first step with seed k."""
    from datasets import Dataset
    from trl.trainer.grpo_trainer import GRPOTrainer

    tokenizer = load_tokenizer(paths.BASE_MODEL)
    problems = read_prepared(paths.PREPARED / "train.jsonl")
    chosen = [step_prompts(len(problems), params.train.prompts_per_step, 1, seed) for seed in range(1, steps + 1)]
    rows = [problems[index] for step in chosen for index in step]
    for row in rows:
        assert tokenizer(text=row.student_prompt)["input_ids"] == prompt_ids(tokenizer, row.student_prompt), (
            "TRL would tokenize this prompt in another way"
        )

    def reward(
        completions: list[str], completion_ids: list[list[int]], gold: list[str], **_: Any
    ) -> list[float | None]:
        truncated = [ids[-1] != tokenizer.eos_token_id for ids in completion_ids]
        return [verdict.reward for verdict in verifier.score(completions, gold, truncated)]

    with tempfile.TemporaryDirectory() as folder, Verifier(params.reward) as verifier:
        trainer = GRPOTrainer(
            model=load_model(paths.BASE_MODEL),
            reward_funcs=reward,
            args=trl_config(params, method, steps, folder),
            train_dataset=Dataset.from_list([{"prompt": row.student_prompt, "gold": row.answer} for row in rows]),
            processing_class=tokenizer,
        )
        trainer.add_callback(timing_callback(trainer, turns))
        turns.answer({"ready": True})
        trainer.train()


def trl_config(params: Params, method: str, steps: int, folder: str) -> Any:
    """Returns TRL's settings: GRPO with the reference KL of ``methods.grpo``, one batch per step, nothing logged."""
    from trl.trainer.grpo_config import GRPOConfig

    train, rollout, settings = params.train, params.rollout, params.methods[method]
    return GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=train.prompts_per_step * train.responses_per_prompt,
        num_generations=train.responses_per_prompt,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        shuffle_dataset=False,
        beta=settings.alpha,
        epsilon=settings.clip_low,
        epsilon_high=settings.clip_high,
        # Of TRL's normalisers, the token mean over the batch is the nearest to ours within each group.
        loss_type="dapo",
        # This selects the plain k3 term, as in methods.grpo.
        use_bias_correction_kl=False,
        learning_rate=train.lr,
        lr_scheduler_type="constant",
        weight_decay=train.weight_decay,
        adam_beta1=train.betas[0],
        adam_beta2=train.betas[1],
        max_grad_norm=train.max_grad_norm,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def timing_callback(trainer: Any, turns: Turns) -> Any:
    """Returns a callback that waits for its turn before each step, and reports how long the step and its parts took."""
    from transformers import TrainerCallback

    spent = {"rollout": 0.0, "reward": 0.0}
    tokens = [0]

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **named)
            spent[part] += time.perf_counter() - start
            if part == "rollout":
                tokens[0] = sum(map(len, result[1]))
            return result

        return run

    # Sampling includes tokenising and decoding, as in our rollouts.
    trainer._generate = timed("rollout", trainer._generate)
    trainer._calculate_rewards = timed("reward", trainer._calculate_rewards)

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()
            spent.update(rollout=0.0, reward=0.0)
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            whole = time.perf_counter() - self.start
            turns.answer(spent | {"update": whole - sum(spent.values()), "response_tokens": float(tokens[0])})

    return Steps()
