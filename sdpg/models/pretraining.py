"""Trains the base model of the tiny world: a language model from scratch, on texts with and without a hint.

The texts are answers to student prompts, with mistakes, and to teacher prompts, without; see
:mod:`sdpg.problems.synthetic`. The loss is taken on the answers only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sdpg.models.batches import token_batch
from sdpg.models.loading import response_logits, scratch_model
from sdpg.params import PromptParams, ScratchModel
from sdpg.problems.prompts import chat_prompt, prompt_ids, render_student, render_teacher
from sdpg.problems.sources import Problem
from sdpg.problems.synthetic import Chain, draw_chain
from sdpg.problems.tokenizer import pad_and_eos

BUCKET = 16
"""The number of batches drawn at once and sorted by length, so that little of a batch is padding."""


@dataclass(frozen=True)
class Text:
    """One training text, as token ids."""

    prompt: list[int]
    answer: list[int]


def pretraining_text(
    chain: Chain, params: ScratchModel, prompts: PromptParams, tokenizer: PreTrainedTokenizerBase, rng: random.Random
) -> Text:
    """Draws the style and the mistakes of one text, and returns the text."""
    problem = Problem(id="", problem=chain.problem, answer=chain.answer, solution=chain.solution, source="synthetic")
    if rng.random() < params.student_share:
        prompt = render_student(prompts, problem)
        answer = chain.work(rng, params.slip_rate, params.misconception_rate)
    else:
        prompt = render_teacher(prompts, problem)
        assert prompt is not None, "a synthetic problem always has a solution"
        answer = chain.solution
    _, eos_id = pad_and_eos(tokenizer)
    return Text(
        prompt_ids(tokenizer, chat_prompt(tokenizer, prompt, prompts)), [*prompt_ids(tokenizer, answer), eos_id]
    )


def _batches(
    params: ScratchModel,
    families: dict[str, float],
    prompts: PromptParams,
    tokenizer: PreTrainedTokenizerBase,
    held_out: frozenset[str],
) -> Iterator[list[Text]]:
    rng = random.Random(params.seed)
    names, shares = list(families), list(families.values())
    while True:
        texts: list[Text] = []
        while len(texts) < BUCKET * params.batch:
            chain = draw_chain(rng.choices(names, shares)[0], rng)
            if chain.problem not in held_out:
                texts.append(pretraining_text(chain, params, prompts, tokenizer, rng))
        texts.sort(key=lambda text: len(text.prompt) + len(text.answer))
        batches = [texts[i : i + params.batch] for i in range(0, len(texts), params.batch)]
        rng.shuffle(batches)
        yield from batches


def pretrain(
    params: ScratchModel,
    families: dict[str, float],
    prompts: PromptParams,
    tokenizer: PreTrainedTokenizerBase,
    held_out: frozenset[str],
    device: str = "cpu",
) -> PreTrainedModel:
    """Trains the base model: AdamW, one-cycle learning rate, gradients clipped at 1.

    Args:
        params: the model's size and the training's recipe.
        families: the shares of the synthetic families in the training texts.
        prompts: the same templates as in the pipeline.
        tokenizer: the world's tokenizer.
        held_out: problem texts of validation and benchmarks, which must not be trained on.
        device: the device to train on; the initial weights are the same on each.
    """
    torch.manual_seed(params.seed)
    model: Any = scratch_model(params, tokenizer)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.lr, weight_decay=0.01, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=params.lr, total_steps=params.steps, pct_start=0.1
    )
    pad_id, _ = pad_and_eos(tokenizer)
    model.train()
    batches = _batches(params, families, prompts, tokenizer, held_out)
    progress = tqdm(range(params.steps), desc="base", unit="step")
    for _ in progress:
        texts = next(batches)
        batch = token_batch([text.prompt for text in texts], [text.answer for text in texts], pad_id, device)
        loss = cross_entropy(response_logits(model, batch), batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()
