"""Tests benchmarks by name: the catalogue, its rows in params.yaml, and hub datasets at a commit that is kept."""

from pathlib import Path
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdpg.errors import UserError
from sdpg.params import BenchmarkParams, DataParams, HubSource, Params, load_params, parse_params, read_yaml
from sdpg.params.configure import CATALOGUE, configure
from sdpg.problems.prepare import prepare, summary
from sdpg.problems.sources import load_problems

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "ab" * 20, "cd" * 20
SOURCE = {"kind": "hub", "id": "lab/sums", "revision": "main", "split": "test", "columns": {"problem": "question"}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / CATALOGUE, tmp_path)
    for folder in ("profiles", "presets"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_the_catalogue_holds_the_papers_benchmarks_and_seven_more() -> None:
    rows = {name: BenchmarkParams.model_validate(row) for name, row in read_yaml(ROOT / CATALOGUE).items()}
    assert {name: (row.title, row.problems) for name, row in rows.items()} == {
        "aime24": ("AIME24", 30), "aime25": ("AIME25", 30), "amc23": ("AMC23", 40),
        "math500": ("MATH-500", 500), "minerva": ("Minerva", 272), "gsm8k": ("GSM8K", 1319),
        "hmmt-feb25": ("HMMT Feb 2025", 30), "aime26": ("AIME26", 30), "beyond-aime": ("BeyondAIME", 100),
        "olympiad": ("OlympiadBench", None),
    }  # fmt: skip
    sources = {name: row.source for name, row in rows.items()}
    assert {n: (s.id, s.split, s.columns.problem) for n, s in sources.items() if isinstance(s, HubSource)} == {
        "aime24": ("HuggingFaceH4/aime_2024", "train", "problem"),
        "aime25": ("yentinglin/aime_2025", "train", "problem"),
        "amc23": ("math-ai/amc23", "test", "question"),
        "math500": ("HuggingFaceH4/MATH-500", "test", "problem"),
        "minerva": ("math-ai/minervamath", "test", "question"),
        "gsm8k": ("openai/gsm8k", "test", "question"),
        "hmmt-feb25": ("MathArena/hmmt_feb_2025", "train", "problem"),
        "aime26": ("MathArena/aime_2026", "train", "problem"),
        "beyond-aime": ("ByteDance-Seed/BeyondAIME", "test", "problem"),
        "olympiad": ("Hothan/OlympiadBench", "train", "question"),
    }
    assert {name: row.licence for name, row in rows.items() if row.licence} == {"math500": "MIT", "gsm8k": "MIT"}


def test_names_become_rows_of_params_yaml_and_a_profile_takes_them_back(project: Path) -> None:
    before = read_yaml(project / "params.yaml")
    change = configure(project, benchmarks="aime24, amc23")
    assert "+    aime24:" in change and "+        columns: {problem: question, answer: answer}" in change
    assert "-    chain-3:" in change
    catalogue, tree = read_yaml(project / CATALOGUE), read_yaml(project / "params.yaml")
    assert tree["data"]["benchmarks"] == {name: catalogue[name] for name in ("aime24", "amc23")}
    assert {k: v for k, v in tree["data"].items() if k != "benchmarks"} == {
        k: v for k, v in before["data"].items() if k != "benchmarks"
    }
    assert configure(project, benchmarks="aime24 amc23") == ""
    configure(project, profile="tiny")
    assert read_yaml(project / "params.yaml") == before


def test_every_name_of_the_catalogue_can_be_chosen(project: Path) -> None:
    names = list(read_yaml(project / CATALOGUE))
    configure(project, benchmarks=" ".join(names))
    assert list(load_params(project / "params.yaml").data.benchmarks) == names


def test_a_row_that_is_pinned_in_params_yaml_stays_so(project: Path) -> None:
    configure(project, benchmarks="chain-3 aime24")
    path = project / "params.yaml"
    text = path.read_text()
    assert text.count("revision: main") == 1
    path.write_text(text.replace("revision: main", f"revision: {FIRST}"))
    configure(project, benchmarks="aime25 aime24 chain-3")
    params = load_params(path)
    assert list(params.data.benchmarks) == ["aime25", "aime24", "chain-3"]
    assert params.data.benchmarks["aime24"].source.revision == FIRST  # pyright: ignore[reportAttributeAccessIssue]


def test_an_unknown_name_changes_nothing(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(
        UserError, match=r"--benchmarks names 'aime99'; there are: aime24, aime25, aime26, amc23, .*chain-3.*row"
    ):
        configure(project, benchmarks="aime24 aime99")
    assert (project / "params.yaml").read_bytes() == before


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for caches of datasets and of the hub, and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "loaded")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return tmp_path


def rows(count: int, repeats: int = 1) -> pa.Table:
    """As some public copies are: float answers, and every problem several times."""
    return pa.table({
        "question": [f"what is {n} + 1?" for n in range(count)] * repeats,
        "answer": [float(n + 1) for n in range(count)] * repeats,
    })  # fmt: skip


def in_hub_cache(folder: Path, commit: str, table: pa.Table, ref: str | None = None) -> None:
    """The hub's own layout: refs name a commit, snapshots hold its files."""
    repository = folder / "hub" / "datasets--lab--sums"
    files = repository / "snapshots" / commit / "data"
    files.mkdir(parents=True)
    pq.write_table(table, files / "test-00000-of-00001.parquet")
    if ref:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)


def loaded_before(folder: Path, commit: str, table: pa.Table) -> None:
    """What datasets keeps of a dataset that it loaded from the hub once."""
    from datasets import load_dataset

    (folder / "sums").mkdir()
    pq.write_table(table, folder / "sums" / "test.parquet")
    made = Path(load_dataset(str(folder / "sums"), split="test").cache_files[0]["filename"]).parent
    shutil.copytree(made, folder / "loaded/lab___sums/default/0.0.0" / commit)


def load(folder: Path, **changes: Any) -> Any:
    source = SOURCE | changes
    data = DataParams.model_validate({
        "folder": str(folder / "inputs"), "train": source, "validation_size": 1,
        "benchmarks": {"sums": {"title": "Sums", "source": source}},
    })  # fmt: skip
    return load_problems(data.benchmarks["sums"].source, "sums", data)


def test_a_branch_in_the_hubs_cache_is_resolved_and_repeats_are_dropped(offline: Path) -> None:
    in_hub_cache(offline, FIRST, rows(40, repeats=32), ref="main")
    in_hub_cache(offline, SECOND, rows(39))
    found = load(offline)
    assert (found.commit, len(found.problems), found.read) == (FIRST, 40, 1280)
    assert dict(found.dropped) == {"duplicate": 1240}
    assert [problem.answer for problem in found.problems[:3]] == ["1", "2", "3"]
    assert (load(offline, revision=SECOND).commit, len(load(offline, revision=SECOND).problems)) == (SECOND, 39)


def test_a_dataset_that_was_loaded_once_tells_its_commit(offline: Path) -> None:
    loaded_before(offline, FIRST, rows(5))
    assert load(offline).commit == load(offline, revision=FIRST).commit == FIRST


def test_a_pinned_commit_is_never_replaced_by_another(offline: Path) -> None:
    # datasets itself would take the version that it loaded last.
    loaded_before(offline, FIRST, rows(5))
    with pytest.raises(UserError, match=rf"cannot be reached \(revision is {SECOND}, but only commit {FIRST} is at"):
        load(offline, revision=SECOND)
    in_hub_cache(offline, SECOND, rows(7))
    assert len(load(offline, revision=SECOND).problems) == 7


def test_files_in_the_data_folder_have_no_commit(offline: Path) -> None:
    (offline / "inputs/lab/sums").mkdir(parents=True)
    pq.write_table(rows(4), offline / "inputs/lab/sums/test.parquet")
    in_hub_cache(offline, FIRST, rows(5), ref="main")
    found = load(offline)
    assert (found.commit, len(found.problems)) == (None, 4)


def with_benchmark(project: Path, expected: int) -> Params:
    configure(project, profile="micro")
    tree = read_yaml(project / "params.yaml")
    tree["data"]["folder"] = str(project / "inputs")
    tree["data"]["benchmarks"] = {"sums": {"title": "Sums", "problems": expected, "source": SOURCE}}
    return parse_params(tree)


def test_the_commit_is_recorded_and_the_log_says_how_to_stay_with_it(offline: Path, project: Path) -> None:
    in_hub_cache(offline, FIRST, rows(6, repeats=2), ref="main")
    prepared = prepare(with_benchmark(project, 6))
    assert prepared.metrics["commits"] == {"benchmarks/sums": FIRST}
    assert f"benchmarks/sums is commit {FIRST}: name it as the source's revision" in summary(prepared, Path("data"))
    assert "dropped from benchmarks/sums: duplicate 6" in summary(prepared, Path("data"))


@pytest.mark.parametrize("expected", [5, 7, 12])
def test_another_number_of_problems_stops_the_pipeline(offline: Path, project: Path, expected: int) -> None:
    in_hub_cache(offline, FIRST, rows(6, repeats=2), ref="main")
    message = (
        rf"data\.benchmarks\.sums\.problems is {expected}, but of 12 rows .* 6 are usable \(dropped: duplicate 6\)"
    )
    with pytest.raises(UserError, match=message):
        prepare(with_benchmark(project, expected))


@pytest.mark.parametrize(
    ("name", "columns", "first"),
    [
        ("hmmt-feb25", {"problem_idx": [1, 2], "problem": ["a?", "b?"], "answer": ["103", r"3375"],
                        "problem_type": [["Number Theory"], ["Algebra"]]}, ("1", "103")),
        ("aime26", {"problem_idx": [1, 2], "problem": ["a?", "b?"], "answer": [277, 62]}, ("1", "277")),
        ("beyond-aime", {"problem": ["a?", "b?"], "answer": [19, 2007]}, (None, "19")),
        ("olympiad", {"id": [1606, 1609], "question": ["a?", "b?"], "final_answer": [["$2$"], ["$\\frac{1}{3}$"]],
                      "solution": [["Long."], ["One.", "Another."]], "unit": [None, None]}, ("1606", "2")),
    ],
)  # fmt: skip
def test_competitions_are_read_in_the_hubs_layout(
    offline: Path, name: str, columns: dict[str, Any], first: tuple[str | None, str]
) -> None:
    row = BenchmarkParams.model_validate(read_yaml(ROOT / CATALOGUE)[name])
    source = row.source
    assert isinstance(source, HubSource)
    folder = offline / "inputs" / source.id
    (folder / "data").mkdir(parents=True)
    file = f"data/{source.split}-00000-of-00001.parquet"
    pq.write_table(pa.table(columns), folder / file)
    named = f"- config_name: {source.config or 'default'}\n  data_files:\n  - split: {source.split}\n    path: {file}\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{named}---\n")
    found = load(offline, **source.model_dump())
    golds = columns.get("answer") or [answer for [answer] in columns["final_answer"]]
    assert [problem.answer for problem in found.problems] == [str(answer).strip("$") for answer in golds]
    assert (found.problems[0].problem, found.problems[0].answer) == ("a?", first[1])
    assert first[0] is None or found.problems[0].id == first[0]
