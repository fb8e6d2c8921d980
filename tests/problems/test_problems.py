"""Tests sources, cleaning, overlap and the validation split, on real files."""

from collections import Counter
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
import pytest

from sdpg.errors import UserError
from sdpg.params import ColumnMap, DataParams, HubSource
from sdpg.params.configure import read_overlay
from sdpg.problems.sources import (
    Overlap,
    Problem,
    ProblemSet,
    load_problems,
    load_solutions,
    overlap,
    split_validation,
    text_keys,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"


def data_params(folder: Path, source: dict[str, object]) -> DataParams:
    return DataParams.model_validate(
        {
            "folder": str(folder),
            "train": source,
            "validation_size": 1,
            "benchmarks": {"none": {"title": "None", "source": source}},
        }
    )


def load(folder: Path, needs_solution: bool = False, **source: object) -> ProblemSet:
    data = data_params(folder, source)
    return load_problems(data.train, "train", data, needs_solution=needs_solution)


def write_lines(path: Path, *rows: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def problems(*texts: str) -> list[Problem]:
    return [Problem(str(i), text, "1", "", "hand") for i, text in enumerate(texts)]


def test_json_lines_with_a_column_map(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "a.jsonl",
        {"q": "1+1?", "gold": "027", "work": "so \\boxed{27}", "key": "x7", "url": "…"},
        {"q": "angle?", "gold": "336^\\circ", "work": None, "key": 8, "url": None},
    )
    columns = {"problem": "q", "answer": "gold", "solution": "work", "id": "key"}
    assert load(tmp_path, kind="file", path="a.jsonl", columns=columns).problems == [
        Problem("x7", "1+1?", "27", "so \\boxed{27}", str(tmp_path / "a.jsonl")),
        Problem("8", "angle?", "336^\\circ", "", str(tmp_path / "a.jsonl")),
    ]


def test_parquet_with_float_answers_and_every_problem_32_times(tmp_path: Path) -> None:
    texts = [f"problem {i}" for i in range(40)]
    table = pa.table({"problem": texts * 32, "answer": [float(i) for i in range(40)] * 32})
    pq.write_table(table, tmp_path / "amc.parquet")
    found = load(tmp_path, kind="file", path="amc.parquet")
    assert [problem.answer for problem in found.problems] == [str(i) for i in range(40)]
    assert (found.read, found.dropped) == (1280, Counter(duplicate=1240))


def test_drops_are_counted_by_reason(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "a.jsonl",
        {"problem": "kept", "answer": 5, "solution": "s"},
        {"problem": " \n", "answer": "5", "solution": "s"},
        {"problem": "no answer", "answer": None, "solution": "s"},
        {"problem": "not a number", "answer": float("nan"), "solution": "s"},
        {"problem": "unsolved", "answer": "5", "solution": ""},
        {"problem": " kept\n", "answer": "5.0", "solution": "s"},
        {"problem": "kept", "answer": "6", "solution": "s"},
    )
    source = {"kind": "file", "path": "a.jsonl", "columns": {"solution": "solution"}}
    solved = load(tmp_path, needs_solution=True, **source)
    assert [problem.id for problem in solved.problems] == ["train-0"]
    assert solved.dropped == Counter(no_problem=1, no_answer=2, no_solution=1, duplicate=1, conflicting_answers=1)
    assert len(load(tmp_path, **source).problems) == 2


def test_a_hint_with_solutions_needs_a_column_of_solutions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.train\.columns\.solution .*prompts\.hint"):
        load(tmp_path, needs_solution=True, kind="file", path="a.jsonl")


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "a", "answer": "1"}\n\n{"problem": "b", \n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 3: not valid JSON"):
        load(tmp_path, kind="file", path="a.jsonl")


def test_a_cell_that_is_no_text_is_named(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    write_lines(tmp_path / "a.jsonl", {"problem": chat, "answer": "1"})
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: column 'problem' holds a list of 3.*problem\[0\].content"):
        load(tmp_path, kind="file", path="a.jsonl")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"problem": "a", "answer": "1"}, {"problem": "b", "gold": "1"})
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: there is no column 'answer'; there are: gold, problem"):
        load(tmp_path, kind="file", path="a.jsonl")
    pq.write_table(pa.table({"question": ["a"], "answer": ["1"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: there is no column 'problem'; there are: answer, question"):
        load(tmp_path, kind="file", path="b.parquet")


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} does not exist: put the file there"):
        load(tmp_path, kind="file", path=name)


def test_other_unusable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"a\.parquet is no readable Parquet file"):
        load(tmp_path, kind="file", path="a.parquet")
    with pytest.raises(UserError, match=r"data\.train\.path is 'a\.xlsx': files that end in .*\.csv, .* are read"):
        load(tmp_path, kind="file", path="a.xlsx")
    with pytest.raises(UserError, match=r"outside data\.folder"):
        load(tmp_path, kind="file", path="../a.jsonl")


def test_an_id_of_two_problems_is_named(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "a.jsonl", {"problem": "a", "answer": "1", "id": 3}, {"problem": "b", "answer": "1", "id": 3}
    )
    with pytest.raises(UserError, match=r"line 2: id '3' belongs to another problem already \(.*line 1\)"):
        load(tmp_path, kind="file", path="a.jsonl", columns={"id": "id"})


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two configurations in the hub's own layout, and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "problems" / "somebody" / "sums"
    for config, table in {
        "en": pa.table({"prompt": ["one plus one", "two plus two"], "solution": [2.0, 4.0], "source": ["a", "b"]}),
        "de": pa.table({"prompt": ["eins plus eins"], "solution": ["2"], "source": ["a"]}),
    }.items():
        (folder / "data" / config).mkdir(parents=True)
        pq.write_table(table, folder / "data" / config / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: en\n  data_files:\n  - split: train\n    path: data/en/train-*\n"
        "- config_name: de\n  data_files:\n  - split: train\n    path: data/de/train-*\n"
        "---\n# Sums\n"
    )
    return tmp_path / "problems"


HUB = {
    "kind": "hub",
    "id": "somebody/sums",
    "revision": "0123abc",
    "columns": {"problem": "prompt", "answer": "solution"},
}


def test_a_dataset_in_the_hubs_layout_loads_from_the_data_folder(hub_folder: Path) -> None:
    assert load(hub_folder, **HUB, config="en").problems == [
        Problem("train-0", "one plus one", "2", "", "somebody/sums/en"),
        Problem("train-1", "two plus two", "4", "", "somebody/sums/en"),
    ]
    assert [problem.problem for problem in load(hub_folder, **HUB, config="de").problems] == ["eins plus eins"]


def test_other_files_in_a_folder_are_read_and_not_what_was_there_before(hub_folder: Path) -> None:
    assert load(hub_folder, **HUB, config="de").problems[0].problem == "eins plus eins"
    table = pa.table({"prompt": ["zwei plus zwei"], "solution": ["4"], "source": ["a"]})
    pq.write_table(table, hub_folder / "somebody/sums/data/de/train-00000-of-00001.parquet")
    assert load(hub_folder, **HUB, config="de").problems[0].problem == "zwei plus zwei"


def test_a_dataset_loads_from_any_folder(hub_folder: Path) -> None:
    source = HUB | {"id": str(hub_folder / "somebody" / "sums")}
    assert load(hub_folder / "elsewhere", **source, config="en").read == 2


GSM8K = [
    # Question and answer as in the set: steps, calculators' annotations, and the answer behind a mark.
    ("Ann sold 48 clips, and half as many in May?", "Half is 48/2 = <<48/2=24>>24.\nTogether 48+24 = 72.\n#### 72"),
    ("A house costs $70,000 more than a car of $1,450?", "70000+1450 = <<70000+1450=71450>>71450\n#### 71,450"),
    ("A mark within the steps: 1 + 1?", "See #### below: 1 + 1 = <<1+1=2>>2 < 3, and 5 >> 2.\n#### 2"),
    ("No answer here?", "It is not known."),
    ("The fifth of all?", "10 - 11 = <<10-11=-1>>-1\n#### -1"),
]


def gsm8k_data(folder: Path) -> DataParams:
    """Writes files in the layout of openai/gsm8k, and returns the section ``data`` of the profile that reads it."""
    place = folder / "openai/gsm8k"
    card = ["---", "configs:"]
    for config in ("main", "socratic"):
        (place / config).mkdir(parents=True)
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in (("train", GSM8K), ("test", GSM8K[2:])):
            table = pa.table({"question": [row[0] for row in rows], "answer": [row[1] for row in rows]})
            pq.write_table(table, place / config / f"{split}-00000-of-00001.parquet")
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (place / "README.md").write_text("\n".join([*card, "---", ""]))
    overlay = read_overlay("profile", "qwen3-0.6b", Path(__file__).parents[2])
    return DataParams.model_validate(overlay["data"] | {"folder": str(folder)})


def test_gsm8k_is_read_in_the_hubs_own_layout(tmp_path: Path) -> None:
    data = gsm8k_data(tmp_path)
    found = load_problems(data.train, "train", data, needs_solution=True)
    assert [(one.answer, one.solution) for one in found.problems] == [
        ("72", "Half is 48/2 = 24.\nTogether 48+24 = 72."),
        ("71450", "70000+1450 = 71450"),
        ("2", "See #### below: 1 + 1 = 2 < 3, and 5 >> 2."),
        ("-1", "10 - 11 = -1"),
    ]
    assert (found.read, found.dropped) == (5, {"no_answer": 1})
    assert found.problems[0].source == "openai/gsm8k/main"
    test = load_problems(data.benchmarks["gsm8k"].source, "gsm8k", data)
    assert [one.id for one in test.problems] == ["gsm8k-0", "gsm8k-2"]
    # As worked solutions for other problems, without the answer too.
    assert isinstance(data.train, HubSource)
    pairs = list(load_solutions(data.train, "--dataset", tmp_path).pairs)
    assert pairs[1] == (GSM8K[1][0], "70000+1450 = 71450") and pairs[3] == (GSM8K[3][0], "")
    # Without the mark the column is taken whole.
    whole = data.train.model_copy(update={"columns": ColumnMap(problem="question", answer="answer", solution="answer")})
    assert load_problems(whole, "train", data).problems[1].solution == GSM8K[1][1]


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"'<<\(' is no regular expression"):
        ColumnMap(solution_without="<<(")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "fr"}, r"dataset somebody/sums \(fr\), .*does not load: .*'fr' not found"),
        ({"config": "en", "split": "test"}, "split 'test', .*does not load"),
        ({"config": "en", "columns": {"problem": "prompt"}}, "no column 'answer'; there are: prompt, solution, source"),
        ({"id": "somebody/else"}, "dataset somebody/else cannot be reached .*put its files, .*problems/somebody/else"),
    ],
)
def test_a_dataset_that_does_not_load_is_named(hub_folder: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(hub_folder, **(HUB | change))


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"{SHARED} is not there: the public benchmarks are not part of the project"
)
@pytest.mark.parametrize(("name", "count"), [("aime24", 30), ("aime25", 30), ("amc23", 40)])
def test_the_public_benchmarks_survive(name: str, count: int) -> None:
    found = load(SHARED, kind="file", path=f"{name}.jsonl", columns={"id": "id"})
    assert (len(found.problems), found.dropped) == (count, Counter())
    assert ("336^\\circ" in {problem.answer for problem in found.problems}) == (name == "aime25")


def test_synthetic_problems_differ_from_the_excluded() -> None:
    source = {"kind": "synthetic", "families": {"chain-3": 1}, "count": 50}
    data = data_params(Path("nowhere"), source)
    first = load_problems(data.train, "one", data)
    second = load_problems(data.train, "two", data, exclude=frozenset(p.problem for p in first.problems))
    assert len(text_keys(first.problems) | text_keys(second.problems)) == 100
    assert first == load_problems(data.train, "one", data)
    assert first.problems[0].id == "one-0" and first.problems[0].solution.endswith("}")


def test_overlap_by_hand() -> None:
    train = problems("a b c d e", "p q r s", "x  y", "u v w")
    benchmark = problems("z B C D z", "x y", "A b c d", "n n n n", "x y z")
    # 3-grams: train 0 shares "b c d" with benchmark 0 and 2; train 2 is, as a whole, benchmark 1 but no part of 4.
    assert overlap(train, benchmark, 3) == Overlap(exact=1, ngram_problems=3, ngram_train=2)
    assert overlap(train, benchmark, 13) == Overlap(exact=1, ngram_problems=1, ngram_train=1)
    assert overlap(train, [], 3) == overlap([], benchmark, 3) == Overlap(0, 0, 0)


def test_validation_avoids_the_benchmarks() -> None:
    pool = problems(*(f"problem {i}" for i in range(20)))
    benchmark_keys = text_keys(pool[:10])
    train, validation = split_validation(pool, 10, 0, benchmark_keys)
    assert validation == pool[10:] and train == pool[:10]
    train, validation = split_validation(pool, 5, 0, frozenset())
    assert sorted(train + validation, key=pool.index) == pool and len(validation) == 5
    assert (train, validation) == split_validation(pool, 5, 0, frozenset())
    assert validation != split_validation(pool, 5, 1, frozenset())[1]


@pytest.mark.parametrize(("size", "held"), [(11, 10), (20, 0)])
def test_too_few_problems_are_told_in_numbers(size: int, held: int) -> None:
    pool = problems(*(f"problem {i}" for i in range(20)))
    with pytest.raises(UserError, match=rf"validation_size is {size}, .* has 20 usable problems, {20 - held} of them"):
        split_validation(pool, size, 0, text_keys(pool[:held]))
