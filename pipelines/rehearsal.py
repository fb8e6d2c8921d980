"""Writes what the profile ``rehearsal`` reads: a Qwen3 of random weights and problems, in the layout of the hub.

Benchmarks come from local files. The training problems are the tiny world's with one digit as their answer, and ten
words of the vocabulary times a few spellings are a whole boxed digit each: so some responses of random weights are
right, advantages differ within groups, and the gates of privileged distillation open.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import AddedToken
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sdpg.errors import UserError
from sdpg.files import replaced_folder, write_json_lines, write_text
from sdpg.params import BenchmarkParams, ColumnMap, FileSource, HubModel, HubSource, Params, read_yaml
from sdpg.params.configure import read_overlay
from sdpg.params.vllm import VllmServer
from sdpg.problems.sources import Problem, read_benchmark
from sdpg.problems.synthetic import draw_chains
from sdpg.problems.tokenizer import pad_and_eos, train_tokenizer

SEED = 0
PROBLEMS = 80
"""The number of problems to train on and to validate with; the family has some hundred."""
HELD_OUT = 40
"""The number of problems of a benchmark that is a split of the training data's own set, and so is made up too."""
LORA = {"rank": 4, "alpha": 8, "target_modules": "all-linear"}
VOCABULARY = 512
SPELLINGS = ("", " ", "\n", "$")
"""Text in front of a boxed digit."""
SHARD = "200KB"
"""Size of a weight file; weights come in several files, as those of large models do."""


def rehearsal_changes(profile: str, root: Path = Path(), url: str | None = None, lora: bool = False) -> dict[str, Any]:
    """Returns the overlay that makes of a Qwen3 profile its rehearsal, which needs no GPU and no hub.

    Args:
        profile: the name of the profile.
        root: the project's folder.
        url: the address of a vLLM server that takes the place of vLLM in the training process.
        lora: whether an adapter alone is trained.
    """
    real, changes = read_overlay("profile", profile, root), read_yaml(root / "profiles/rehearsal.yaml")
    del changes["based_on"]
    changes["profile"] = "rehearsal"
    train, benchmarks = real["data"]["train"], real["data"]["benchmarks"]
    for row in benchmarks.values():
        if row["source"]["id"] == train.get("id"):
            row["problems"] = HELD_OUT
    changes["data"]["benchmarks"] = benchmarks
    if real["train"]["distributed"]["strategy"] == "none":
        del changes["train"]["distributed"]
    if url is not None:
        changes["rollout"]["vllm"] = VllmServer(mode="server", url=url).model_dump(mode="json")
    if lora:
        changes["train"]["lora"] = LORA
    return changes


def write_inputs(params: Params, folder: Path) -> list[Path]:
    """Writes the inputs of the profile where params.yaml looks for them; what other profiles read is not touched.

    Args:
        params: the parameters of a rehearsal.
        folder: the folder with ``<benchmark>.jsonl``, with ``problem`` and ``answer``, for each of ``data.benchmarks``
            that is no split of the training data's own set.

    Returns:
        The folders and the file that were written.

    Raises:
        UserError: if a benchmark's file is missing or wrong, before anything is written.
    """
    train, model = params.data.train, params.base.model
    assert isinstance(train, FileSource | HubSource) and isinstance(model, HubModel), "as the profile says"
    own = train.id if isinstance(train, HubSource) else None
    chains = draw_chains({"digit-2": 1.0}, PROBLEMS + HELD_OUT, SEED)
    made = [Problem(f"train-{i}", c.problem, c.answer, c.solution, "") for i, c in enumerate(chains)]
    problems, held_out = made[:PROBLEMS], made[PROBLEMS:]
    benchmarks = {
        name: held_out if _hub(row).id == own else _benchmark(folder / f"{name}.jsonl", row)
        for name, row in params.data.benchmarks.items()
    }
    texts = [row.problem for rows in [problems, *benchmarks.values()] for row in rows]
    written = [_write_model(Path(params.base.folder) / model.id, [*texts, *(row.solution for row in problems)])]
    place = Path(params.data.folder)
    sets = [(_hub(params.data.benchmarks[name]), rows) for name, rows in benchmarks.items()]
    if isinstance(train, HubSource):
        sets.append((train, problems))
    else:
        write_json_lines(place / train.path, [_named(row, train.columns) for row in problems])
        written.append(place / train.path)
    for name in dict.fromkeys(source.id for source, _ in sets):
        written.append(_write_dataset(place / name, [one for one in sets if one[0].id == name]))
    return written


def _hub(row: BenchmarkParams) -> HubSource:
    assert isinstance(row.source, HubSource), "as the profile says"
    return row.source


def _benchmark(path: Path, row: BenchmarkParams) -> list[Problem]:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: --dir is a folder with a file for each benchmark of the profile, one JSON object "
            "with problem and answer a line"
        )
    problems = read_benchmark(path).problems
    if row.problems is not None and len(problems) != row.problems:
        raise UserError(f"{path} holds {len(problems)} problems, but {row.title} has {row.problems}: complete the file")
    return problems


def _named(problem: Problem, columns: ColumnMap) -> dict[str, str]:
    values = {"problem": problem.problem, "answer": problem.answer, "solution": problem.solution, "id": problem.id}
    if columns.answer_after is not None:
        values["answer"] = values["solution"] = f"{problem.solution}\n{columns.answer_after} {problem.answer}"
    named = {getattr(columns, part): value for part, value in values.items()}
    return {column: value for column, value in named.items() if column is not None}


def _write_dataset(place: Path, splits: Sequence[tuple[HubSource, Sequence[Problem]]]) -> Path:
    """Writes a dataset's card and a Parquet file for each split, as on the hub; all splits are of one configuration."""
    card = ["---", "configs:", f"- config_name: {splits[0][0].config or 'default'}", "  data_files:"]
    with replaced_folder(place) as folder:
        (folder / "data").mkdir()
        for source, problems in splits:
            table = pa.Table.from_pylist([_named(row, source.columns) for row in problems])
            pq.write_table(table, folder / f"data/{source.split}-00000-of-00001.parquet")
            card += [f"  - split: {source.split}", f"    path: data/{source.split}-*"]
        write_text(folder / "README.md", "\n".join([*card, "---", "Problems for a rehearsal.", ""]))
    return place


def rehearsal_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of the tiny world's kind, which is Qwen3's, with boxed digits as words of their own."""
    tokenizer = train_tokenizer(texts, VOCABULARY)
    boxed = (f"{spelling}\\boxed{{{digit}}}" for spelling in SPELLINGS for digit in range(10))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in boxed])  # pyright: ignore[reportArgumentType]
    return tokenizer


def _write_model(place: Path, texts: Sequence[str]) -> Path:
    """Writes a folder like Qwen3-4B's: bfloat16, tied head, heads of 128, weights in several files, a chat template."""
    tokenizer = rehearsal_tokenizer(texts)
    pad_id, eos_id = pad_and_eos(tokenizer)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=None,
        dtype="bfloat16",
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = Qwen3ForCausalLM(config).bfloat16()
    # As on the hub, where sampling settings lie beside the weights; nothing here may take them over.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=20, top_p=0.95, eos_token_id=[eos_id, pad_id], pad_token_id=pad_id
    )
    with replaced_folder(place) as folder:
        model.save_pretrained(folder, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)
    return place
