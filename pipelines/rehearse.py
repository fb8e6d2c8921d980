"""Takes a Qwen3 profile's whole path on a CPU: writes a model of random weights and problems, and runs the pipeline.

params.yaml is then the rehearsal's: the profile's, but for paths, sizes, steps, batches and what a CPU cannot do. With
--server a vLLM server is started on this machine and ended again. See docs/scaling.md.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import UserError, entry_point

if TYPE_CHECKING:
    from sdpg.params import Params

START_SECONDS = 900
"""The longest time that a server may take to start; importing vLLM alone takes a minute on a busy CPU."""
LOG = Path(".state/rehearsal-server.log")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("rehearse", __doc__, "--dir path/to/jsonl --profile qwen3-0.6b --lora")
    parser.add_argument(
        "--dir",
        type=paths.given_path,
        default=Path(),
        help="folder with aime24.jsonl, aime25.jsonl and amc23.jsonl; otherwise .",
    )
    parser.add_argument("--profile", default="qwen3-4b", help="the profile whose path is taken; otherwise qwen3-4b")
    parser.add_argument("--server", action="store_true", help="rollouts by a vLLM server, not in the training process")
    parser.add_argument("--port", type=int, default=8000, help="the server's port on 127.0.0.1; otherwise 8000")
    parser.add_argument("--lora", action="store_true", help="train an adapter alone")
    parser.add_argument("--inputs-only", action="store_true", help="write params.yaml and the inputs, run nothing")
    for name in ("methods", "preset", "seeds"):
        parser.add_argument(f"--{name}", help="as for sdpg repro")
    return parser


def main() -> None:
    """Runs ``sdpg rehearse``."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from pipelines.rehearsal import rehearsal_changes, write_inputs
    from sdpg.params import load_params
    from sdpg.params.configure import configure
    from sdpg.planning.plan import planned_params

    url = f"http://127.0.0.1:{options.port}" if options.server else None
    changes = rehearsal_changes(options.profile, url=url, lora=options.lora)
    written = write_inputs(planned_params(options.profile, changes=changes), options.dir)
    print("\n".join(["Inputs of the rehearsal:", *(f"  {path}" for path in written)]))
    change = configure(
        profile=options.profile, preset=options.preset, methods=options.methods, seeds=options.seeds, changes=changes
    )
    print(change, end="")
    if options.inputs_only:
        return
    with served(load_params()):
        finished = subprocess.run(["dvc", "repro"])
    if finished.returncode:
        raise UserError("the rehearsal stopped, see above: mend it, and give the same command again")
    subprocess.run([sys.executable, "-m", "pipelines.show"], check=True)


@contextmanager
def served(params: "Params") -> Iterator[None]:
    """Runs a vLLM server as long as the block, if params.yaml asks for one.

    Raises:
        UserError: if its port is taken, or it does not start.
    """
    from sdpg.params.vllm import VllmServer

    settings = params.rollout.vllm
    if not isinstance(settings, VllmServer):
        yield
        return
    port = int(settings.url.rpartition(":")[2])
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"something listens on 127.0.0.1:{port} already: end it, or name another --port")
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(server_command(params), stdout=log, stderr=log)
        try:
            _wait(process, settings.url)
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def server_command(params: "Params") -> list[str]:
    """Returns the command that serves the rehearsal's model, from whose shapes alone the server starts."""
    from sdpg.params import HubModel

    model = params.base.model
    assert isinstance(model, HubModel), "as the profile says"
    folder = Path(params.base.folder) / model.id
    return [
        sys.executable, "-m", "pipelines.serve", "--model", str(folder), "--dtype", "bfloat16",
        "--kv-cache-megabytes", "32", "--eager",
    ]  # fmt: skip


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    # A proxy from the environment is for the internet, not for this server.
    opener, end = build_opener(ProxyHandler({})), time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            opener.open(f"{url}/health", timeout=5).close()
        except (URLError, OSError):
            time.sleep(1)
        else:
            return
    last = "\n".join(LOG.read_text(encoding="utf-8").splitlines()[-5:])
    raise UserError(f"the vLLM server did not start; {LOG} ends with:\n{last}")


if __name__ == "__main__":
    entry_point(main)
