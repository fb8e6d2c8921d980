"""Makes prepared rows from params.yaml: sources are read, cleaned, compared with benchmarks, rendered and counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
import random
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sdpg.errors import UserError
from sdpg.files import replaced_folder, write_json, write_json_lines
from sdpg.params import (
    BenchmarkParams,
    HubModel,
    LocalModel,
    Params,
    PromptParams,
    ScratchModel,
    Source,
    SyntheticSource,
)
from sdpg.problems.context import check_context
from sdpg.problems.prompts import (
    PreparedRow,
    chat_prompt,
    hint_needs_solution,
    prepare_row,
    render_student,
    render_teacher,
)
from sdpg.problems.sources import (
    Problem,
    ProblemSet,
    load_problems,
    overlap,
    split_validation,
    text_key,
    text_keys,
)
from sdpg.problems.synthetic import draw_chain
from sdpg.problems.tokenizer import BYTES, SPECIAL, load_tokenizer, train_tokenizer
from sdpg.records.manifest import note_folder
from sdpg.seeds import derive_seed

TOKENIZER_CHAINS = 2000
"""The number of synthetic problems from which the scratch tokenizer learns its merges."""

REASONS = (
    "no_problem",
    "no_answer",
    "no_solution",
    "duplicate",
    "conflicting_answers",
    "overlaps_benchmark",
    "student_prompt_too_long",
    "teacher_prompt_too_long",
    "over_limit",
)
"""Reasons why a row is dropped; each is reported for each set, zeros included, so that runs compare key by key."""


@dataclass(frozen=True)
class PreparedSet:
    """Rows that can be used, and counts of the others: ``read`` = rows + ``dropped``; ``commit`` is that of a
    :class:`~sdpg.problems.sources.ProblemSet`."""

    rows: list[PreparedRow]
    read: int
    dropped: Counter[str] = field(default_factory=Counter)
    commit: str | None = None


@dataclass(frozen=True)
class Prepared:
    """Everything that the stage writes."""

    tokenizer: PreTrainedTokenizerBase
    train: PreparedSet
    validation: PreparedSet
    benchmarks: dict[str, PreparedSet]
    overlaps: dict[str, dict[str, int]]

    @property
    def sets(self) -> dict[str, PreparedSet]:
        """Returns all sets by name; a benchmark's name begins with ``benchmarks/``."""
        named = {f"benchmarks/{name}": rows for name, rows in self.benchmarks.items()}
        return {"train": self.train, "validation": self.validation, **named}

    @property
    def metrics(self) -> dict[str, Any]:
        """Returns counts, prompt lengths, overlaps and commits of hub datasets, as data/prepare.json holds them."""
        return {
            "vocabulary": len(self.tokenizer),
            "sets": {name: _set_metrics(prepared) for name, prepared in self.sets.items()},
            "overlap": self.overlaps,
            "commits": {name: prepared.commit for name, prepared in self.sets.items() if prepared.commit is not None},
        }


def _set_metrics(prepared: PreparedSet) -> dict[str, Any]:
    lengths = {
        "student_tokens": [row.student_tokens for row in prepared.rows],
        "teacher_tokens": [row.teacher_tokens for row in prepared.rows if row.teacher_tokens is not None],
    }
    return {
        "read": prepared.read,
        "kept": len(prepared.rows),
        "dropped": {reason: prepared.dropped[reason] for reason in REASONS},
        **{
            name: {"min": min(counts), "mean": round(sum(counts) / len(counts), 2), "max": max(counts)}
            for name, counts in lengths.items()
            if counts
        },
    }


def world_tokenizer(model: ScratchModel, families: dict[str, float], prompts: PromptParams) -> PreTrainedTokenizerBase:
    """Trains the tiny world's tokenizer on what its model reads and writes: both prompts, right and wrong answers."""
    single_bytes = train_tokenizer([], BYTES + len(SPECIAL))
    rng = random.Random(derive_seed(model.seed, "tokenizer"))
    names, shares = list(families), list(families.values())
    texts = []
    for _ in range(TOKENIZER_CHAINS):
        chain = draw_chain(rng.choices(names, shares)[0], rng)
        problem = Problem("", chain.problem, chain.answer, chain.solution, "synthetic")
        hinted = render_teacher(prompts, problem)
        assert hinted is not None, "a synthetic problem always has a solution"
        work = chain.work(rng, model.slip_rate, model.misconception_rate)
        texts += [chat_prompt(single_bytes, render_student(prompts, problem), prompts), work]
        texts += [chat_prompt(single_bytes, hinted, prompts), chain.solution]
    return train_tokenizer(texts, model.vocab_size)


def base_tokenizer(params: Params) -> PreTrainedTokenizerBase:
    """Returns the initial policy's tokenizer: trained here for a model from scratch, else the model's own."""
    if (folder := params.base.local_folder) is not None:
        return load_tokenizer(folder)
    match params.base.model:
        case HubModel(id=place, revision=revision):
            return load_tokenizer(place, revision)
        case ScratchModel() as model:
            train = params.data.train
            assert isinstance(train, SyntheticSource), "checked with the parameters"
            return world_tokenizer(model, train.families, params.prompts)
        case LocalModel():
            raise AssertionError("a local model has a folder")


def _prepare_set(
    problems: ProblemSet, name: str, limit: int | None, tokenizer: PreTrainedTokenizerBase, prompts: PromptParams
) -> PreparedSet:
    """Renders a set, drops what is too long, and keeps at most ``limit`` rows."""
    rows: list[PreparedRow] = []
    dropped = problems.dropped.copy()
    progress = tqdm(problems.problems, desc=f"prompts of {name}", unit="problem", delay=2, leave=False)
    for done, problem in enumerate(progress):
        if limit is not None and len(rows) == limit:
            dropped["over_limit"] += len(problems.problems) - done
            break
        row = prepare_row(tokenizer, problem, prompts)
        if row.student_tokens > prompts.max_student_tokens:
            dropped["student_prompt_too_long"] += 1
        elif row.teacher_tokens is not None and row.teacher_tokens > prompts.max_teacher_tokens:
            dropped["teacher_prompt_too_long"] += 1
        else:
            rows.append(row)
    if not rows:
        where = "data.train" if name == "train" else f"data.benchmarks.{name}"
        raise UserError(
            f"{where}: no usable problem is left of {problems.read} (dropped: {dropped_text(dropped) or 'none'}): "
            "correct the source and its columns, or raise the limits under prompts"
        )
    return PreparedSet(rows, problems.read, dropped, problems.commit)


def _check_count(name: str, benchmark: BenchmarkParams, problems: ProblemSet) -> None:
    if benchmark.problems not in (None, len(problems.problems)):
        raise UserError(
            f"data.benchmarks.{name}.problems is {benchmark.problems}, but of {problems.read} rows of its source "
            f"{len(problems.problems)} are usable (dropped: {dropped_text(problems.dropped) or 'none'}): this is "
            "another benchmark than the row says, or another version of it. Correct its source, or problems"
        )


def _without_overlap(problems: ProblemSet, benchmark_keys: frozenset[str]) -> ProblemSet:
    kept = [problem for problem in problems.problems if text_key(problem.problem) not in benchmark_keys]
    dropped = problems.dropped.copy()
    dropped["overlaps_benchmark"] += len(problems.problems) - len(kept)
    return ProblemSet(kept, problems.read, dropped, problems.commit)


def prepare(params: Params) -> Prepared:
    """Reads all sources and makes every prepared row; writes nothing.

    Benchmarks come first, so that synthetic training problems can be drawn around them.

    Raises:
        UserError: for input that cannot be used, before any output changes.
    """
    check_context(params)
    data, prompts = params.data, params.prompts
    benchmark_problems: dict[str, ProblemSet] = {}
    drawn: frozenset[str] = frozenset()
    for name, benchmark in data.benchmarks.items():
        benchmark_problems[name] = load_problems(benchmark.source, name, data, exclude=drawn)
        _check_count(name, benchmark, benchmark_problems[name])
        drawn |= {problem.problem for problem in benchmark_problems[name].problems}
    source = load_problems(data.train, "train", data, needs_solution=hint_needs_solution(prompts), exclude=drawn)

    tokenizer = base_tokenizer(params)
    benchmarks = {
        name: _prepare_set(problems, name, _limit(data.benchmarks[name].source), tokenizer, prompts)
        for name, problems in benchmark_problems.items()
    }
    benchmark_keys = frozenset[str]().union(*(text_keys(prepared.rows) for prepared in benchmarks.values()))
    candidates = _without_overlap(source, benchmark_keys) if data.drop_overlap else source
    usable = _prepare_set(candidates, "train", _limit(data.train), tokenizer, prompts)
    train, validation = split_validation(usable.rows, data.validation_size, data.seed, benchmark_keys)
    overlaps = {
        name: {
            "exact_in_source": overlap(source.problems, prepared.rows, data.ngram).exact,
            **asdict(overlap(train, prepared.rows, data.ngram)),
            "exact_validation": overlap(validation, prepared.rows, data.ngram).exact,
        }
        for name, prepared in benchmarks.items()
    }
    return Prepared(
        tokenizer=tokenizer,
        # Rows of the validation set are not counted among those of the training set.
        train=PreparedSet(train, usable.read - len(validation), usable.dropped, usable.commit),
        validation=PreparedSet(validation, len(validation)),
        benchmarks=benchmarks,
        overlaps=overlaps,
    )


def _limit(source: Source) -> int | None:
    return getattr(source, "limit", None)


def write_prepared(prepared: Prepared, folder: Path) -> None:
    """Writes tokenizer, rows and metrics; each is replaced whole or stays as it was."""
    with replaced_folder(folder / "tokenizer") as temporary:
        prepared.tokenizer.save_pretrained(temporary)
    with replaced_folder(folder / "prepared") as temporary:
        for name, rows in prepared.sets.items():
            write_json_lines(temporary / f"{name}.jsonl", [row.to_dict() for row in rows.rows])
        note_folder(temporary, "prepared")
    write_json(folder / "prepare.json", prepared.metrics)


def dropped_text(dropped: Counter[str]) -> str:
    """Returns reasons and counts, in the order of :data:`REASONS`; empty where nothing was dropped."""
    return ", ".join(f"{reason} {dropped[reason]}" for reason in REASONS if dropped[reason])


def aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Returns lines of aligned columns, the first column to the left."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    ]


def summary(prepared: Prepared, data_folder: Path) -> str:
    """Returns the stage's log: counts, overlaps, both prompts of the first training row, and where files are."""
    metrics = prepared.metrics
    counts: list[Sequence[object]] = [("set", "read", "kept", "student tokens", "teacher tokens")]
    drops = []
    for name, values in metrics["sets"].items():
        spans = [values.get(f"{who}_tokens") for who in ("student", "teacher")]
        shown = ["–" if span is None else f"{span['min']}–{span['max']}" for span in spans]
        counts.append((name, values["read"], values["kept"], *shown))
        if reasons := dropped_text(prepared.sets[name].dropped):
            drops.append(f"dropped from {name}: {reasons}")
    overlaps: list[Sequence[object]] = [
        ("overlap with train", "exact in source", "exact", "n-gram", "training problems")
    ]
    for name, values in metrics["overlap"].items():
        overlaps.append(
            (name, values["exact_in_source"], values["exact"], values["ngram_problems"], values["ngram_train"])
        )
    first = prepared.train.rows[0]
    return "\n".join(
        [
            *aligned(counts),
            *drops,
            *[
                f"{name} is commit {commit}: name it as the source's revision to stay with it"
                for name, commit in metrics["commits"].items()
            ],
            "",
            *aligned(overlaps),
            "",
            f"student prompt of {first.id}:",
            first.student_prompt + "⟨response⟩",
            "",
            f"teacher prompt of {first.id}:",
            f"{first.teacher_prompt}⟨response⟩",
            "",
            f"Tokenizer, rows and counts: {data_folder}/tokenizer, {data_folder}/prepared, {data_folder}/prepare.json. "
            "Next: dvc repro base",
        ]
    )
