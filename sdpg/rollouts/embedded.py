"""Samples rollouts by transformers' ``generate`` on the very module that is trained."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from sdpg.models.loading import take_over
from sdpg.problems.tokenizer import pad_and_eos
from sdpg.rollouts.protocol import Completion, Sampling, WeightSource
from sdpg.rollouts.stopping import stop_ids


class _SampledLogprobs(LogitsProcessor):
    """Shapes the distribution and remembers the log-prob of each token drawn from it.

    ``generate`` can return all scores instead, but that keeps (tokens × vocabulary) numbers. Here only the last step's
    distribution is held: the token drawn from it is known when the next step asks.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.warpers: list[Any] = []
        if sampling.temperature not in (0.0, 1.0):
            self.warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.temperature > 0 and sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        self.logprobs: list[Tensor] = []
        self.distribution: Tensor | None = None

    def collect(self, last_ids: Tensor) -> None:
        if self.distribution is not None:
            self.logprobs.append(self.distribution.gather(1, last_ids.unsqueeze(1)).squeeze(1))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.collect(input_ids[:, -1])
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        self.distribution = scores.float().log_softmax(-1)
        return scores


class EmbeddedEngine:
    """Generates with the trainer's module: weights need no copying, and an update is seen at once.

    Given ``weights``, which yields the trainer's, it generates with a module of its own that takes them over piece by
    piece: where they are sharded, every token would gather all of them from all ranks, as often on each.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch: int,
        weights: WeightSource | None = None,
    ) -> None:
        self.model, self.weights = model, weights
        self.pad_id, _ = pad_and_eos(tokenizer)
        self.stop_ids = stop_ids(model, tokenizer)
        self.batch = batch

    def sync_weights(self) -> None:
        """Takes over the weights; there is nothing to do where they are the trainer's own."""
        if self.weights is not None:
            take_over(self.model, self.weights())

    def rest(self) -> None:
        """Does nothing: all that this engine keeps is the module itself."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Callable[[int], object] = lambda finished: None,
    ) -> list[Completion]:
        """Generates one response per prompt; prompts of similar length share a batch."""
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        completions: dict[int, Completion] = {}
        training = self.model.training
        self.model.eval()
        # The caller's random state stays as it was: sampling must not shift any other random choice.
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(sampling.seed)
            for start in range(0, len(order), self.batch):
                members = order[start : start + self.batch]
                generated = self._generate_batch([prompts[index] for index in members], sampling)
                completions.update(zip(members, generated, strict=True))
                progress(len(members))
        self.model.train(training)
        return [completions[index] for index in range(len(prompts))]

    @torch.no_grad()
    def _generate_batch(self, prompts: list[Sequence[int]], sampling: Sampling) -> list[Completion]:
        longest = max(map(len, prompts))
        device = self.model.device
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        input_ids = torch.tensor([[self.pad_id] * (longest - len(p)) + list(p) for p in distinct], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in distinct], device=device)
        # Siblings share their prompt: it is read once, all but its last token, and the cache is copied to each.
        place = {prompt: index for index, prompt in enumerate(distinct)}
        siblings = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
        cache = None
        if longest > 1 and len(distinct) < len(prompts):
            cache = self._read(input_ids[:, :-1], mask[:, :-1])
        if cache is not None:
            cache.batch_select_indices(siblings)
        input_ids, mask = input_ids[siblings], mask[siblings]
        recorder = _SampledLogprobs(sampling)
        # Everything that shapes the distribution happens in the recorder.
        config = GenerationConfig(
            do_sample=sampling.temperature > 0,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self.stop_ids,
            pad_token_id=self.pad_id,
            # Greedy decoding reads none of these, and transformers warns of what it does not read.
            **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampling.temperature > 0 else {}),
        )
        # generate fills every field that is unset here from the model folder's own settings (Qwen3 ships top_k = 20,
        # others a repetition penalty), which must not shape the distribution a second time.
        own, self.model.generation_config = self.model.generation_config, GenerationConfig()
        try:
            output = cast(Any, self.model).generate(
                input_ids=input_ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([recorder]),
                **({} if cache is None else {"past_key_values": cache}),
            )
        finally:
            self.model.generation_config = own
        recorder.collect(output[:, -1])
        responses = output[:, longest:].tolist()
        logprobs = torch.stack(recorder.logprobs, dim=1).tolist()
        return [self._completion(ids, values) for ids, values in zip(responses, logprobs, strict=True)]

    def _read(self, input_ids: Tensor, mask: Tensor) -> DynamicCache | None:
        """Returns keys and values of left-padded prompts; None if a recurrent layer's state cannot be copied."""
        cache = DynamicCache(config=self.model.config)
        if not all(hasattr(layer, "batch_select_indices") for layer in cache.layers):
            return None
        cast(Any, self.model)(
            input_ids=input_ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return cache

    def _completion(self, ids: list[int], logprobs: list[float]) -> Completion:
        end = next((place for place, token in enumerate(ids) if token in self.stop_ids), None)
        length = len(ids) if end is None else end + 1
        return Completion(ids[:length], logprobs[:length], truncated=end is None)
