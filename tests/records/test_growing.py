"""Tests records that grow: older files, newer ones, files with more or fewer columns, and damaged ones."""

from pathlib import Path
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdpg.errors import UserError
from sdpg.records import schemas
from sdpg.records.parquet import CONVERSIONS, VERSION_KEY, Conversion, join_records, readable
from sdpg.records.schemas import (
    EVALUATION_REQUIRED,
    EVALUATION_SCHEMA,
    ROLLOUT_REQUIRED,
    ROLLOUT_SCHEMA,
    read_evaluations,
    read_rollouts,
    write_rollouts,
)

DOCS = Path(__file__).parents[2] / "docs" / "records.md"
DATA = Path(__file__).parent / "data"
FIRST, UNNAMED, BEFORE = "e18aed7", "26823c6", "2aaa9da"
"""Commits of version 1, of version 2 without verifiers of rollouts, and of version 2 with all columns."""
LATEST = DATA / f"rollout-{BEFORE}.parquet"


def grown(schema: pa.Schema, name: str, kind: pa.DataType) -> pa.Schema:
    """The schema with a column more."""
    return schema.append(pa.field(name, kind))


def with_version(schema: pa.Schema, version: int) -> pa.Schema:
    return schema.with_metadata({**schema.metadata, VERSION_KEY: str(version).encode()})


def written(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("commit", [FIRST, UNNAMED, BEFORE])
def test_rollouts_of_older_code_are_read(commit: str) -> None:
    path = DATA / f"rollout-{commit}.parquet"
    stored = pq.ParquetFile(path).read()
    table = read_rollouts(path)
    assert table.schema.equals(ROLLOUT_SCHEMA, check_metadata=True)
    assert table.select(stored.column_names).to_pylist() == stored.to_pylist()
    newer = {"truncated", "verifier", "verifier_version", "reason", "reward_format", "reward_length"}
    newer |= {"contrast_logprob", "hint_kind", "hint_sibling", "contrast_prompt", "contrast_sibling", "contrast_others"}
    newer |= {f"{name}{kind}" for name in ("student_top", "teacher_top") for kind in ("", "_logprob")}
    lacking = newer - set(stored.column_names)
    assert set(ROLLOUT_SCHEMA.names) - set(stored.column_names) == lacking
    assert all(table[name].null_count == len(table) for name in lacking - {"truncated"})
    some = ["verifier", "status", "truncated", "step"]
    assert read_rollouts(path, some).column_names == some, "those asked for, in this order"
    assert read_rollouts(path, some).to_pylist() == table.select(some).to_pylist()


@pytest.mark.parametrize("commit", [FIRST, BEFORE])
def test_evaluations_of_older_code_are_read(commit: str) -> None:
    path = DATA / f"evaluation-{commit}.parquet"
    stored = pq.ParquetFile(path).read()
    table = read_evaluations(path)
    assert table.schema.equals(EVALUATION_SCHEMA, check_metadata=True)
    assert table.select(stored.column_names).to_pylist() == stored.to_pylist()


def test_version_1_tells_cut_responses_by_their_status_and_says_nothing_of_others() -> None:
    rollouts = read_rollouts(DATA / f"rollout-{FIRST}.parquet", ["truncated"])
    assert rollouts["truncated"].to_pylist() == [None, None, True]
    assert read_evaluations(DATA / f"evaluation-{FIRST}.parquet")["truncated"].to_pylist() == [None] * 5 + [True]
    assert read_rollouts(LATEST, ["truncated"])["truncated"].to_pylist() == [False, False, True]


def test_a_column_more_is_null_in_older_files_and_needs_no_other_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "ROLLOUT_SCHEMA", grown(ROLLOUT_SCHEMA, "prompt_tokens", pa.int64()))
    old = read_rollouts(LATEST)
    assert old.schema.field("prompt_tokens").type == pa.int64()
    assert old["prompt_tokens"].to_pylist() == [None] * 3
    rows = [dict(row) for row in old.drop_columns("prompt_tokens").to_pylist()]
    write_rollouts(tmp_path / "new.parquet", [rows[0] | {"prompt_tokens": 7}, rows[1]])
    assert read_rollouts(tmp_path / "new.parquet", ["prompt_tokens"])["prompt_tokens"].to_pylist() == [7, None]


def test_a_row_that_names_an_unknown_column_or_lacks_a_required_one_is_refused(tmp_path: Path) -> None:
    row = read_rollouts(LATEST).to_pylist()[0]
    with pytest.raises(ValueError, match="fields that the schema has not: advantge"):
        write_rollouts(tmp_path / "a.parquet", [row | {"advantge": 1.0}])
    for name in ROLLOUT_REQUIRED:
        with pytest.raises(ValueError, match=f"lacks required fields: {name}$"):
            write_rollouts(tmp_path / "a.parquet", [{key: value for key, value in row.items() if key != name}])
    assert not list(tmp_path.iterdir())
    write_rollouts(tmp_path / "a.parquet", [{name: row[name] for name in ROLLOUT_REQUIRED}])
    assert read_rollouts(tmp_path / "a.parquet", ["entropy", "verifier"]).to_pylist() == [
        {"entropy": None, "verifier": None}
    ]


def test_an_unknown_column_is_carried_along(tmp_path: Path) -> None:
    table = pq.ParquetFile(LATEST).read().append_column("hint", pa.array(["a", None, "c"]))
    path = written(tmp_path / "more.parquet", table.add_column(0, "rank", pa.array([1, 2, 3], pa.int16())))
    found = read_rollouts(path)
    assert found.column_names == [*ROLLOUT_SCHEMA.names, "rank", "hint"]
    assert found["hint"].to_pylist() == ["a", None, "c"] and found.schema.field("rank").type == pa.int16()
    assert read_rollouts(path, ["step"]).column_names == ["step"], "only where all columns are asked for"
    assert read_rollouts(path, ["hint"])["hint"].to_pylist() == ["a", None, "c"]
    assert read_rollouts(path, rows=False).schema == found.schema
    joined = join_records([read_rollouts(LATEST), found], "the run")
    assert joined["hint"].to_pylist() == [None] * 3 + ["a", None, "c"]
    other = found.set_column(found.schema.get_field_index("hint"), "hint", pa.array([[1]] * 3))
    with pytest.raises(UserError, match="files of the run do not go together"):
        join_records([found, other], "the run")


def test_two_columns_of_one_name_are_damage(tmp_path: Path) -> None:
    table = pq.ParquetFile(LATEST).read()
    with pytest.raises(UserError, match="two columns have one name"):
        read_rollouts(written(tmp_path / "twice.parquet", table.append_column("step", table["step"])))


def test_a_column_of_another_width_has_the_schemas_type(tmp_path: Path) -> None:
    table = pq.ParquetFile(LATEST).read()
    at = table.schema.get_field_index("step")
    path = written(tmp_path / "narrow.parquet", table.set_column(at, "step", table["step"].cast(pa.int16())))
    assert read_rollouts(path).schema.equals(ROLLOUT_SCHEMA)
    text = table.set_column(at, "step", pa.array(["first"] * 3))
    with pytest.raises(UserError, match="is damaged"):
        read_rollouts(written(tmp_path / "text.parquet", text))


def test_a_file_without_a_required_column_is_no_record(tmp_path: Path) -> None:
    table = pq.ParquetFile(LATEST).read().drop_columns("status")
    path = written(tmp_path / "less.parquet", table)
    with pytest.raises(UserError, match="no column status, which every record"):
        read_rollouts(path)
    assert len(read_rollouts(path, ["step"])) == 3, "who does not ask for it is not concerned"
    first = pq.ParquetFile(DATA / f"rollout-{FIRST}.parquet").read().drop_columns("status")
    with pytest.raises(UserError, match="no column status, which every record"):
        read_rollouts(written(path, first), ["truncated"])
    with pytest.raises(ValueError, match="has no column sttus, and nor has its schema"):
        read_rollouts(path, ["sttus"])


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (b"3", "schema version 3, of newer code; this code reads versions up to 2: update this checkout"),
        (b"0", "schema version 0; this code reads 1 to 2"),
        (b"two", "schema version two"),
        ("²".encode(), "schema version ²"),
    ],
)
def test_versions_that_cannot_be_read_are_named(version: bytes, says: str, tmp_path: Path) -> None:
    table = pq.ParquetFile(LATEST).read()
    other = table.replace_schema_metadata({**table.schema.metadata, VERSION_KEY: version})
    with pytest.raises(UserError, match=says):
        read_rollouts(written(tmp_path / "other.parquet", other))


def test_an_older_meaning_is_converted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 3 as if it gave rewards in per cent, under another name of the status."""

    def percent(table: pa.Table) -> pa.Table:
        values = [100 * value for value in table["reward"].to_pylist()]
        return table.drop_columns("reward").append_column("reward", pa.array(values))

    monkeypatch.setattr(schemas, "ROLLOUT_SCHEMA", with_version(ROLLOUT_SCHEMA, 3))
    with pytest.raises(UserError, match="schema version 2; this code reads 1 to 3"):
        read_rollouts(LATEST)
    monkeypatch.setitem(CONVERSIONS, 2, Conversion(("reward",), percent))
    before = pq.ParquetFile(LATEST).read()["reward"].to_pylist()
    for path in (LATEST, DATA / f"rollout-{FIRST}.parquet"):
        table = read_rollouts(path)
        assert table["reward"].to_pylist() == [100 * value for value in before]
        assert table.schema.metadata[VERSION_KEY] == b"3" and table["truncated"].to_pylist()[-1]
        assert read_rollouts(path, ["status"]).column_names == ["status"], "what a step needs is not returned"


def test_only_the_columns_that_are_asked_for_are_read_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "step.parquet"
    write_rollouts(path, read_rollouts(LATEST).to_pylist())
    group, data = pq.read_metadata(path).row_group(0), bytearray(path.read_bytes())
    for at in range(group.num_columns):
        chunk = group.column(at)
        if chunk.path_in_schema.split(".")[0] not in ("step", "tokens"):
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    assert read_rollouts(path, ["tokens", "step"]).to_pylist() == read_rollouts(LATEST, ["tokens", "step"]).to_pylist()
    with pytest.raises(UserError, match="damaged"):
        read_rollouts(path, ["step", "reward"])


def test_the_page_names_every_column_and_which_are_required() -> None:
    rollouts, evaluations = DOCS.read_text(encoding="utf-8").split("\n## ")[1:3]
    for text, schema, required in (
        (rollouts, ROLLOUT_SCHEMA, ROLLOUT_REQUIRED), (evaluations, EVALUATION_SCHEMA, EVALUATION_REQUIRED)
    ):  # fmt: skip
        cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
        assert sorted(re.findall(r"`(\w+)`", "".join(cells))) == sorted(schema.names)
        assert sorted(re.findall(r"\*\*`(\w+)`", "".join(cells))) == sorted(required)


def test_a_folder_that_is_named_like_a_column_adds_none(tmp_path: Path) -> None:
    path = tmp_path / "lr=0.1" / "step.parquet"
    write_rollouts(path, read_rollouts(LATEST).to_pylist())
    assert read_rollouts(path).column_names == ROLLOUT_SCHEMA.names


def whole_file(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    path = folder / "whole.parquet"
    if not path.exists():
        write_rollouts(path, read_rollouts(LATEST).to_pylist()[::2])
    return path.read_bytes(), read_rollouts(path).to_pylist()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), in_footer=st.booleans())
def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path: Path, place: float, bit: int, in_footer: bool) -> None:
    data, rows = whole_file(tmp_path)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little") if in_footer else 0
    at = start + int(place * (len(data) - start))
    broken = bytearray(data)
    broken[at] ^= 1 << bit
    (tmp_path / "broken.parquet").write_bytes(broken)
    try:
        found = read_rollouts(tmp_path / "broken.parquet").to_pylist()
    except UserError as error:
        assert "broken.parquet" in str(error)
    else:
        assert found == rows


def test_no_bit_of_a_header_that_counts_values_changes_them(tmp_path: Path) -> None:
    """Headers of pages and the footer's counts have no checksum; chance seldom finds the bits that matter."""
    data, rows = whole_file(tmp_path)
    group = pq.read_metadata(tmp_path / "whole.parquet").row_group(0)
    chunks = [group.column(at) for at in range(group.num_columns)]
    pages = [each.data_page_offset for each in chunks if each.path_in_schema in ("step", "token_starts.list.element")]
    counts = data.index(VERSION_KEY, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
    changed = 0
    for at in (*(page + more for page in pages for more in range(40)), *range(counts - 24, counts)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            (tmp_path / "broken.parquet").write_bytes(broken)
            for columns in (list(rows[0]), ["step"]):
                try:
                    found = read_rollouts(tmp_path / "broken.parquet", columns).to_pylist()
                except UserError:
                    changed += 1
                else:
                    assert found == [{name: row[name] for name in columns} for row in rows]
    assert changed > 100


@pytest.mark.parametrize("name", ["verifier", "entropy"])
def test_a_column_whose_name_is_damaged_is_not_taken_for_another(name: str, tmp_path: Path) -> None:
    data, _ = whole_file(tmp_path)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = data.index(bytes([len(name)]) + name.encode(), footer) + 1
    (tmp_path / "broken.parquet").write_bytes(data[:at] + b"x" + data[at + 1 :])
    with pytest.raises(UserError, match="damaged"):
        read_rollouts(tmp_path / "broken.parquet")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_is_damaged(tmp_path: Path, share: float) -> None:
    data, _ = whole_file(tmp_path)
    (tmp_path / "cut.parquet").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="damaged"):
        read_rollouts(tmp_path / "cut.parquet")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(LATEST.read_bytes()) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_file_without_checksums_is_no_other_exception(tmp_path: Path, at: int, bit: int) -> None:
    broken = bytearray(LATEST.read_bytes())
    broken[at] ^= 1 << bit
    (tmp_path / "broken.parquet").write_bytes(broken)
    try:
        read_rollouts(tmp_path / "broken.parquet").to_pylist()
    except UserError as error:
        assert "broken.parquet" in str(error)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read .*name too long"):
        read_rollouts(tmp_path / f"{'long' * 100}.parquet")


def test_bytes_that_are_no_text_are_replaced() -> None:
    raw = [b"fine", b"a\xed\xa0\x80b", None]
    broken = pa.array(raw, type=pa.binary()).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), broken)
    table = pa.table({"text": broken.slice(0, 2), "tokens": lists, "number": [1, 2]})
    mended = readable(table)
    assert mended["text"].to_pylist() == ["fine", "a\ufffd\ufffd\ufffdb"]
    assert mended["tokens"].to_pylist() == [["fine", "a\ufffd\ufffd\ufffdb"], [None]]
    assert mended.schema.types == table.schema.types
    sound = pa.table({"text": ["ä", None]})
    assert readable(sound)["text"].to_pylist() == ["ä", None]
