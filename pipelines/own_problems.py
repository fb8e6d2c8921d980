"""Writes params.yaml for problems and a model of one's own, from what it measures of them.

Files and folders that lie elsewhere are copied below inputs/, which the pipeline watches.
"""

import argparse
from collections.abc import Iterable
import filecmp
import os
from pathlib import Path
import re
import shutil
from typing import Any

from sdpg import paths
from sdpg.errors import UserError
from sdpg.files import replaced_file, replaced_folder, write_text
from sdpg.params import PARAMS_FILE, ColumnMap, Params, load_params, parse_params, read_yaml
from sdpg.params.configure import CATALOGUE, configure, merge, read_overlay
from sdpg.problems.rows.columns import MissingColumn, Unusable, value_at
from sdpg.problems.rows.files import file_kind, opened, rows_in, split_name

USUAL = {
    "problem": ("problem", "question", "prompt", "query", "instruction", "input", "messages"),
    "answer": ("answer", "final_answer", "reward_model.ground_truth", "ground_truth", "gold", "target"),
    "solution": ("solution", "worked_solution", "rationale", "reasoning", "generated_solution"),
    "id": ("id", "unique_id", "extra_info.index"),
}
"""The columns in which a row's parts usually stand, the first that there is."""
MARK, NOTES = "####", "<<.*?>>"
"""What stands before GSM8K's answers, and around the calculations in its solutions."""
HUB_MODEL = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def guessed_columns(rows: list[dict[str, Any]], name: str) -> ColumnMap:
    """Returns where the parts of a file's rows stand, from the names of its columns.

    Raises:
        UserError: if no usual name is there for the problem or the answer; the message lists the columns.
    """

    def there(row: dict[str, Any], column: str) -> bool:
        try:
            return value_at(row, column) is not None
        except (MissingColumn, Unusable):
            return False

    found = {part: next((c for c in usual if there(rows[0], c)), None) for part, usual in USUAL.items()}
    for part in ("problem", "answer"):
        if found[part] is None:
            raise UserError(
                f"{name}: none of its columns ({', '.join(rows[0])}) is one in which a {part} usually stands "
                f"({', '.join(USUAL[part])}): name it, as in --columns {part}=…"
            )
    if found["id"] is not None:
        keys = [str(value_at(row, found["id"])) for row in rows if there(row, found["id"])]
        if len(set(keys)) < len(rows):
            found["id"] = None
    tree = {part: column for part, column in found.items() if column is not None}
    if found["solution"] is None and all(MARK in str(value_at(row, tree["answer"])) for row in rows):
        tree |= {"solution": tree["answer"], "answer_after": MARK, "solution_without": NOTES}
    return ColumnMap.model_validate(tree)


def placed_file(given: str, folder: Path) -> str:
    """Returns a file's path below the folder of problems, where it is copied to if it lies elsewhere.

    Raises:
        UserError: if there is no such file, or another one of its name lies there.
    """
    path = Path(given.replace("\\", "/"))
    if not path.is_file() and (folder / path).is_file():
        return path.as_posix()
    if not path.is_file():
        raise UserError(f"{given} is no file, here or in {folder}: correct the path")
    if path.resolve().is_relative_to(folder.resolve()):
        return path.resolve().relative_to(folder.resolve()).as_posix()
    target = folder / path.name
    if target.exists() and not filecmp.cmp(path, target, shallow=False):
        raise UserError(f"{target} is another file than {given}: rename one of them")
    if not target.exists():
        with replaced_file(target) as temporary:
            shutil.copyfile(path, temporary)
    return path.name


def placed_model(given: str, folder: Path) -> dict[str, Any]:
    """Returns ``base.model`` for a model folder, which is brought below ``base.folder``, or for a hub id.

    Raises:
        UserError: if it is neither, or another folder of its name lies there.
    """
    path = Path(given)
    if not path.is_dir() and (folder / path).is_dir():
        return {"kind": "folder", "path": path.as_posix()}
    if path.is_dir():
        if path.resolve().is_relative_to(folder.resolve()):
            return {"kind": "folder", "path": path.resolve().relative_to(folder.resolve()).as_posix()}
        target = folder / path.resolve().name
        if target.exists():
            raise UserError(f"{target} is there already: name it as --model {target.name}, or remove or rename it")
        with replaced_folder(target) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True, copy_function=_linked)
        return {"kind": "folder", "path": target.name}
    if (match := HUB_MODEL.fullmatch(given)) is not None:
        return {"kind": "hub", "id": match[1], "revision": match[2] or "main"}
    raise UserError(f"--model is {given!r}: name a model folder, or an id of the hub such as owner/name@revision")


def _linked(source: str, target: str) -> None:
    """Links a file, which takes no further disk, or copies it where the disk is another one."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def benchmark_rows(names: Iterable[str], folder: Path) -> dict[str, Any]:
    """Returns ``data.benchmarks`` for names of the catalogue or of params.yaml, and for files.

    Raises:
        UserError: if a name is neither; the message lists those there are.
    """
    known = read_yaml(CATALOGUE) if CATALOGUE.is_file() else {}
    known |= read_yaml(PARAMS_FILE)["data"]["benchmarks"]
    chosen: dict[str, Any] = {}
    for name in names:
        if name in known:
            chosen[name] = known[name]
        elif (split := split_name(Path(name).name)) is not None:
            path = placed_file(name, folder)
            key = re.sub(r"[^a-z0-9]+", "-", split[0].lower()).strip("-") or "benchmark"
            chosen[key] = {"title": split[0], "source": file_source(path, folder, None)}
        else:
            raise UserError(
                f"--benchmarks names {name!r}: name a file of problems, or one of {', '.join(sorted(known))}"
            )
    if not chosen:
        raise UserError("--benchmarks names none: name at least one, on which methods are compared")
    return chosen


def file_source(path: str, folder: Path, columns: ColumnMap | None) -> dict[str, Any]:
    """Returns a source for a file; its columns are guessed where none are given."""
    if columns is None:
        with opened(folder / path, "correct its name") as file:
            rows = [row for _, row in rows_in(file, path, file_kind(path, "the file"))]
        if not rows:
            raise UserError(f"{folder / path} holds no row: write one for each problem")
        columns = guessed_columns(rows, path)
    return {"kind": "file", "path": path, "columns": columns.model_dump(exclude_defaults=True)}


def write_params(options: argparse.Namespace) -> str:
    """Writes params.yaml for the options of ``sdpg new`` and returns what is to be printed.

    Raises:
        UserError: if something is missing or cannot be used, or `check` refuses the result.
    """
    before = PARAMS_FILE.read_text(encoding="utf-8") if PARAMS_FILE.exists() else ""
    tree = read_yaml(PARAMS_FILE)
    if options.profile:
        merge(tree, read_overlay("profile", options.profile))
    data, base = Path(tree["data"]["folder"]), Path(tree["base"]["folder"])
    model = placed_model(paths.given_name(options.model), base)
    train = file_source(placed_file(paths.given_name(options.problems), data), data, options.columns)
    benchmarks = benchmark_rows(map(paths.given_name, options.benchmarks.replace(",", " ").split()), data)
    changes: dict[str, Any] = {
        "profile": "own", "data": {"train": train, "benchmarks": benchmarks}, "base": {"model": model},
    }  # fmt: skip
    merge(tree, changes)
    params = parse_params(tree)
    # Loading transformers takes seconds, which a mistake above need not wait for.
    from pipelines.check import check_inputs
    from sdpg.models.loading import can_share_lines, unloaded_model
    from sdpg.problems.context import model_context
    from sdpg.problems.inputs import check_at_hand
    from sdpg.problems.measuring import described, measure, propose_limits
    from sdpg.problems.prepare import base_tokenizer
    from sdpg.problems.sources import load_problems

    check_at_hand(params)
    problems = load_problems(params.data.train, "train", params.data)
    solved = sum(bool(problem.solution) for problem in problems.problems)
    # With fewer solutions than problems without, the teacher is better shown the answer of all.
    hint = "answer_and_solution" if 2 * solved >= len(problems.problems) > 0 else "answer"
    prompts = params.prompts.model_copy(update={"hint": hint})
    held = {name: load_problems(row.source, name, params.data) for name, row in params.data.benchmarks.items()}
    measured = measure(problems, held, base_tokenizer(params), prompts, params.data.ngram)
    limits = propose_limits(measured, model_context(params.base))
    student, teacher = options.max_prompt or limits.student, options.max_teacher or limits.teacher
    response = options.max_response or limits.response
    usable = solved if hint == "answer_and_solution" else len(problems.problems)
    validation = options.validation or max(1, min(64, usable // 10))
    shared = params.train.line_tokens if can_share_lines(unloaded_model(params.base)) else 0
    merge(changes, {
        "data": {"validation_size": validation},
        "prompts": {"hint": hint, "max_student_tokens": student, "max_teacher_tokens": teacher},
        "rollout": {"max_tokens": response},
        "evaluation": {"max_tokens": response},
        "train": {
            "tokens_per_micro_batch": max(params.train.tokens_per_micro_batch, teacher + response),
            "line_tokens": shared,
            "prompts_per_step": _prompts(params, usable - validation),
        },
    }, onto_overlay=True)  # fmt: skip
    try:
        change = configure(profile=options.profile, methods=options.methods, changes=changes)
        check_inputs(load_params())
    except UserError:
        write_text(PARAMS_FILE, before)
        raise
    stated = ColumnMap.model_validate(train["columns"]).model_dump(exclude_none=True)
    columns = ", ".join(f"{part}={column}" for part, column in stated.items())
    return "\n".join([
        f"{data / train['path']} ({columns})", described(measured), "",
        f"Limits: prompts of {student} (student) and {teacher} tokens (teacher, who is shown the "
        f"{'answer and the worked solution' if hint == 'answer_and_solution' else 'answer alone'}), "
        f"responses of {response}; {validation} problems are held back for validation.", "",
        change or "params.yaml stays as it is.", "`check` accepts it.",
    ])  # fmt: skip


def _prompts(params: Params, problems: int) -> int:
    """Returns the largest number of prompts a step, up to that of params.yaml, that there are and can be divided."""
    parts = params.train.updates_per_batch, params.train.distributed.processes
    fitting = [count for count in range(1, params.train.prompts_per_step + 1)
               if count <= max(1, problems) and not any(count % part for part in parts)]  # fmt: skip
    return fitting[-1] if fitting else params.train.prompts_per_step
