"""Tests the Rollout page: the rollout that it opens, the data of the strip, the files that it offers."""

import base64
import hashlib
from html.parser import HTMLParser
import json
from pathlib import Path
import re
import shutil
import sys
from typing import Any
from urllib.parse import parse_qs

import pandas as pd
import pyarrow.compute as pc
import pytest
from streamlit.testing.v1 import AppTest

from app import filters, signals, sources, store, tokens
from app.places import places
from sdpg.records.schemas import read_rollouts, write_rollouts

PROJECT = Path(__file__).parents[2]
RUN = next(iter(sources.discover(sources.SAMPLE).runs.values()))


def page(monkeypatch: pytest.MonkeyPatch, root: Path = sources.SAMPLE, **query: str) -> AppTest:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app" / "main.py"), default_timeout=30)
    for name, value in query.items():
        at.query_params[name] = value
    at.switch_page("views/rollout.py").run()
    assert not at.exception
    return at


def shown(at: AppTest) -> dict[str, Any]:
    """What the strip was given."""
    protos = [each.proto for each in at.main if hasattr(each, "proto")]
    return next(
        json.loads(proto.json) for proto in protos if getattr(proto, "component_name", "") == "sdpg_token_strip"
    )


def a_row(**wanted: Any) -> dict[str, Any]:
    for step in store.rollout_steps(RUN):
        for row in store.step_rollouts(RUN, step).to_pylist():
            if all(row[name] == value for name, value in wanted.items()):
                return row
    raise AssertionError(wanted)


def data_of(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return tokens.strip_data(row, signals.readings(row, RUN.params, 1000.0), "entropy", "key", **changes)


def test_opens_a_rollout_that_the_teacher_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    at = page(monkeypatch)
    data = shown(at)
    assert data["signal"] == "gap" and "signal" not in at.query_params, "nobody chose it"
    assert data["signals"][0]["values"] is not None
    assert not at.query_params, "a page that is drawn leaves its address as it is"
    carried = parse_qs(next(link.proto.query_string for link in at.get("page_link") if link.proto.label == "Diff"))
    assert {"run", "step", "group", "sibling"} <= set(carried), "links name all of what is shown"


def test_looks_for_a_scored_rollout_in_all_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(sources.SAMPLE / RUN.folder, tmp_path / RUN.folder)
    path = tmp_path / RUN.folder / "rollouts" / f"step-{store.rollout_steps(RUN)[-1]:06d}-rank-0.parquet"
    rows = read_rollouts(path).to_pylist()
    signals_of = next(row["kl_to_teacher"] for row in rows if row["kl_to_teacher"])
    for row in rows:
        only = (row["group"], row["sibling"]) == (5, 2)
        row["kl_to_teacher"] = (signals_of * row["length"])[: row["length"]] if only else None
    write_rollouts(path, rows)
    at = page(monkeypatch, tmp_path)
    assert (at.session_state["group"], at.session_state["sibling"]) == ("5", "2")


def test_follows_an_address_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a link to the page itself does."""
    first, second = (str(step) for step in store.rollout_steps(RUN)[:2])
    at = page(monkeypatch, step=first, sibling="1")
    at.query_params["step"], at.query_params["sibling"] = second, "3"
    at.run()
    assert (at.query_params["step"], at.query_params["sibling"]) == (second, "3")
    assert shown(at)["key"].split("/")[-3:] == [second, "0", "3"]


def test_opens_what_the_address_says(monkeypatch: pytest.MonkeyPatch) -> None:
    step = store.rollout_steps(RUN)[1]
    wanted = {"run": RUN.id, "step": str(step), "group": "3", "sibling": "2", "signal": "entropy", "token": "4"}
    at = page(monkeypatch, **wanted)
    assert dict(at.query_params) == wanted
    row, data = store.rollout(RUN, step, 3, 2), shown(at)
    assert data["tokens"] == row["tokens"] and data["token"] == 4
    assert data["signals"][2]["values"] == pytest.approx(row["entropy"], rel=1e-5)
    assert data["prompt"] == row["student_prompt"]
    assert {name: value for name, value, _ in data["facts"]}["gold"] == row["gold"]


@pytest.mark.parametrize("token", ["-1", "x", "100000", "9" * 400, "1.5", "²"])
def test_a_token_that_is_not_there_selects_none(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    assert shown(page(monkeypatch, token=token))["token"] is None


def test_a_selection_that_is_not_there_gives_way_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"run": RUN.id, "step": "12345", "group": "-1", "sibling": "99", "signal": "colour"}
    at = page(monkeypatch, **asked)
    assert shown(at)["tokens"] and not at.error
    (said,) = at.warning
    assert all(value.strip("-") in said.value for name, value in asked.items() if name != "run")
    assert dict(at.query_params) == asked


def test_another_sibling_drops_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    at = page(monkeypatch, sibling="0", token="3")
    assert at.query_params["token"] == "3"
    at.button_group(key="sibling").set_value("1").run()
    assert not at.exception
    assert at.query_params["sibling"] == "1" and "token" not in at.query_params


def test_a_link_may_name_the_problem_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = store.rollout_steps(RUN)[0], store.rollout_steps(RUN)[-1]
    problem, stands = next((key, found) for key, found in places(RUN).items() if found[0][0] == first and found[0][1])
    assert (first, 0) != stands[0] != (last, 0)
    at = page(monkeypatch, run=RUN.id, problem=problem)
    assert (int(at.session_state["step"]), int(at.session_state["group"])) == stands[0]


def test_a_problem_can_be_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, stands = next(iter(places(RUN).items()))
    at = page(monkeypatch, run=RUN.id)
    at.selectbox(key="find_problem").set_value(problem).run()
    assert not at.exception
    assert (int(at.session_state["step"]), int(at.session_state["group"])) == stands[0]


def test_a_signal_that_is_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    row = a_row(teacher_logprob=None)
    at = page(monkeypatch, run=RUN.id, **{name: str(row[name]) for name in ("step", "group", "sibling")}, signal="kl")
    data = shown(at)
    assert data["signal"] == "kl", "the reader's choice stays"
    assert data["signals"][1]["values"] is None and "rollouts drawn at this step" in data["signals"][1]["reason"]


def test_a_damaged_file_is_a_notice_that_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(sources.SAMPLE / RUN.folder, tmp_path / RUN.folder)
    steps = store.rollout_steps(RUN)
    path = tmp_path / RUN.folder / "rollouts" / f"step-{steps[-1]:06d}-rank-0.parquet"
    path.write_bytes(path.read_bytes()[:500])
    at = page(monkeypatch, tmp_path, step=str(steps[-1]))
    assert path.name in at.error[0].value.replace("\\", "")
    assert shown(page(monkeypatch, tmp_path, step=str(steps[0])))["tokens"]


def test_a_run_without_records_or_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(sources.SAMPLE / RUN.folder, tmp_path / RUN.folder)
    (tmp_path / RUN.folder / "metrics.csv").unlink()
    data = shown(page(monkeypatch, tmp_path))
    assert "metrics.csv" in data["signals"][-1]["reason"]
    shutil.rmtree(tmp_path / RUN.folder / "rollouts")
    at = page(monkeypatch, tmp_path)
    assert "no records" in at.error[0].value


def test_tokens_special_and_masks() -> None:
    row = a_row(gate=0.0)
    data = data_of(row)
    assert [row["tokens"][place] for place in data["special"]] == ["<|im_end|>"] * (not row["truncated"])
    assert data["masks"]["gated"] and data["masks"]["cut"] is None and data["masks"]["differs"] is None
    assert data_of(row, distils=False)["masks"]["gated"] is None, "no gate keeps out what nothing distils"
    assert ["gate", "no distillation", ""] in tokens.facts(row, 32, distils=False)
    data = data_of({**row, "gate": 1.0, "truncated": True}, differing=[True] + [False] * (row["length"] - 1))
    assert data["masks"]["gated"] is None and str(row["length"]) in data["masks"]["cut"] and data["marked"] == [0]


def test_text_is_cut_and_says_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens.cut("x" * 5000, 2000) == "x" * 2000 + " … 3,000 more characters"
    assert tokens.cut("\u202eab\x1b\ud800", 9) == "⟨U+202E⟩ab␛�"
    row = a_row(gate=1.0)
    monkeypatch.setattr(tokens, "MOST_TOKENS", 3)
    data = data_of(row)
    assert len(data["tokens"]) == len(data["ids"]) == len(data["signals"][2]["values"]) == 3
    assert data["more"] == f"… {row['length'] - 3} more tokens"


def test_a_number_that_is_none_has_no_colour() -> None:
    row = a_row(gate=1.0)
    data = data_of({**row, "entropy": [float("nan"), float("inf"), *row["entropy"][2:]]})
    assert data["signals"][2]["values"][:2] == [None, None]
    json.dumps(data, allow_nan=False)


def test_prompts_side_by_side_mark_what_the_teacher_sees_beyond() -> None:
    row = {"student_prompt": "Solve: 1+1\nBox it.", "teacher_prompt": "Solve: 1+1\nHint: 2\nBox it."}
    student, teacher = (side["parts"] for side in tokens.prompts(row))
    assert student == [["Solve: 1+1\nBox it.", False]]
    assert "".join(text for text, _ in teacher) == row["teacher_prompt"]
    assert "Hint: 2" in "".join(text for text, mark in teacher if mark)
    assert tokens.prompts({"student_prompt": "", "teacher_prompt": None})[1]["parts"] == [["none", False]]


def test_files_hold_the_row_as_it_was(tmp_path: Path) -> None:
    row = a_row(gate=1.0)
    path = tmp_path / "one.parquet"
    keys = pd.DataFrame([{name: row[name] for name in ("step", "group", "sibling")}])
    path.write_bytes(filters.parquet_of(RUN, keys))
    assert read_rollouts(path).to_pylist() == [row]
    assert [json.loads(line) for line in filters.jsonl_of(RUN, keys).splitlines()] == [row]


class Elements(HTMLParser):
    """Start tags of a document, its title, and what its scripts and styles hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open in self.inside:
            self.inside[self.open].append(data)


def test_the_standalone_file_runs_its_own_script_alone() -> None:
    evil = "</script><script>alert(1)</script></title></style><!-- <img src=x onerror=alert(1)>"
    row = a_row(gate=1.0)
    row |= {"completion": evil, "tokens": [evil, *row["tokens"][1:]], "student_prompt": evil, "extracted_answer": evil}
    data = data_of(row) | {"facts": tokens.facts(row, 32), "prompts": tokens.prompts(row)}
    text = tokens.standalone(data, f"Title {evil}", [evil], evil)
    found = Elements(text)
    kinds = [tag for tag, _ in found.tags]
    assert kinds.count("script") == 2 and kinds.count("style") == 1 and "img" not in kinds
    assert not re.search(r"(?:src|href)=", " ".join(f"{name}=" for _, attrs in found.tags for name in attrs))
    held = json.loads(found.inside["script"][0])
    assert held["tokens"][0] == evil and "".join(text for text, _ in held["prompts"][0]["parts"]) == evil

    policy = next(attrs["content"] for tag, attrs in found.tags if attrs.get("http-equiv"))
    assert policy and policy.startswith("default-src 'none'") and "unsafe" not in policy
    for name, content in (("script", found.inside["script"][1]), ("style", "".join(found.inside["style"]))):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_embedded_json_holds_nothing_that_html_reads() -> None:
    value = ["</script>", "<!--<script>", "&lt;", "\u2028", "]]>"]
    text = tokens.embedded(value)
    assert not set("<>&\u2028") & set(text) and json.loads(text) == value


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("rule", "text"), [(r"\.strip \{", "#31333f"), (r"\.strip\.dark \{", "#fafafa")])
def test_text_can_be_read_on_the_fullest_colours(rule: str, text: str) -> None:
    css = (tokens.COMPONENTS / "strip.css").read_text(encoding="utf-8")
    block = re.search(rule + r"(.*?)\}", css, re.S)
    assert block
    for end in ("low", "high"):
        colour = re.search(rf"--{end}: (#[0-9a-f]{{6}})", block[1])
        assert colour
        light, dark = sorted((luminance(colour[1]), luminance(text)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (rule, end)


def test_places_of_problems_are_those_of_the_records() -> None:
    known = places(RUN)
    step = store.rollout_steps(RUN)[0]
    table = store.step_rollouts(RUN, step)
    for problem, group in zip(table["problem_id"].to_pylist(), table["group"].to_pylist(), strict=True):
        assert (step, group) in known[problem]
    assert sum(len(stands) for stands in known.values()) == sum(
        len(pc.unique(store.step_rollouts(RUN, each)["group"])) for each in store.rollout_steps(RUN)
    )


def test_the_title_of_a_privileged_prompt_says_which_hint_it_holds() -> None:
    row = {"student_prompt": "Solve: 1+1", "teacher_prompt": "Solve: 1+1 Hint: {x}", "hint_kind": "sibling",
           "hint_sibling": 2, "contrast_prompt": "Solve: 1+1 Hint: 3", "contrast_sibling": 0}  # fmt: skip
    student, teacher, contrast = tokens.prompts(row)
    assert student == {"title": "Student's prompt", "parts": [["Solve: 1+1", False]]}
    assert teacher["title"] == "Privileged prompt, which the teacher sees: correct response of sibling 2"
    assert teacher["parts"] == [["Solve: 1+1", False], [" Hint: {x}", True]]
    assert contrast["title"] == "Prompt of the teacher's second pass: wrong hint of sibling 0"
    assert contrast["parts"] == [["Solve: 1+1", False], [" Hint: 3", True]]
    skipped = tokens.prompts({"student_prompt": "Solve", "teacher_prompt": None, "hint_kind": "none"})
    assert [side["parts"] for side in skipped] == [[["Solve", False]], [["no hint: skipped", False]]]
    told = {"feedback": "verdict on this response", "answer_and_solution": "answer and solution"}
    for kind, words in told.items():
        assert tokens.prompts(row | {"hint_kind": kind, "hint_sibling": None})[1]["title"].endswith(f": {words}")
    older = tokens.prompts({name: row[name] for name in ("student_prompt", "teacher_prompt")})
    assert [side["title"] for side in older] == ["Student's prompt", "Privileged prompt, which the teacher sees"]
