"""Writes the file that params.yaml can name and the settings beside the paid answers, and reports at the end."""

import json
from pathlib import Path
from typing import Any

from sdpg.errors import UserError
from sdpg.files import check_within, write_json, write_json_lines
from sdpg.solutions.filling import Filled
from sdpg.solutions.settings import SolutionParams


class Result:
    """The files of a result.

    Args:
        name: the result's file name in ``folder``.
        folder: ``data.folder``, from which params.yaml names it.
        answers: the folder of the summary; it is not ``folder``, whose content the pipeline watches for changes.

    Raises:
        UserError: if the name is no .jsonl file within the folder.
    """

    def __init__(self, name: str, folder: Path, answers: Path) -> None:
        check_within(name, f"--out (name a .jsonl file within {folder}, such as solved.jsonl)")
        if not name.endswith(".jsonl"):
            raise UserError(f"--out is {name!r}: name a .jsonl file within {folder}, such as solved.jsonl")
        self.name, self.path = name, folder / name
        self.summary_path = answers / f"{name.removesuffix('.jsonl').replace('/', '-')}.json"

    def check(self, settings: SolutionParams, replace: bool) -> None:
        """Refuses to write over a result of other settings.

        Raises:
            UserError: if the file is there and was not made with these settings; it names those that differ.
        """
        if getattr(settings.source, "path", None) == self.name:
            raise UserError(f"--out is {self.name}, the file that the problems are read from: name another")
        if self.path.is_dir():
            raise UserError(f"--out: {self.path} is a folder: name a file")
        if replace or not self.path.exists():
            return
        made_with = _settings_of(self.path)
        if made_with == settings.fingerprint:
            return
        remedy = (
            "name another file with --out, or give --replace to write over it (answers that were paid for are kept)"
        )
        if made_with is None:
            raise UserError(f"{self.path} exists and was not made by this command: {remedy}")
        raise UserError(f"{self.path} exists and was made with other settings{self._differences(settings)}: {remedy}")

    def _differences(self, settings: SolutionParams) -> str:
        try:
            before = json.loads(self.summary_path.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""
        old, new = _leaves(before), _leaves(settings.tree)
        changed = [
            f"{key} {old.get(key)!r} → {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)
        ]
        return f" ({'; '.join(changed)})" if changed else ""

    def write(self, settings: SolutionParams, filled: Filled, verifier: tuple[str, str]) -> None:
        """Writes both files, each whole or not at all; the result comes last."""
        summary = filled.summary() | {"verifier": verifier[0], "verifier_version": verifier[1]}
        write_json(self.summary_path, summary | {"result": self.name, "settings": settings.tree})
        rows = filled.rows(*verifier, settings.fingerprint)
        text_before = self.path.read_bytes() if self.path.is_file() else None
        # The pipeline runs again where a file has changed, so an equal file is left alone.
        if text_before != "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode():
            write_json_lines(self.path, rows)

    def report(self, filled: Filled, verifier: tuple[str, str], bought: dict[str, int] | None) -> str:
        """Returns a text for people: counts, where the files are, and what to type next."""
        lines = [
            f"{len(filled.problems):,} problems, {filled.sources['source']:,} of them with a solution of their own"
        ]
        for source, used in filled.used.items():
            costs = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in used.items() if count)
            lines.append(f"{source}: {filled.sources[source]:,} filled ({costs or 'nothing used'})")
            if rejected := filled.summary()["rejected"][source]:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items())
                lines.append(f"  rejected candidates: {sum(rejected.values()):,} ({reasons})")
        if bought is not None:
            lines.append(f"bought now: {bought['requests']:,} answers, {bought['tokens']:,} tokens")
        left = ", ".join(f"{reason} {count:,}" for reason, count in filled.not_asked.items())
        lines.append(f"still missing: {filled.missing:,}{f' (not asked: {left})' if left else ''}")
        return "\n".join(
            [
                *lines,
                f"verifier: {verifier[0]} {verifier[1]}",
                f"The problems: {self.path}, with each solution's origin. Counts and settings: {self.summary_path}",
                "Next, in params.yaml (with validation_size and the rest of data as they are):",
                "  data:",
                "    train:",
                "      kind: file",
                f"      path: {self.name}",
                "      columns: {id: id, problem: problem, answer: answer, solution: solution}",
                "then: dvc repro prepare",
            ]
        )


def _settings_of(path: Path) -> str | None:
    """Returns the fingerprint in the first row of a result; ``None`` where the file is no result."""
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(file.readline())
        return row["settings"] if {"solution_way", "settings"} <= row.keys() else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {name: value for key, part in tree.items() for name, value in _leaves(part, f"{path}.{key}").items()}
    if isinstance(tree, list) and tree:
        return {name: v for at, part in enumerate(tree) for name, v in _leaves(part, f"{path}[{at}]").items()}
    return {path.removeprefix("."): tree}
