"""The section ``rollout.vllm`` of params.yaml: where vLLM runs and what it may use."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdpg.params.section import Positive, Section, holds_secret

Tolerance = Annotated[float, Field(gt=0)]


class VllmInProcess(Section):
    """vLLM inside each training process, on the same device."""

    mode: Literal["in_process"]
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """The type of vLLM's copy of the weights, and of its passes."""
    kv_cache_megabytes: Positive | None = None
    """The memory of the KV cache, in MiB. Weights and activations come on top, and nothing else of the device is asked
    to be free."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the device's memory for vLLM as a whole: weights, activations and KV cache. Exactly one of this and
    ``kv_cache_megabytes`` is given; without a GPU it is the latter. So much of the device must be free at the start,
    beside the trainer's weights."""
    eager: bool = False
    """Whether vLLM runs without CUDA graphs and compilation: it starts sooner and generates more slowly."""
    sleep: bool = False
    """Whether vLLM's memory is the trainer's from the end of the rollouts to the end of the updates: weights and KV
    cache are dropped, nothing is kept on the host, and the weights are handed over again. It needs a GPU."""
    request_seeds: bool = True
    """Whether every response has a random source of its own, so that it does not depend on what else is in the batch.
    On a GPU this costs nothing: vLLM's model runner V2 gives every response a seed and draws all of a batch in one
    kernel. V1, which runs on CPUs, draws them one by one, a row of the vocabulary per response and token. False: the
    seeds, or V1's numbers, come from one source, seeded anew at each call."""
    canary_tolerance: Tolerance = 0.05
    """The mean difference per token, in nats, that is allowed between vLLM's log-probs and the trainer's after each
    sync; :mod:`sdpg.rollouts.canary` derives 0.05 for bfloat16. In float32 on both sides, use 1e-3."""

    @model_validator(mode="after")
    def _one_way_of_saying_how_much(self) -> "VllmInProcess":
        if (self.kv_cache_megabytes is None) == (self.gpu_memory_share is None):
            raise ValueError(
                f"kv_cache_megabytes is {self.kv_cache_megabytes} and gpu_memory_share is {self.gpu_memory_share}: "
                "give exactly one of the two, and leave the other out or null"
            )
        return self


class VllmServer(Section):
    """A server that ``sdpg serve`` started, or one started with the same options elsewhere."""

    mode: Literal["server"]
    url: Annotated[str, Field(pattern=r"^https?://[^/]+(:\d+)?$")] = "http://127.0.0.1:8000"
    weights_folder: str = ".state/served-weights"
    """The folder in which the weights are handed over after a step's updates; the server must see it under the same
    path."""
    timeout: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that one response, or one transfer of weights, may take."""
    request_seeds: bool = True
    """The same as in :class:`VllmInProcess`; False: they come from the server's own source, and nobody can draw them
    again, not even a resumed run."""
    canary_tolerance: Tolerance = 0.05
    """The same as in :class:`VllmInProcess`."""

    @model_validator(mode="after")
    def _no_secret(self) -> "VllmServer":
        if holds_secret(self.url):
            raise ValueError(
                "url holds a password or a token, and params.yaml is in git and in each run's config.yaml: leave it "
                "out, and let the server listen to a private network alone"
            )
        return self


VllmParams = Annotated[VllmInProcess | VllmServer, Field(discriminator="mode")]
