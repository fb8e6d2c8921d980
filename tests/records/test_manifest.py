"""Tests that each reader of a finished run names what was changed in it, and that runs without a manifest are read."""

from collections.abc import Callable, Iterator, Sequence
import json
import os
from pathlib import Path
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import sources, store
from sdpg import paths
from sdpg.errors import UserError
from sdpg.evaluation.final import evaluate_run
from sdpg.evaluation.rescoring import find_run
from sdpg.files import write_text
from sdpg.records.manifest import NAME, check_folder, note_folder, read_manifest
from sdpg.records.parquet import VERSION_KEY
from sdpg.records.run_inputs import run_inputs
from sdpg.results.matched import read_record
from sdpg.results.report import print_table
from sdpg.results.runs import read_results
from tests.helpers.finished import PARAMS, make_finished

RUN, EVALUATION = Path("runs/grpo-0"), Path("evaluations/grpo-0")
LAST_STEP = "rollouts/step-000003-rank-0.parquet"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two finished runs, their evaluations and the tables, each folder with its manifest."""
    root = tmp_path_factory.mktemp("finished")
    make_finished(root)
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the finished project, in which the stages run."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    yield Path()


def pages() -> None:
    """Reads what the app's pages read, and raises the first notice."""
    found = sources.discover()
    said = [f"{notice.path} {notice.text}" for notice in found.notices]
    for run in found.runs.values():
        store.metrics(run)
        store.curves(run)
        said += store.index(run)[1]
        store.final(run)
        store.base(run)
    if said:
        raise UserError(said[0])


READERS: dict[str, Callable[[], Any]] = {
    "train": run_inputs, "evaluate": lambda: evaluate_run(PARAMS, "grpo", 0),
    "tabulate": lambda: read_results(PARAMS, Path()), "compare": lambda: read_record("grpo-0"),
    "rescore": lambda: find_run("grpo-0", {}, Path()), "show": print_table, "app": pages,
}  # fmt: skip


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Writes a Parquet file again, valid in itself, as somebody would who knows the format."""
    table = change(pq.read_table(path))
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def one_reward(table: pa.Table) -> pa.Table:
    rewards = table["reward"].to_pylist()
    place = table.schema.get_field_index("reward")
    return table.set_column(place, table.schema.field(place), [[-1.0, *rewards[1:]]])


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def rename(old: Path, new: str) -> None:
    shutil.rmtree(old.with_name(new))
    old.rename(old.with_name(new))


def train_again(run: Path) -> None:
    """Another training of the same name, whole in itself, beside the evaluation of the former one."""
    (run / "policy/model.safetensors").write_text("other weights", encoding="utf-8")
    noted = read_manifest(run)
    assert noted is not None
    note_folder(run, run.name, noted.fingerprint, noted.made_from)


def of_newer_code(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), VERSION_KEY: b"99"})


TAMPERED: dict[str, tuple[Callable[[], Any], str, Sequence[str]]] = {
    "one weight": (lambda: flip(RUN / "policy/model.safetensors"),
                   r"policy/model.safetensors \(the policy's weights\) has other", ("evaluate", "tabulate")),
    "another tokenizer": (lambda: shutil.copy("runs/rlsd-0/policy/tokenizer.json", RUN / "policy/tokenizer.json"),
                          r"policy/tokenizer.json \(the tokenizer\) has other", ("evaluate", "tabulate")),
    "one reward": (lambda: rewrite(RUN / LAST_STEP, one_reward), rf"{LAST_STEP} \(rollouts\) has",
                   ("tabulate", "rescore", "app")),
    "one row fewer": (lambda: rewrite(EVALUATION / "final.parquet", lambda table: table.slice(0, len(table) - 1)),
                      r"final.parquet \(the final evaluation\) has", ("tabulate", "rescore", "app")),
    "one step fewer": (lambda: (RUN / LAST_STEP).unlink(), rf"{LAST_STEP} \(rollouts\) is missing",
                       ("tabulate", "rescore")),
    "an added step": (lambda: shutil.copy(RUN / LAST_STEP, RUN / "rollouts/step-000009-rank-0.parquet"),
                      r"step-000009-rank-0.parquet \(rollouts\) is new", ("tabulate", "rescore", "app")),
    "a changed parameter": (lambda: edit(RUN / "config.yaml", '"lr": 0.00', '"lr": 0.01'),
                            r"config.yaml \(parameters and provenance\) has",
                            ("evaluate", "tabulate", "compare", "rescore", "app")),
    "a swapped benchmark": (lambda: exchange(paths.PREPARED / "chain-3.jsonl", paths.PREPARED / "chain-4.jsonl"),
                            r"chain-3.jsonl \(prepared problems\) has other", ("train", "evaluate")),
    "a truncated Parquet file": (lambda: os.truncate(RUN / "evaluations/step-000030.parquet", 1000),
                                 r"step-000030.parquet \(an evaluation in training\) has 1,000 bytes and not",
                                 ("tabulate", "rescore")),
    "an edited cell of the metrics": (lambda: edit(RUN / "metrics.csv", "\n7,0.07", "\n7,0.08"),
                                      r"metrics.csv \(a table of the training\) has", ("tabulate", "compare", "app")),
    "an edited cell of the tables": (lambda: edit(Path("reports/table.json"), '"last": 0.', '"last": 1.'),
                                     r"table.json \(the main table\) has", ("show",)),
    "two runs exchanged": (lambda: exchange(RUN, Path("runs/rlsd-0")), r"rlsd-0",
                           ("evaluate", "tabulate", "compare", "rescore", "app")),
    "two evaluations exchanged": (lambda: exchange(EVALUATION, Path("evaluations/rlsd-0")),
                                  r"evaluations/grpo-0 is not .* rlsd-0 under another name", ("tabulate", "rescore")),
    "a renamed run": (lambda: rename(Path("runs/rlsd-0"), "grpo-0"), r"rlsd-0 under another name|is of rlsd-0",
                      ("evaluate", "tabulate", "compare", "rescore", "app")),
    "the mark of another run": (lambda: shutil.copy("runs/rlsd-0/COMPLETE", RUN / "COMPLETE"),
                                r"COMPLETE is missing, or of another run",
                                ("evaluate", "tabulate", "compare", "rescore", "app")),
    "a schema from the future": (lambda: rewrite(RUN / LAST_STEP, of_newer_code), rf"{LAST_STEP} \(rollouts\) has",
                                 ("tabulate", "rescore", "app")),
    "a manifest from the future": (lambda: edit(RUN / NAME, '"version": 1', '"version": 2'), r"version 2, of newer",
                                   ("evaluate", "tabulate", "compare", "rescore", "app")),
    "a policy that was not evaluated": (lambda: train_again(RUN),
                                        r"evaluations/grpo-0 is not .* made from another policy", ("tabulate",)),
    "another base": (lambda: (paths.BASE_MODEL / "config.json").write_text("[]"),
                     r"base-evaluations is not .* made from another models/base", ("train",)),
    "the base's answers": (lambda: flip(paths.BASE_EVALUATIONS / "sampled.parquet"),
                           r"sampled.parquet \(the base's evaluation\) has other", ("train", "tabulate", "app")),
}  # fmt: skip


@pytest.mark.parametrize("kind", TAMPERED)
def test_what_was_changed_is_named_by_every_stage_that_reads_it(project: Path, kind: str) -> None:
    tamper, message, readers = TAMPERED[kind]
    tamper()
    for reader in readers:
        with pytest.raises(UserError, match=message):
            READERS[reader]()
            pytest.fail(f"{reader} did not notice {kind}")


def test_nothing_is_said_of_what_nobody_changed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(RUN / "metrics.csv", RUN / "timing.csv")
    for name in READERS.keys() - {"evaluate"}:
        READERS[name]()
    assert "manifest" not in capsys.readouterr().err


def test_a_run_without_a_manifest_says_so_once_and_is_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path().rglob(NAME):
        path.unlink()
    for name in ("tabulate", "compare", "rescore", "app", "tabulate"):
        READERS[name]()
    said = capsys.readouterr().err
    assert said.count("runs/grpo-0 has no manifest.json") == 1


ENTRY = '{"version": 1, "name": "a", "fingerprint": "", "made_from": {}, "files": {"a": 1}}'


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"version": 1, "files": [1]}', ENTRY])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / NAME, text)
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/hostname", "a/../../b", "", "a\nb"])
def test_a_manifest_names_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / "file", "")
    note_folder(tmp_path, tmp_path.name)
    tree = json.loads((tmp_path / NAME).read_text(encoding="utf-8"))
    tree["files"] = {name: tree["files"]["file"]}
    write_text(tmp_path / NAME, json.dumps(tree))
    with pytest.raises(UserError, match=NAME):
        check_folder(tmp_path)
