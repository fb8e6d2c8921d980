"""Holds all settings of a fill in one frozen tree: each of them can change the result, and is kept with the result.

The pace and the key of an endpoint are not part of it: see :class:`Connection`.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sdpg.errors import UserError
from sdpg.params import BaseParams, FileSource, HubSource, Positive, PromptParams, RewardParams, Section
from sdpg.params.tree import parse_yaml
from sdpg.params.vllm import VllmParams
from sdpg.records.provenance import fingerprint

StoredSource = Annotated[HubSource | FileSource, Field(discriminator="kind")]
Seconds = Annotated[float, Field(gt=0)]


class Decoding(Section):
    """Settings by which an answer is sampled."""

    temperature: Annotated[float, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Positive


class DatasetSettings(Section):
    """A dataset whose rows are joined by problem text; ``columns.solution`` names the column that is taken."""

    name: str
    source: StoredSource


class EndpointSettings(Section):
    """A model behind an endpoint that speaks OpenAI's chat completions."""

    base_url: str
    """What ``/chat/completions`` is appended to; for most servers it ends in ``/v1``."""
    model: str
    prompt: str
    """The user's message; ``{problem}`` and ``{answer}`` are filled in."""
    system: str | None
    decoding: Decoding
    body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's body; null takes a field out, such as ``top_p``."""


class EngineSettings(Section):
    """A local model folder, sampled by the engine that ``rollout.engine`` names."""

    model: str
    engine: str
    vllm: VllmParams | None = None
    """The vLLM section, as in ``rollout.vllm``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device of the model, as in ``train.device``."""
    decoding: Decoding
    seed: int
    batch: Positive


class SolutionParams(Section):
    """Everything that decides which solution a problem gets."""

    source: StoredSource
    """The dataset of the problems."""
    datasets: list[DatasetSettings]
    endpoint: EndpointSettings | None
    engine: EngineSettings | None
    samples: Positive
    """Answers per problem from the endpoint, and from the engine: at most so many, or exactly with ``shortest``."""
    keep: Literal["first", "shortest"]
    """Which right answer of a source is taken; ``first`` samples no further once there is one."""
    limit: Positive | None
    """Problems without a solution beyond the first so many are left as they are."""
    reward: RewardParams
    prompts: PromptParams
    base: BaseParams
    """The base model, whose tokenizer shows which solutions fit into a teacher prompt."""

    @property
    def tree(self) -> dict[str, Any]:
        """Returns the settings as plain values, without those that change time and memory alone."""
        return self.model_dump(mode="json", exclude={"reward": {"workers"}})

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of all settings, which stands in each row of the result."""
        return fingerprint("solutions", self.tree)


class Connection(Section):
    """Settings of the connection to an endpoint; they change time and cost, never which answer a request has."""

    key_env: str = "SOLUTIONS_API_KEY"
    """The environment variable that holds the key; it is one of its own, so that no other service's key goes along."""
    key_required: bool = False
    """Whether the variable must be set, as the user has named it."""
    concurrency: Positive = 8
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    """The limit counts prompt tokens (estimated at first) and the answer's limit, as endpoints count them."""
    timeout: Seconds = 600.0
    """Seconds for one whole answer."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Retries of one request, each after a longer pause."""
    first_pause: Seconds = 1.0
    """Seconds before the first retry; the pause is doubled each time."""
    allow_http: bool = False
    """Whether a key may be sent over an unencrypted connection to another machine."""


KNOWN: dict[str, StoredSource] = {
    "openthoughts": HubSource(
        kind="hub", id="open-thoughts/OpenThoughts-114k", revision="main", config="metadata",
        columns={"problem": "problem", "solution": "deepseek_solution"},  # pyright: ignore[reportArgumentType]
    ),
    "openthoughts-ground-truth": HubSource(
        kind="hub", id="open-thoughts/OpenThoughts-114k", revision="main", config="metadata",
        columns={"problem": "problem", "solution": "ground_truth_solution"},  # pyright: ignore[reportArgumentType]
    ),
}  # fmt: skip
"""Datasets with worked solutions, by a short name."""


def parse_source(text: str, option: str) -> StoredSource:
    """Returns a source as params.yaml has it, written on one line: ``{kind: file, path: mine.jsonl, columns: {…}}``.

    Raises:
        UserError: if it is none; the message names the option and each wrong field.
    """
    tree = parse_yaml(text, option)
    if isinstance(tree, dict) and tree.get("kind") == "synthetic":
        raise UserError(f"{option}: the problems of a synthetic source have solutions already; name a file or hub set")
    try:
        return TypeAdapter(StoredSource).validate_python(tree)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'source'}: {e['msg']}" for e in error.errors())
        raise UserError(
            f"{option} is no source ({wrong}): write for example "
            "'{kind: file, path: mine.jsonl, columns: {problem: question, answer: answer}}'"
        ) from None


def parse_dataset(text: str) -> DatasetSettings:
    """Returns a known dataset by its short name, or a source whose ``columns.solution`` is named."""
    if text in KNOWN:
        return DatasetSettings(name=text, source=KNOWN[text])
    if "{" not in text:
        raise UserError(
            f"--dataset {text}: not a known dataset; there are: {', '.join(KNOWN)}. Any other is named as "
            "'{kind: hub, id: …, revision: main, columns: {problem: …, solution: …}}'"
        )
    source = parse_source(text, "--dataset")
    if source.columns.solution is None:
        raise UserError("--dataset: columns.solution names no column: name the one that holds worked solutions")
    return DatasetSettings(name=source.id if isinstance(source, HubSource) else source.path, source=source)


def parse_body(text: str) -> dict[str, Any]:
    """Returns further fields of the request's body, which are given as a JSON object."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--body is not valid JSON ({error}): write an object such as '{{\"top_k\": 20}}'") from None
    fixed = {"model", "messages", "stream", "n"}
    if not isinstance(body, dict) or fixed & body.keys():
        raise UserError(f"--body must be a JSON object without {', '.join(sorted(fixed))}, which are set already")
    return body
