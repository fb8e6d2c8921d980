"""Prints digests of what the tiny profile computes: 50 steps of its base, its samples, five updates of each method.

``python -m tests.helpers.digests``. It is a program of its own, because kernels are chosen before torch is imported.
"""

import hashlib
import json
from pathlib import Path
import random
import sys

from sdpg.params import MethodParams, SyntheticSource, load_params
from sdpg.params.base import ScratchModel
from sdpg.params.configure import read_overlay
from sdpg.records.cpu_kernels import cpu_kernels, fix_cpu_kernels

ROOT = Path(__file__).parents[2]
STEPS = 50


def main() -> None:
    params = load_params(ROOT / "params.yaml")
    fix_cpu_kernels(params.train.cpu_kernels)
    import torch

    from sdpg.models.pretraining import pretrain
    from sdpg.problems.prepare import world_tokenizer
    from sdpg.problems.prompts import chat_prompt, prompt_ids, render_student
    from sdpg.problems.sources import Problem
    from sdpg.problems.synthetic import draw_chain
    from sdpg.rollouts import Sampling
    from sdpg.rollouts.embedded import EmbeddedEngine
    from tests.helpers.plain_update import PAPER
    from tests.training.test_golden import FOLDER, final_weights

    torch.set_num_threads(1)

    def digest(tensors: "list[torch.Tensor]") -> str:
        found = hashlib.blake2b(digest_size=8)
        for tensor in tensors:
            found.update(tensor.detach().contiguous().numpy().tobytes())
        return found.hexdigest()

    overlay = read_overlay("profile", "tiny-scratch", ROOT)
    recipe = ScratchModel(**overlay["base"]["model"])
    train = params.data.train
    assert isinstance(train, SyntheticSource)
    tokenizer = world_tokenizer(recipe, train.families, params.prompts)
    found, model = {}, None
    for steps in (2, STEPS):
        some = recipe.model_copy(update={"steps": steps})
        model = pretrain(some, train.families, params.prompts, tokenizer, frozenset())
        found[f"base after {steps} steps"] = digest(list(model.parameters()))
    assert model is not None
    rng = random.Random(0)
    chains = [draw_chain("chain-3", rng) for _ in range(8)]
    texts = [render_student(params.prompts, Problem("", c.problem, c.answer, c.solution, "")) for c in chains]
    prompts = [prompt_ids(tokenizer, chat_prompt(tokenizer, text, params.prompts)) for text in texts]
    sampled = EmbeddedEngine(model, tokenizer, 64).generate(prompts * 4, Sampling(1.0, 1.0, 32, seed=0))
    found["sampled tokens"] = digest([torch.tensor([i for row in sampled for i in row.ids])])
    found["their log-probs"] = digest([torch.tensor([x for row in sampled for x in row.rollout_logprobs])])
    # Those of the paper alone have been compared on several machines.
    for path in (FOLDER / f"{name}.json" for name in sorted(PAPER)):
        method = MethodParams(**json.loads(path.read_text(encoding="utf-8"))["method"])
        found[f"five updates of {path.stem}"] = digest(final_weights(method))
    json.dump({"digests": found, "machine": cpu_kernels()}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
