"""Runs vLLM inside the training process; see :mod:`sdpg.rollouts.vllm_engine`.

Under several ranks each has an engine of its own, which knows the other ranks only while it starts and while sharded
weights are gathered: they may generate different numbers of responses.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
import gc
from pathlib import Path
import random
from typing import Any

import numpy
import torch
from torch import distributed

from sdpg.errors import UserError
from sdpg.models.distribution import is_sharded
from sdpg.params.vllm import VllmInProcess
from sdpg.rollouts.model_weights import architecture, claim_config_folder, named_weights
from sdpg.rollouts.vllm_engine import Progress, VllmEngine
from sdpg.rollouts.vllm_start import (
    SHORTEST,
    check_device,
    check_head_size,
    check_kv_cache,
    engine_arguments,
    load_vllm,
)

_running: list["InProcessVllm"] = []
"""The engine of this process, kept until the next one: as vLLM goes, it ends torch.distributed for the process, also
where that is the trainer's."""


def close_engine() -> None:
    """Ends the engine of this process, if there is one, and torch.distributed with it.

    Left to the end of the process, vLLM would look for process groups that are gone, and say so at length.
    """
    while _running:
        _running.pop().close()


class InProcessVllm(VllmEngine):
    """An engine that follows the weights of ``model``."""

    settings: VllmInProcess

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: VllmInProcess,
        dtype: torch.dtype | None,
        longest: int,
        batch: int,
        examples: Sequence[Sequence[int]] = (),
    ) -> None:
        """Starts vLLM; up to ``batch`` sequences are generated at once, as far as the KV cache reaches.

        Raises:
            UserError: if vLLM is not installed, does not know the architecture, or does not start with the settings.
        """
        config = model.config.get_text_config()
        context = config.max_position_embeddings
        # The sequence is long enough for the canary to see the prefix cache.
        passes = dtype or getattr(torch, settings.dtype)
        super().__init__(model, tokenizer, settings, passes, min(context, max(longest, SHORTEST)), examples)
        vllm = load_vllm()
        from vllm.model_executor.models import ModelRegistry  # pyright: ignore[reportMissingImports]

        if (name := architecture(model)) not in ModelRegistry.get_supported_archs():
            raise UserError(
                f"vLLM {vllm.__version__} does not know the architecture {name}: use rollout.engine: transformers, or "
                "a model such as Qwen3"
            )
        on_gpu = torch.cuda.is_available()
        if not on_gpu:
            check_head_size(getattr(config, "head_dim", None))
        check_device(settings)
        check_kv_cache(settings, config, self.longest)
        self.asleep = False
        self.sampling_params = vllm.SamplingParams
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        close_engine()
        # A configuration without weights: the trainer's follow before anything is generated.
        root = Path(vllm.envs.VLLM_CACHE_ROOT) / "sdpg"
        folder, self.claim = claim_config_folder(model, root, distributed.get_rank() if several else 0)
        arguments = engine_arguments(
            settings.dtype, settings.kv_cache_megabytes, settings.gpu_memory_share, self.longest, batch, settings.eager
        )
        try:
            with at_work(settings.eager):
                self.llm = vllm.LLM(
                    model=str(folder), load_format="dummy", disable_log_stats=True, seed=0,
                    enable_sleep_mode=settings.sleep,
                    **({"distributed_executor_backend": "external_launcher"} if several else {}),
                    **arguments,
                )  # fmt: skip
        except (ValueError, torch.OutOfMemoryError) as error:
            raise UserError(f"vLLM does not start with the settings of rollout.vllm: {error}") from error
        _running.append(self)

    def close(self) -> None:
        """Frees vLLM's memory; the engine cannot be used any more."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        self.claim.release()

    @property
    def block(self) -> int:
        """Returns the number of tokens in a block of the prefix cache."""
        return self.llm.llm_engine.vllm_config.cache_config.block_size

    @property
    def together(self) -> bool:
        """Says whether the weights are sharded, so that they are gathered from all ranks."""
        return is_sharded(self.model)

    def send_weights(self) -> None:
        """Hands the weights over in the order that :mod:`sdpg.rollouts.vllm_engine` states."""
        with at_work(self.settings.eager):
            if self.asleep:
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named_weights(self.model)})
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
                self.asleep = False
        self.forget()

    def forget(self) -> None:
        """Empties the prefix cache."""
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM's prefix cache is in use while nothing is generated")

    def sample(
        self, prompts: Sequence[Sequence[int]], options: list[dict[str, Any]], seed: int, progress: Progress
    ) -> list[tuple[list[int], list[float]]]:
        """Draws a response for each prompt, see :meth:`VllmEngine.sample`."""
        with at_work(self.settings.eager, seed):
            outputs = self.llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                [self.sampling_params(**option) for option in options],
                # vLLM asks for one bar around the prompts, and for another one around the tokens.
                use_tqdm=lambda *prompts, **_: prompts[0] if prompts else _Bar(progress),
            )
        responses = []
        for output in outputs:
            ids = list(output.outputs[0].token_ids)
            logprobs = output.outputs[0].logprobs
            responses.append((ids, [places[token].logprob for places, token in zip(logprobs, ids, strict=True)]))
        return responses

    def sync_weights(self) -> None:
        """Takes over the trainer's weights, see :meth:`VllmEngine.sync_weights`."""
        super().sync_weights()
        # The canary's prompts may be asked next.
        self.forget()

    def generate(self, prompts: Any, sampling: Any, progress: Progress = lambda finished: None) -> list[Any]:
        """Generates one response per prompt, see :meth:`VllmEngine.generate`."""
        if self.synced:
            # What earlier calls left in the cache could change roundings: a resumed run would not repeat them.
            self.forget()
        return super().generate(prompts, sampling, progress)

    def rest(self) -> None:
        """Drops weights and KV cache where ``sleep`` asks for it, and keeps nothing of them on the host."""
        if self.settings.sleep and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep, self.synced = True, False


@contextmanager
def at_work(eager: bool, seed: int | None = None) -> Iterator[None]:
    """Guards calls of vLLM, which seeds the process's random sources and forbids ``torch.set_num_threads``.

    Args:
        eager: whether nothing is compiled.
        seed: the seed of all sources within the call, from which responses without a seed of their own are drawn: from
            torch's by vLLM's model runner V1, from NumPy's by V2. All sources are set back afterwards, so without
            another seed for each call, each would draw the same.
    """
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    sources = random.getstate(), numpy.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        if eager:
            # Small helpers would be compiled all the same, for 10 seconds.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if seed is not None:
            random.seed(seed)
            numpy.random.seed(list(seed.to_bytes(8, "big")))
            torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads = set_threads
            torch.set_num_threads(threads)
            random.setstate(sources[0])
            numpy.random.set_state(sources[1])


class _Bar:
    """An object with the methods that vLLM needs of a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.n, self.postfix = progress, 0, ""
        self.format_dict = {"elapsed": 1.0}

    def update(self, count: int) -> None:
        self.n += count
        self.progress(count)

    def refresh(self) -> None: ...

    def close(self) -> None: ...
