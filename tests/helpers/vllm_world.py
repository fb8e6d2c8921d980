"""Makes a base that solves a third of its one-step problems, and a trainer whose rollouts come from vLLM."""

from pathlib import Path
from typing import Any

from sdpg.models.loading import scratch_model
from sdpg.models.passes import Policies
from sdpg.models.pretraining import pretrain
from sdpg.params import Params, parse_params
from sdpg.problems.prepare import prepare
from sdpg.problems.prompts import longest_prompt, prompt_ids
from sdpg.problems.tokenizer import pad_and_eos
from sdpg.rewards.verifiers import Verifier
from sdpg.rollouts.canary import EXAMPLES
from sdpg.rollouts.engines import make_engine
from sdpg.training.trainer import DTYPES, Trainer
from tests.helpers.scratch import scratch_tree

ROOT = Path(__file__).parents[2]
IN_PROCESS = {
    "mode": "in_process", "dtype": "float32", "kv_cache_megabytes": 32, "eager": True, "canary_tolerance": 1e-3,
}  # fmt: skip


def tree(vllm: dict[str, Any], **train: Any) -> dict[str, Any]:
    """params.yaml with one-step problems and vLLM; ``train`` replaces values of that section."""
    params = parse_params(scratch_tree())
    found = params.model_dump(mode="json")
    # Keys that a method uses alone, as in params.yaml: the dump writes every default.
    found["methods"] = {
        name: method.model_dump(include=method.model_fields_set) for name, method in params.methods.items()
    }
    found["data"]["train"] |= {"families": {"digit-2": 1}, "count": 100}
    found["data"]["validation_size"] = 8
    for benchmark in found["data"]["benchmarks"].values():
        benchmark["source"] |= {"families": {"digit-2": 1}, "count": 10}
    found["base"]["model"] |= {"hidden_size": 64, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 128}
    found["base"]["model"] |= {"steps": 600}
    found["rollout"] |= {"engine": "vllm", "vllm": vllm, "max_tokens": 16}
    found["evaluation"] |= {"max_tokens": 16, "samples": 2}
    found["train"] |= {"prompts_per_step": 16, "lr": 1e-3, "gradients_every": 0, "record_rows": 0} | train
    return found


class World:
    """Prepared data and a base."""

    def __init__(self) -> None:
        params = parse_params(tree(IN_PROCESS))
        source, recipe = params.data.train, params.base.model
        assert source.kind == "synthetic" and recipe.kind == "scratch"
        self.prepared = prepare(params)
        held_out = frozenset(row.problem for rows in self.prepared.benchmarks.values() for row in rows.rows)
        self.recipe, self.tokenizer = recipe, self.prepared.tokenizer
        self.base: Any = pretrain(recipe, source.families, params.prompts, self.tokenizer, held_out)

    def copy(self) -> Any:
        """The base as a module of its own."""
        model = scratch_model(self.recipe, self.tokenizer)
        model.load_state_dict(self.base.state_dict())
        return model

    def trainer(self, params: Params, verifier: Verifier, state: Path, on_step: Any = None) -> Trainer:
        """As :func:`sdpg.training.run.make_trainer` puts it together, with SDPG-UFKL."""
        student, reference = self.copy(), self.copy().requires_grad_(False)
        problems = self.prepared.train.rows
        sets = {"chain-3": self.prepared.benchmarks["chain-3"].rows, "validation": self.prepared.validation.rows}
        longest = longest_prompt([problems, *sets.values()]) + params.rollout.max_tokens
        dtype = DTYPES[params.train.dtype]
        return Trainer(
            params=params,
            name="sdpg-ufkl",
            method=params.methods["sdpg-ufkl"],
            seed=0,
            state=state,
            policies=Policies(student, reference, pad_and_eos(self.tokenizer)[0], params.rollout.temperature, dtype),
            tokenizer=self.tokenizer,
            engine=make_engine(
                params.rollout,
                student,
                self.tokenizer,
                params.rollout.batch,
                longest,
                dtype,
                examples=[prompt_ids(self.tokenizer, row.student_prompt) for row in problems[:EXAMPLES]],
            ),
            verifier=verifier,
            problems=problems,
            sets=sets,
            base_accuracies=dict.fromkeys(sets, 0.0),
            on_step=on_step or (lambda step, metrics: None),
        )


def train(
    world: World, vllm: dict[str, Any], state: Path, watch: Any = None, **changes: Any
) -> tuple[Trainer, dict[int, dict[str, float | None]]]:
    """Trains what is missing in ``state``; the trainer, and metrics by step. ``watch`` may change the trainer first."""
    params = parse_params(tree(vllm, **changes))
    logged: dict[int, dict[str, float | None]] = {}
    with Verifier(params.reward) as verifier:
        trainer = world.trainer(params, verifier, state, on_step=logged.__setitem__)
        if watch:
            watch(trainer)
        trainer.train()
    return trainer, logged
