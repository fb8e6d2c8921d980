"""Fills missing worked solutions of training problems: from datasets, an endpoint, the local engine; in this order.

The problems are those of data.train in params.yaml, or of --source. Whatever no option says is taken from params.yaml:
prompts.student is what is asked, rollout how answers are sampled, reward how they are verified. The result is a .jsonl
file in data.folder that params.yaml can name. See docs/solutions.md.
"""

import argparse
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

from pipelines.command_line import command_parser
from pipelines.verifier_options import add_verifier_options, overrides
from sdpg import paths
from sdpg.errors import UserError, entry_point
from sdpg.records.cpu_kernels import fix_cpu_kernels

if TYPE_CHECKING:
    from sdpg.params import Params
    from sdpg.solutions.settings import Connection, SolutionParams

ANSWERS = Path("inputs/solutions")
"""The folder where answers that cost something are kept; no command removes it."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser(
        "solutions", __doc__, "--dataset openthoughts --endpoint https://host/v1 --model name", "[options]"
    )
    add = parser.add_argument
    add("--source", metavar="YAML", help="the problems, as a source in params.yaml; otherwise data.train")
    add("--dataset", action="append", default=[], metavar="NAME|YAML", help="openthoughts, openthoughts-ground-truth, "
        "or a source whose columns name problem and solution; may be repeated")  # fmt: skip
    add("--endpoint", metavar="URL", help="of an OpenAI-compatible server, usually ending in /v1")
    add("--model", help="the model to ask for at the endpoint")
    add("--engine", type=paths.given_name, metavar="FOLDER", help="a local model folder, sampled by rollout.engine")
    add("--samples", type=int, default=4, help="answers per problem, of the endpoint and of the engine (4)")
    add("--keep", choices=("first", "shortest"), default="first", help="which right answer; first asks no further")
    add("--limit", type=int, help="ask about the first so many problems without a solution")
    add("--prompt", help="what the endpoint is asked: {problem} and {answer} are filled in; otherwise prompts.student")
    add("--temperature", type=float, help="otherwise rollout.temperature")
    add("--top-p", type=float, help="otherwise rollout.top_p")
    add("--max-tokens", type=int, help="of one answer; otherwise rollout.max_tokens")
    add("--seed", type=int, default=0, help="of the engine's samples")
    add("--body", default="{}", metavar="JSON", help="further fields for the endpoint; null leaves one out")
    add("--key-env", metavar="NAME", help="environment variable with the key; otherwise SOLUTIONS_API_KEY")
    add("--allow-http", action="store_true", help="send the key unencrypted to another machine")
    add("--concurrency", type=int, metavar="N", help="requests under way at once (8)")
    add("--requests-per-minute", type=int, metavar="N", help="no more than so many")
    add("--tokens-per-minute", type=int, metavar="N", help="no more than so many, prompts and answers together")
    add("--timeout-answer", type=float, dest="answer_timeout", metavar="SECONDS",
        help="for one whole answer of the endpoint (600)")  # fmt: skip
    add("--retries", type=int, help="of one request (6)")
    add("--first-pause", type=float, help="seconds before the first retry (1)")
    add("--out", default="solved.jsonl", help="the result, in data.folder (solved.jsonl)")
    add("--replace", action="store_true", help="write over a result that was made with other settings")
    add("--answers", type=paths.given_path, default=ANSWERS, help=f"folder of paid answers and summary ({ANSWERS})")
    add_verifier_options(parser)
    return parser


def settings_of(given: argparse.Namespace, params: "Params") -> "SolutionParams":
    """Returns the options over params.yaml, checked.

    Raises:
        UserError: if an option is wrong; the message names it, its value and what is allowed.
    """
    # Importing these takes time, which --help need not wait for.
    from sdpg.params import Imported, SyntheticSource
    from sdpg.solutions.settings import SolutionParams, parse_body, parse_dataset, parse_source

    if given.endpoint is None and given.engine is None and not given.dataset:
        raise UserError(
            "no way to solutions: give --dataset openthoughts, --endpoint URL --model NAME, or --engine FOLDER"
        )
    if (given.endpoint is None) != (given.model is None):
        raise UserError("--endpoint and --model belong together: give both")
    source = params.data.train if given.source is None else parse_source(given.source, "--source")
    if isinstance(source, Imported):
        raise UserError(
            f"data.train in params.yaml is {source.path}, an own function, which gives solutions itself: have it yield "
            "`solution`, or name the problems with --source '{kind: file, path: mine.jsonl}'"
        )
    if isinstance(source, SyntheticSource):
        raise UserError(
            "data.train in params.yaml is synthetic, whose problems have solutions already: choose another profile, or "
            "name the problems with --source '{kind: file, path: mine.jsonl}'"
        )
    decoding = {
        name: getattr(params.rollout, name) if getattr(given, name) is None else getattr(given, name)
        for name in ("temperature", "top_p", "max_tokens")
    }
    if given.samples > 1 and decoding["temperature"] == 0 and (given.endpoint or given.engine):
        raise UserError(
            f"--temperature 0 gives the same answer each time, so --samples {given.samples} would pay for it again: "
            "give --samples 1, or a temperature above 0"
        )
    prompt = given.prompt or params.prompts.student
    if "{problem}" not in prompt:
        raise UserError(f"--prompt is {prompt!r}, without {{problem}}: add it where the question belongs")
    tree: dict[str, Any] = {
        "source": source,
        "datasets": [parse_dataset(text) for text in given.dataset],
        "endpoint": None
        if given.endpoint is None
        else {"base_url": given.endpoint.rstrip("/"), "model": given.model, "prompt": prompt,
              "system": params.prompts.system, "decoding": decoding, "body": parse_body(given.body)},
        "engine": None
        if given.engine is None
        else {"model": given.engine, "engine": params.rollout.engine, "vllm": params.rollout.vllm,
              "device": params.train.device,
              "decoding": decoding, "seed": given.seed, "batch": params.rollout.batch},
        "samples": given.samples,
        "keep": given.keep,
        "limit": given.limit,
        "reward": params.reward.override(overrides(given)),
        "prompts": params.prompts,
        "base": params.base,
    }  # fmt: skip
    return _checked(SolutionParams, tree)


def connection_of(given: argparse.Namespace) -> "Connection":
    """Returns how the endpoint is reached."""
    from sdpg.solutions.settings import Connection

    names = ("key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "retries", "first_pause")
    tree = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if given.answer_timeout is not None:
        tree["timeout"] = given.answer_timeout
    return _checked(Connection, tree | {"allow_http": given.allow_http, "key_required": given.key_env is not None})


def _checked(kind: Any, tree: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        wrong = [f"--{str(e['loc'][-1]).replace('_', '-')}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise UserError("; ".join(wrong)) from None


def main() -> None:
    """Runs ``sdpg solutions``."""
    given = parser().parse_args()
    # Importing this takes time, which --help need not wait for.
    from sdpg.params import load_params

    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    settings, connection = settings_of(given, params), connection_of(given)
    # Loading transformers takes seconds, which a mistake above need not wait for.
    from sdpg.solutions.run import run

    folder = Path(params.data.folder)
    print(run(params, settings, connection, folder, given.out, given.answers, given.replace), file=sys.stdout)


if __name__ == "__main__":
    entry_point(main)
