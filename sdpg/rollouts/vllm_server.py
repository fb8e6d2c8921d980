"""Uses vLLM as a server of its own, on this machine or another; see :mod:`sdpg.rollouts.vllm_engine`.

Tokens go in and come out (``/inference/v1/generate``). Weights are handed over through a folder that trainer and server
both see: safetensors written piece by piece, which the server reloads in place. Every hand-over has a version; a
response that was drawn, even in part, under another one is refused, so that two runs cannot share a server unnoticed.

Requests that are in flight at once may be batched otherwise the next time, which moves log-probs by rounding: a resumed
run draws the same responses up to that.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
import re
import shutil
from typing import Any
import uuid

import httpx2
from safetensors.torch import save_file
import torch
from torch import distributed

from sdpg.errors import UserError
from sdpg.files import replaced_folder
from sdpg.params.vllm import VllmServer
from sdpg.rollouts.model_weights import named_weights
from sdpg.rollouts.vllm_engine import Progress, VllmEngine

CONNECT_SECONDS = 10
PIECE_BYTES = 1 << 30
"""Bytes of one file of weights, about which much is in memory at once."""
WEIGHT_FILE = re.compile(r"model-\d{5}\.safetensors")
START = "start it with `sdpg serve`"


def check_weights_folder(folder: Path) -> None:
    """Refuses a folder for weights that holds anything else, as it is replaced at each step and removed.

    Raises:
        UserError: if the folder is no folder, or one with other files in it.
    """
    if not folder.exists():
        return
    others = [path.name for path in folder.iterdir() if not WEIGHT_FILE.fullmatch(path.name)] if folder.is_dir() else []
    if others or not folder.is_dir():
        held = f"holds {others[0]}" if others else "is a file"
        raise UserError(
            f"rollout.vllm.weights_folder is {folder}, which {held} and would be replaced by weights: name a folder "
            "that does not exist yet"
        )


class ServedVllm(VllmEngine):
    """An engine whose server follows the weights of ``model``."""

    settings: VllmServer

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: VllmServer,
        dtype: torch.dtype | None,
        longest: int,
        batch: int,
        examples: Sequence[Sequence[int]] = (),
    ) -> None:
        """Connects to the server; up to ``batch`` requests are sent at once.

        Raises:
            UserError: if there is no server, or it was started with options under which it cannot be used.
        """
        self.settings = settings
        # A proxy from the environment is for the internet, not for this server.
        limits = httpx2.Limits(max_connections=batch, max_keepalive_connections=batch)
        self.client = httpx2.Client(trust_env=False, limits=limits)
        self.batch = batch
        served = self.ask("GET", "/server_info?config_format=json")["vllm_config"]
        if (mode := served["model_config"]["logprobs_mode"]) != "processed_logprobs":
            raise UserError(
                f"the server at {settings.url} runs with --logprobs-mode {mode}, and so returns log-probs of another "
                f"distribution than the one it draws from: {START}, or with --logprobs-mode processed_logprobs"
            )
        if not served["model_config"]["dtype"].endswith("float32") and (
            served["model_config"]["hf_overrides"].get("head_dtype") != "float32"
        ):
            raise UserError(
                f"the server at {settings.url} rounds its logits to {served['model_config']['dtype']}, which moves "
                f'log-probs by more than all else: {START}, or with --hf-overrides \'{{"head_dtype": "float32"}}\''
            )
        self.block_size = int(served["cache_config"]["block_size"])
        # A policy that nobody trains is read as the server reads it.
        passes = dtype or getattr(torch, served["model_config"]["dtype"].removeprefix("torch."))
        super().__init__(model, tokenizer, settings, passes, int(served["model_config"]["max_model_len"]), examples)
        if longest > self.longest:
            raise UserError(
                f"the longest prompt and response take {longest} tokens, but the server at {settings.url} was started "
                f"for sequences of {self.longest} (max_model_len): start it again with the present params.yaml, or "
                "lower the limits of prompts and responses"
            )
        self.version = ""

    @property
    def block(self) -> int:
        """Returns the number of tokens in a block of the prefix cache."""
        return self.block_size

    @property
    def together(self) -> bool:
        """Says that the ranks, which share the server, hand weights over as one."""
        return True

    def rest(self) -> None:
        """Does nothing: the server's memory is its own."""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Sends one request and returns the answer's JSON.

        Raises:
            UserError: if the server does not answer, or answers with an error.
        """
        url = self.settings.url + path
        try:
            patience = httpx2.Timeout(self.settings.timeout, connect=CONNECT_SECONDS)
            answer = self.client.request(method, url, json=body, timeout=patience)
        except httpx2.TimeoutException as error:
            raise UserError(
                f"{url} did not answer within {self.settings.timeout:g} s (rollout.vllm.timeout): raise it, or look "
                f"into the server's log ({error})"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UserError(
                f"the vLLM server at {self.settings.url} (rollout.vllm.url) cannot be reached, or died while it "
                f"answered {path}: {START}, look into its log if it was running, and give the same command again; a "
                f"training run goes on from its last checkpoint ({error})"
            ) from None
        if answer.status_code in (403, 404):
            raise UserError(
                f"the server at {self.settings.url} does not offer {path.split('?')[0]} ({answer.status_code}): "
                f"{START}, which sets VLLM_SERVER_DEV_MODE=1 and --tokens-only"
            )
        if not answer.is_success:
            raise UserError(
                f"the server at {self.settings.url} answers {path} with {answer.status_code}: {answer.text[:1000]}; "
                "look into its log, and give the same command again when it runs"
            )
        return answer.json() if answer.content else None

    def send_weights(self) -> None:
        """Hands the weights over through the folder, in the order that :mod:`sdpg.rollouts.vllm_engine` states."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        first = not several or distributed.get_rank() == 0
        folder = Path(self.settings.weights_folder).resolve()
        if first:
            check_weights_folder(folder)
            with replaced_folder(folder) as temporary:
                self._write(temporary)
            self.ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
            if not self.ask("POST", "/reset_prefix_cache")["success"]:
                raise UserError(
                    f"the server at {self.settings.url} is answering others while it gets new weights: let no two runs "
                    "share a server"
                )
            self.version = uuid.uuid4().hex
            self.ask("POST", "/update_weight_version", {"new_version": self.version})
            shutil.rmtree(folder)
        else:
            # Sharded weights are gathered from all ranks.
            for _ in named_weights(self.model):
                pass
        if several:
            distributed.barrier()
            if not first:
                self.version = self.ask("GET", "/weight_info")["weight_version"]

    def _write(self, folder: Path) -> None:
        piece: dict[str, torch.Tensor] = {}
        number = size = 0
        for name, tensor in named_weights(self.model):
            # Tied weights share memory, which safetensors refuses.
            piece[name] = tensor.to("cpu", self.dtype, copy=True).contiguous()
            size += piece[name].nbytes
            if size >= PIECE_BYTES:
                save_file(piece, folder / f"model-{number:05d}.safetensors")
                piece, number, size = {}, number + 1, 0
        if piece:
            save_file(piece, folder / f"model-{number:05d}.safetensors")

    def sample(
        self, prompts: Sequence[Sequence[int]], options: list[dict[str, Any]], seed: int, progress: Progress
    ) -> list[tuple[list[int], list[float]]]:
        """Draws a response for each prompt, see :meth:`VllmEngine.sample`."""

        def draw(index: int) -> tuple[list[int], list[float]]:
            body = {"token_ids": list(prompts[index]), "sampling_params": options[index]}
            return self._drawn(self.ask("POST", "/inference/v1/generate", body)["choices"][0])

        with ThreadPoolExecutor(self.batch, thread_name_prefix="vllm") as pool:
            waiting = {pool.submit(draw, index): index for index in range(len(prompts))}
            try:
                for future in as_completed(waiting):
                    future.result()
                    progress(1)
            except UserError:
                # Requests that are not sent yet are dropped; a run that stops must not wait for them.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        responses = {index: future.result() for future, index in waiting.items()}
        return [responses[index] for index in range(len(prompts))]

    def _drawn(self, choice: Any) -> tuple[list[int], list[float]]:
        versions = {span["version"] for span in choice["weight_versions"] or []}
        if versions != {self.version}:
            raise UserError(
                f"the server at {self.settings.url} answered under other weights than this run handed over: another "
                "run uses it, or it was started again meanwhile; give each run a server of its own, and the same "
                "command again: a training run goes on from its last checkpoint"
            )
        return choice["token_ids"], [entry["logprob"] for entry in choice["logprobs"]["content"]]
