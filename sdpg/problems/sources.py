"""Loads problem sets: synthetic, hub, files, own functions; cleaned, deduplicated, compared with benchmarks.

Every dropped row is counted under the name of its reason.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
import random
from typing import Any, TypeVar

from tqdm import tqdm

from sdpg.errors import UserError
from sdpg.params import (
    ColumnMap,
    DataParams,
    FileSource,
    HubSource,
    Imported,
    ReasoningGymSource,
    Source,
    SyntheticSource,
)
from sdpg.problems.raw_rows import Rows, answer_cell, cell, own_rows, problem_cell, read_rows, solution_cell
from sdpg.problems.rows.files import KINDS, file_kind, opened, rows_in, split_name
from sdpg.problems.synthetic import Chain, draw_chains
from sdpg.rewards.verifiers import normalise_answer
from sdpg.seeds import derive_seed


@dataclass(frozen=True)
class Problem:
    """A problem; ``solution`` is empty where the source has none, and ``source`` says where the problem is from."""

    id: str
    problem: str
    answer: str
    solution: str
    source: str

    @property
    def hinted_answer(self) -> str:
        """Returns the answer that a hint names."""
        return self.answer


@dataclass(frozen=True)
class MisledProblem(Problem):
    """A problem whose solution is wrong; a hint names the answer to which it leads."""

    wrong_answer: str

    @property
    def hinted_answer(self) -> str:
        """Returns the answer that a hint names, which is wrong."""
        return self.wrong_answer


@dataclass(frozen=True)
class PosedProblem(Problem):
    """A problem whose answer is more than a hint names: it says by what answers are judged, too."""

    plain_answer: str

    @property
    def hinted_answer(self) -> str:
        """Returns the answer alone."""
        return self.plain_answer


@dataclass(frozen=True)
class ProblemSet:
    """A source's problems: ``read`` rows, of which ``dropped`` counts the unusable ones by reason.

    ``commit`` is the commit of a hub source's revision; it is ``None`` for files and for hub data in a local folder.
    """

    problems: list[Problem]
    read: int
    dropped: Counter[str] = field(default_factory=Counter)
    commit: str | None = None


@dataclass(frozen=True)
class Overlap:
    """The part of a benchmark that is in a training set.

    Attributes:
        exact: benchmark problems whose text, apart from whitespace, is a training problem's.
        ngram_problems: benchmark problems that share at least one word n-gram with a training problem.
        ngram_train: training problems that share at least one word n-gram with the benchmark.
    """

    exact: int
    ngram_problems: int
    ngram_train: int


P = TypeVar("P", bound=Problem)


def text_key(text: str) -> str:
    """Returns the key by which problem texts are compared: runs of whitespace count as one space."""
    return " ".join(text.split())


def text_keys(problems: Iterable[Problem]) -> frozenset[str]:
    """Returns the keys of all problem texts."""
    return frozenset(text_key(problem.problem) for problem in problems)


def load_problems(
    source: Source,
    name: str,
    data: DataParams,
    *,
    needs_solution: bool = False,
    exclude: frozenset[str] = frozenset(),
) -> ProblemSet:
    """Reads a problem set.

    Args:
        source: the source; its ``limit`` is left to the caller, who may drop further rows.
        name: ``train`` or a benchmark's name; it is part of the ids of problems that have none of their own.
        data: the data section, with the folder of local files and the seed of synthetic problems.
        needs_solution: whether problems without a worked solution are dropped.
        exclude: problem texts that a synthetic source must not draw.

    Raises:
        UserError: if the source cannot be reached or read, or a column is missing.
    """
    if isinstance(source, SyntheticSource):
        chains = draw_chains(source.families, source.count, derive_seed(data.seed, "problems", name), exclude)
        problems = _hinted(chains, source.wrong_hints, name, derive_seed(data.seed, "hints", name))
        return ProblemSet(problems, len(problems))
    where = "data.train" if name == "train" else f"data.benchmarks.{name}.source"
    if isinstance(source, ReasoningGymSource):
        # The package is not there unless somebody uses it.
        from sdpg.problems.gym import gym_problems

        return gym_problems(source, where, name, data.seed, needs_solution)
    if isinstance(source, Imported):
        return _clean(own_rows(source, where), ColumnMap(solution="solution", id="id"), name, needs_solution)
    if needs_solution and source.columns.solution is None:
        raise UserError(
            f"{where}.columns.solution names no column, but prompts.hint needs worked solutions: name the column that "
            "holds them, or set prompts.hint: answer"
        )
    return _clean(read_rows(source, where, Path(data.folder)), source.columns, name, needs_solution)


def _hinted(chains: Sequence[Chain], wrong: float, name: str, seed: int) -> list[Problem]:
    """Returns the problems of chains; a share ``wrong`` of them, drawn from ``seed``, has a solution with a mistake."""
    rng = random.Random(seed)
    problems: list[Problem] = []
    for number, chain in enumerate(chains):
        values = f"{name}-{number}", chain.problem, chain.answer
        source = f"synthetic/{chain.family}"
        if wrong and rng.random() < wrong:
            answer, work = chain.mistaken(rng)
            problems.append(MisledProblem(*values, work, source, answer))
        else:
            problems.append(Problem(*values, chain.solution, source))
    return problems


@dataclass(frozen=True)
class WorkedSolutions:
    """Pairs of problem and solution, read during iteration; ``origin`` and ``commit`` name their source."""

    pairs: Iterable[tuple[str, str]]
    origin: str
    commit: str | None


def load_solutions(source: HubSource | FileSource, where: str, folder: Path) -> WorkedSolutions:
    """Reads the problem and solution columns of a source; no other column is needed.

    Args:
        source: the source; its ``columns.solution`` must be named.
        where: the source's name in errors.
        folder: the folder of local files.

    Raises:
        UserError: if the source cannot be read, as in :func:`load_problems`.
    """
    columns = source.columns
    assert columns.solution is not None, "checked by the caller"
    # The answer column is not used here, so it need not exist.
    bare = columns.model_copy(update={"answer": columns.problem, "id": None})
    rows = read_rows(source.model_copy(update={"columns": bare}), where, folder)

    def pairs() -> Iterable[tuple[str, str]]:
        progress = tqdm(rows.rows, desc=f"rows of {rows.origin}", total=rows.count, unit="row", delay=2, leave=False)
        for index, row in enumerate(progress):
            yield problem_cell(rows, index, row, columns), solution_cell(rows, index, row, columns)

    return WorkedSolutions(pairs(), rows.origin, rows.commit)


def _clean(rows: Rows, columns: ColumnMap, name: str, needs_solution: bool) -> ProblemSet:
    kept: dict[str, Problem] = {}
    owners: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    progress = tqdm(rows.rows, desc=f"rows of {name}", total=rows.count, unit="row", delay=2, leave=False)
    for index, row in enumerate(progress):
        problem, solution = problem_cell(rows, index, row, columns), solution_cell(rows, index, row, columns)
        answer = normalise_answer(answer_cell(rows, index, row, columns))
        key = text_key(problem)
        if not problem:
            dropped["no_problem"] += 1
        elif not answer:
            dropped["no_answer"] += 1
        elif needs_solution and not solution:
            dropped["no_solution"] += 1
        elif key in kept:
            dropped["duplicate" if kept[key].answer == answer else "conflicting_answers"] += 1
        else:
            identifier = cell(rows, index, row, columns.id) or f"{name}-{index}"
            if identifier in owners:
                raise UserError(
                    f"{rows.place(index)}: id {identifier!r} belongs to another problem already "
                    f"({rows.place(owners[identifier])}): make ids unique, or leave them out (in params.yaml: "
                    "columns.id: null), and problems are numbered"
                )
            owners[identifier] = index
            kept[key] = Problem(identifier, problem, answer, solution, rows.origin)
    return ProblemSet(list(kept.values()), rows.count, dropped, rows.commit)


def read_benchmark(path: Path, columns: ColumnMap | None = None) -> ProblemSet:
    """Reads a benchmark from a file of rows.

    It is stricter than :func:`load_problems`, since a benchmark that has lost problems is another benchmark: only
    repeated problems are dropped, and counted.

    Args:
        path: the file.
        columns: where a row's parts stand. A part that is not named there stands where it usually does: ``problem`` or
            ``question``, ``answer``, and ``id`` where there is one.

    Raises:
        UserError: if a row is no object, lacks a part, or contradicts another; the message names its place.
    """
    named = ColumnMap() if columns is None else columns
    kind = file_kind(path.name, "DIR: the file")
    with opened(path, "put the file there, or correct its name") as file:
        placed = list(rows_in(file, str(path), kind))
    rows = Rows([], len(placed), str(path), [place for place, _ in placed])
    parts: list[dict[str, Any]] = []
    answers: dict[str, tuple[str, int]] = {}
    for index, (_, row) in enumerate(placed):
        usual = {"problem": "problem" if "problem" in row else "question", "id": "id" if "id" in row else None}
        at = named.model_copy(
            update={name: value for name, value in usual.items() if name not in named.model_fields_set}
        )
        part = {
            "problem": problem_cell(rows, index, row, at),
            "answer": normalise_answer(answer_cell(rows, index, row, at)),
            "id": cell(rows, index, row, at.id),
        }
        for name in ("problem", "answer"):
            if not part[name]:
                raise UserError(
                    f"{rows.place(index)}: {getattr(at, name)!r} is empty. Each row needs an answer and a problem: "
                    "fill it in or remove the row"
                )
        known, owner = answers.setdefault(text_key(part["problem"]), (part["answer"], index))
        if known != part["answer"]:
            raise UserError(
                f"{rows.place(index)}: the answer is {part['answer']!r}, but for the same problem {known!r} "
                f"({rows.place(owner)}): correct one, or remove it"
            )
        parts.append(part)
    if not parts:
        raise UserError(f"{path} holds no problem: write one row for each, with `problem` and `answer`")
    return _clean(replace(rows, rows=parts), ColumnMap(id="id"), benchmark_name(path), False)


def benchmark_name(path: Path) -> str:
    """Returns what a benchmark's file is called: its name without what says that it is a file of rows."""
    split = split_name(path.name)
    return path.name if split is None else split[0]


def benchmark_files(folder: Path) -> dict[str, Path]:
    """Returns the files of rows in a folder, by the name of the benchmark.

    Raises:
        UserError: if there is none, or two of them would be called the same.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or split_name(path.name) is None or path.name.startswith("."):
            continue
        name = benchmark_name(path)
        if name in found:
            raise UserError(f"DIR {folder} holds {found[name].name} and {path.name}, one name for two: rename one")
        found[name] = path
    if not found:
        raise UserError(
            f"DIR {folder} holds no benchmark: put one file for each there ({', '.join(KINDS)}, also as .gz), with "
            "`problem` and `answer` in each row"
        )
    return found


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def overlap(train: Sequence[Problem], benchmark: Sequence[Problem], n: int) -> Overlap:
    """Measures how much of a benchmark a training set holds.

    Words are separated by whitespace; case does not count. A text shorter than ``n`` words is one n-gram as a whole.
    """
    owners: dict[tuple[str, ...], set[int]] = {}
    for index, problem in enumerate(benchmark):
        for ngram in _ngrams(problem.problem, n):
            owners.setdefault(ngram, set()).add(index)
    touched: set[int] = set()
    touching = 0
    for problem in train:
        shared = _ngrams(problem.problem, n) & owners.keys()
        touching += bool(shared)
        touched.update(*(owners[ngram] for ngram in shared))
    return Overlap(
        exact=len(text_keys(train) & text_keys(benchmark)), ngram_problems=len(touched), ngram_train=touching
    )


def split_validation(
    problems: Sequence[P], size: int, seed: int, benchmark_keys: frozenset[str]
) -> tuple[list[P], list[P]]:
    """Splits off ``size`` random problems, none of which is a benchmark's; both parts keep the given order.

    Returns:
        The training problems and the validation problems.

    Raises:
        UserError: if there are not enough problems for that and at least one to train on.
    """
    candidates = [i for i, problem in enumerate(problems) if text_key(problem.problem) not in benchmark_keys]
    if len(candidates) < size or len(problems) <= size:
        raise UserError(
            f"data.validation_size is {size}, but data.train has {len(problems)} usable problems, {len(candidates)} of "
            "them in no benchmark; at least one must stay for training: lower data.validation_size or add problems"
        )
    random.Random(derive_seed(seed, "validation")).shuffle(candidates)
    chosen = set(candidates[:size])
    train = [problem for i, problem in enumerate(problems) if i not in chosen]
    return train, [problem for i, problem in enumerate(problems) if i in chosen]
