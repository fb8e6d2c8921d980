"""Starts a vLLM server that a run with rollout.vllm.mode: server can use, on this machine. Ctrl-C ends it.

Lengths, limits and address come from params.yaml; memory and dtype are options here, because they are the server's own.
"""

import argparse
import json
import os
import secrets
import shlex
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import UserError, entry_point
from sdpg.paths import BASE_MODEL

if TYPE_CHECKING:
    from sdpg.params import Params


def command(model: str, host: str, port: int, arguments: dict[str, Any]) -> list[str]:
    """Returns the server's command line."""
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    words += ["--host", host, "--port", str(port), "--tokens-only"]
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def longest_sequence(params: "Params") -> int:
    """Returns the tokens of the longest prompt with the longest response."""
    prompt = max(params.prompts.max_student_tokens, params.prompts.max_teacher_tokens)
    return prompt + max(params.rollout.max_tokens, params.evaluation.max_tokens)


def sequences(params: "Params") -> int:
    """Returns the sequences that are asked for at once: each of a run's processes sends up to a batch."""
    return max(params.rollout.batch, params.evaluation.batch) * params.train.distributed.processes


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("serve", __doc__, "--model models/base --tensor-parallel 2", "[options]")
    parser.add_argument(
        "--model",
        type=paths.given_name,
        default=str(BASE_MODEL),
        help="a folder with weights of the base's shapes; a run sends its own",
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--kv-cache-megabytes", type=int, help="needed without a GPU")
    parser.add_argument("--gpu-memory-share", type=float, default=0.9)
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs of this server")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs, nothing compiled")
    parser.add_argument("--public", action="store_true", help="listen on all addresses, for a private network alone")
    return parser


def main() -> None:
    """Replaces this process by the server."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.params import load_params
    from sdpg.params.vllm import VllmServer
    from sdpg.rollouts.vllm_start import MISSING, engine_arguments, installed

    params = load_params()
    settings = params.rollout.vllm
    if not isinstance(settings, VllmServer):
        raise UserError("rollout.vllm.mode in params.yaml is not server: set it, and rollout.vllm.url, before serving")
    if not installed():
        raise UserError(MISSING)
    if not os.path.isfile(os.path.join(options.model, "config.json")):
        raise UserError(
            f"--model {options.model} has no config.json: name the folder of the base, or of one of its shape"
        )
    import torch

    on_gpu = torch.cuda.is_available()
    if options.kv_cache_megabytes is None and not on_gpu:
        raise UserError("--kv-cache-megabytes is missing, and there is no GPU whose memory could be shared: give it")
    arguments = engine_arguments(
        options.dtype, options.kv_cache_megabytes, options.gpu_memory_share, longest_sequence(params),
        sequences(params), options.eager,
    )  # fmt: skip
    arguments["tensor_parallel_size"] = options.tensor_parallel
    # Without seeds of their own, responses come from one source: another one after each start.
    arguments["seed"] = secrets.randbelow(1 << 31)
    address = urlsplit(settings.url)
    line = command(options.model, "0.0.0.0" if options.public else "127.0.0.1", address.port or 80, arguments)
    # Weights are handed over by calls that only a server for development offers.
    os.environ |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if options.eager:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    print(shlex.join(line), flush=True)
    os.execv(line[0], line)


if __name__ == "__main__":
    entry_point(main)
