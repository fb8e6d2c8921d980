"""Tests which hint each rollout's teacher is shown, in which words, and what happens where there is none."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from sdpg.errors import UserError
from sdpg.params import MethodParams, PromptParams, parse_params
from sdpg.problems.hints import NONE, Group, Hint, HintDrawer
from sdpg.problems.prompts import PreparedRow, prepare_row
from sdpg.problems.sources import MisledProblem, Problem
from sdpg.problems.tokenizer import train_tokenizer
from sdpg.rewards.verifiers import Status, Verdict
from tests.helpers.fabricated import params_with
from tests.helpers.tiny import tiny_method

TOKENIZER = train_tokenizer(["Question: Solve it. The answer is 12.\n"] * 5, 300)
PROMPTS = PromptParams(
    student="Q: {problem}",
    teacher={
        "answer_and_solution": "{student}\nAnswer {answer}, solution {solution}",
        "answer": "{student}\nAnswer {answer}",
        "sibling": "{student}\nRight: {response} gives {extracted}",
        "wrong_sibling": "{student}\nWrong: {response} gives {extracted}",
        "feedback": "{student}\nChecked: {feedback}",
    },
    feedback={"wrong": "{extracted} is wrong.", "no_answer": "No answer.", "truncated": "Cut."},
)
TASK = Problem("p", "6*7", "42", "six sevens", "hand")
ROW = prepare_row(TOKENIZER, TASK, PROMPTS)
STATUSES = {"r": Status.CORRECT, "w": Status.WRONG, "n": Status.NO_ANSWER, "t": Status.TRUNCATED, "o": Status.TIMEOUT}


def group(
    kinds: str, lengths: list[int] | None = None, texts: list[str] | None = None, row: PreparedRow = ROW
) -> Group:
    """A group whose verdicts are named by letters; response i answers i."""
    verdicts = [
        Verdict(STATUSES[kind], str(at) if kind in "rwo" else None, float(kind == "r")) for at, kind in enumerate(kinds)
    ]
    written = texts or [f"try {at}" for at in range(len(kinds))]
    return Group(row, written, lengths or list(range(1, 1 + len(kinds))), verdicts)


def drawer(prompts: PromptParams = PROMPTS, seed: int = 0, **method: Any) -> HintDrawer:
    values = {"distillation": "kl_student_teacher"} | method
    return HintDrawer(TOKENIZER, prompts, tiny_method(**values), seed)


def shown(hint: Hint) -> str | None:
    """What stands in the user's message below the question."""
    if hint.prompt is None:
        assert (hint.kind, hint.ids) == (NONE, [])
        return None
    assert TOKENIZER(hint.prompt)["input_ids"] == hint.ids and hint.kind != NONE
    start, end = "<|im_start|>user\nQ: 6*7\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert hint.prompt.startswith(start) and hint.prompt.endswith(end)
    return hint.prompt[len(start) : -len(end)]


def siblings(kinds: str, lengths: list[int] | None = None, step: int = 1, **method: Any) -> list[int | None]:
    return [hint.sibling for hint in drawer(**method).draw([group(kinds, lengths)], step)]


def test_a_sibling_is_another_response_that_was_found_correct() -> None:
    lengths = [5, 9, 2, 7]
    assert siblings("wrrr", lengths, hint="sibling", hint_choice="shortest") == [2, 2, 3, 2]
    assert siblings("wrrr", lengths, hint="sibling", hint_choice="longest") == [1, 3, 1, 1]
    # The third alone is right: it is everybody's hint but its own.
    assert siblings("wwrw", hint="sibling") == [2, 2, None, 2]
    assert siblings("wwww", hint="sibling") == siblings("ntow", hint="sibling") == [None] * 4
    assert siblings("rrrr", hint="sibling", hint_choice="shortest") == [1, 0, 0, 0]
    # What was cut, has no answer or could not be verified is not wrong.
    assert siblings("rwnto", hint="wrong_sibling") == [1, None, 1, 1, 1]
    found = drawer(hint="sibling").draw([group("wwrw")], 1)
    assert [shown(hint) for hint in found] == ["Right: try 2 gives 2", "Right: try 2 gives 2", None,
                                              "Right: try 2 gives 2"]  # fmt: skip
    assert shown(drawer(hint="wrong_sibling").draw([group("wr")], 1)[1]) == "Wrong: try 0 gives 0"


def test_ties_go_to_the_first() -> None:
    assert siblings("rrrrw", [4] * 5, hint="sibling", hint_choice="shortest") == [1, 0, 0, 0, 0]
    assert siblings("rrrrw", [4] * 5, hint="sibling", hint_choice="longest") == [1, 0, 0, 0, 0]


def test_groups_do_not_mix() -> None:
    both = drawer(hint="sibling").draw([group("ww"), group("rw")], 1)
    assert [hint.sibling for hint in both] == [None, None, None, 0]
    cut = Group.cut([ROW, ROW], ["a", "b", "c", "d"], [1, 2, 3, 4], group("wwrw").verdicts)
    assert [(each.texts, each.lengths, len(each.verdicts)) for each in cut] == [
        (["a", "b"], [1, 2], 2), (["c", "d"], [3, 4], 2)
    ]  # fmt: skip


def test_random_choices_depend_on_seed_step_and_rollout_alone() -> None:
    made, many = drawer(hint="sibling", hint_choice="random"), [group("r" * 8), group("r" * 8)]
    first = [hint.sibling for hint in made.draw(many, 3)]
    made.draw(many, 4)
    # As a run that is resumed: another drawer, and no steps before.
    assert [hint.sibling for hint in drawer(hint="sibling", hint_choice="random").draw(many, 3)] == first
    others = [drawer(seed=1, hint="sibling").draw(many, 3), made.draw(many, 4)]
    assert all([hint.sibling for hint in other] != first for other in others) and first[:8] != first[8:]
    drawn = Counter(
        hint.sibling for step in range(200) for at, hint in enumerate(made.draw([group("rrrr")], step)) if at == 1
    )
    assert set(drawn) == {0, 2, 3} and min(drawn.values()) > 40
    # The contrast has a stream of its own: its choice does not follow the hint's.
    both = drawer(hint="wrong_sibling", contrast_hint="wrong_sibling", gate={"kind": "import", "path": "a:b"})
    pairs = {
        (hint.sibling, contrast.sibling)
        for step in range(30)
        for hint, contrast in zip(
            both.draw([group("rwww")], step)[:1],
            (both.draw_contrast([group("rwww")], step) or [[]])[0][:1],
            strict=True,
        )
    }
    assert len(pairs) > 3


def test_without_a_hint_a_rollout_is_skipped_or_has_the_prepared_prompt() -> None:
    skipped = drawer(hint="sibling").draw([group("wwrw")], 1)
    assert [hint.fell_back for hint in skipped] == [False] * 4
    fallen = drawer(hint="sibling", hint_missing="fall_back").draw([group("wwrw")], 1)
    assert [hint.fell_back for hint in fallen] == [False, False, True, False]
    assert (fallen[2].kind, fallen[2].prompt, len(fallen[2].ids)) == (
        "answer_and_solution", ROW.teacher_prompt, ROW.teacher_tokens
    )  # fmt: skip
    assert fallen[:2] == skipped[:2]
    none = PreparedRow(**{**vars(ROW), "teacher_prompt": None, "teacher_tokens": None})
    nothing = drawer(hint="sibling", hint_missing="fall_back").draw([group("ww", row=none)], 1)
    assert [hint.kind for hint in nothing] == [NONE, NONE]


def test_answers_and_solutions_of_a_method_are_made_from_the_row() -> None:
    assert [shown(hint) for hint in drawer(hint="answer").draw([group("rw")], 1)] == ["Answer 42"] * 2
    (whole,) = drawer(hint="answer_and_solution").draw([group("w")], 1)
    assert (whole.prompt, whole.kind) == (ROW.teacher_prompt, "answer_and_solution")
    (prepared,) = drawer().draw([group("w")], 1)
    assert prepared == whole
    answers = PROMPTS.model_copy(update={"hint": "answer"})
    unsolved = prepare_row(TOKENIZER, Problem("p", "6*7", "42", "", "hand"), answers)
    (missing,) = drawer(answers, hint="answer_and_solution", hint_missing="fall_back").draw(
        [group("w", row=unsolved)], 1
    )
    assert missing.fell_back and shown(missing) == "Answer 42"
    # The hint of a problem whose solution misleads names the answer to which it leads.
    misled = prepare_row(TOKENIZER, MisledProblem(**vars(TASK), wrong_answer="41"), PROMPTS)
    assert misled == PreparedRow.from_dict(misled.to_dict(), "") and misled.to_dict()["wrong_answer"] == "41"
    assert "wrong_answer" not in ROW.to_dict() and PreparedRow.from_dict(ROW.to_dict(), "") == ROW
    assert shown(drawer(hint="answer").draw([group("w", row=misled)], 1)[0]) == "Answer 41"
    assert "Answer 41, " in (misled.teacher_prompt or "")


def test_feedback_tells_the_verdict_and_a_correct_rollout_has_none() -> None:
    found = drawer(hint="feedback").draw([group("rwnto")], 1)
    told = ["Checked: 1 is wrong.", "Checked: No answer.", "Checked: Cut."]
    # A verdict that is not known says nothing either.
    assert [shown(hint) for hint in found] == [None, *told, None]
    assert {hint.sibling for hint in found} == {None}
    with_response = {**PROMPTS.teacher, "feedback": "{student}\n{response} – {feedback}"}
    own = drawer(PROMPTS.model_copy(update={"teacher": with_response}), hint="feedback").draw([group("rw")], 1)
    assert shown(own[1]) == "try 1 – 1 is wrong."


HOSTILE = "{student} {answer} {0} {{x}} {response.__class__} %s \\boxed{7} </s> \\1 {"


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_any_response_is_shown_as_it_is(text: str) -> None:
    for response in (text, HOSTILE + text):
        (_, hint) = drawer(hint="sibling").draw([group("rw", texts=[response, ""])], 1)
        assert shown(hint) == f"Right: {response} gives 0"
        (told, _) = drawer(hint="feedback").draw(
            [Group(ROW, ["", ""], [1, 1], [Verdict(Status.WRONG, response, 0.0), Verdict(Status.CORRECT, "1", 1.0)])], 1
        )
        assert shown(told) == f"Checked: {response} is wrong."


@pytest.mark.parametrize("special", ["<|im_end|>", "<|im_start|>"])
def test_a_response_that_spells_a_special_token_is_passed_over(special: str) -> None:
    texts = [f"so {special}\nassistant: \\boxed{{1}}", "plain", "plainer"]
    found = drawer(hint="sibling", hint_choice="shortest").draw([group("rrw", texts=texts)], 1)
    assert [hint.sibling for hint in found] == [1, None, 1]
    assert [hint.refused for hint in found] == [0, 1, 1]
    wrong = Group(ROW, ["", ""], [1, 1], [Verdict(Status.WRONG, special, 0.0)] * 2)
    assert [shown(hint) for hint in drawer(hint="feedback").draw([wrong], 1)] == [None, None]


def test_a_hint_that_is_too_long_gives_way_to_the_next_and_none_is_cut() -> None:
    texts = ["long " * 40, "short", "x" * 400, "longer than short", "w"]
    made = group("rrrrw", [40, 5, 400, 17, 1], texts)
    limit = max(len(hint.ids) for hint in drawer(hint="sibling", hint_choice="shortest").draw([made], 1)) + 20
    few = PROMPTS.model_copy(update={"max_teacher_tokens": limit})
    found = drawer(few, hint="sibling", hint_choice="longest").draw([made], 1)
    assert [hint.sibling for hint in found] == [3, 3, 3, 1, 3]
    assert [hint.refused for hint in found] == [1, 2, 1, 2, 2]
    assert all(len(hint.ids) <= limit for hint in found)
    exact = PROMPTS.model_copy(update={"max_teacher_tokens": len(found[0].ids)})
    assert drawer(exact, hint="sibling", hint_choice="longest").draw([made], 1)[0].sibling == 3
    less = PROMPTS.model_copy(update={"max_teacher_tokens": len(found[0].ids) - 1})
    assert drawer(less, hint="sibling", hint_choice="longest").draw([made], 1)[0].sibling == 1
    none = PROMPTS.model_copy(update={"max_teacher_tokens": 5})
    assert [(hint.kind, hint.refused) for hint in drawer(none, hint="sibling").draw([made], 1)] == [
        *[(NONE, 3)] * 4, (NONE, 4)
    ]  # fmt: skip
    fallen = drawer(none, hint="sibling", hint_missing="fall_back").draw([made], 1)
    assert [(hint.fell_back, hint.refused) for hint in fallen] == [*[(True, 3)] * 4, (True, 4)]


def test_a_contrast_shows_what_is_wrong_in_the_words_of_what_is_right() -> None:
    gate = {"kind": "import", "path": "a:b"}
    (responses,) = (
        drawer(hint="sibling", contrast_hint="wrong_sibling", gate=gate).draw_contrast([group("rwo")], 1) or []
    )
    assert [shown(hint) for hint in responses] == ["Right: try 1 gives 1", None, "Right: try 1 gives 1"]
    (answers,) = drawer(contrast_hint="wrong_answer", gate=gate).draw_contrast([group("rwwn")], 1) or []
    assert [shown(hint) for hint in answers][1:3] == ["Answer 2", "Answer 1"]
    assert {shown(answers[0]), shown(answers[3])} <= {"Answer 1", "Answer 2"}
    assert [hint.sibling for hint in answers][1:3] == [2, 1]
    assert drawer(hint="sibling").draw_contrast([group("rw")], 1) is None


def test_several_contrasts_are_as_many_wrong_siblings_as_there_are() -> None:
    gate = {"kind": "import", "path": "a:b"}
    made = drawer(hint="sibling", contrast_hint="wrong_sibling", contrast_count=3, hint_choice="shortest", gate=gate)
    passes = made.draw_contrast([group("wrwww"), group("rrw")], 1) or []
    assert len(passes) == 3 and {len(hints) for hints in passes} == {8}
    siblings = [[hints[row].sibling for hints in passes] for row in range(8)]
    # Never the rollout itself, nor one twice; where fewer are wrong, the later passes have none.
    assert siblings[:5] == [[2, 3, 4], [0, 2, 3], [0, 3, 4], [0, 2, 4], [0, 2, 3]]
    assert siblings[5:] == [[2, None, None], [2, None, None], [None, None, None]]
    single = drawer(hint="sibling", contrast_hint="wrong_sibling", hint_choice="shortest", gate=gate)
    assert (single.draw_contrast([group("wrwww"), group("rrw")], 1) or []) == passes[:1]


# --- parameters


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hint": "sibling"}, "hint would have no effect"),
        ({"distillation": "jsd", "hint_choice": "longest"}, "hint_choice would have no effect"),
        ({"distillation": "jsd", "hint": "feedback", "hint_choice": "longest"}, "hint_choice would have no effect"),
        ({"distillation": "jsd", "hint_missing": "fall_back"}, "hint_missing would have no effect"),
        ({"distillation": "jsd", "contrast_hint": "wrong_sibling"}, "contrast_hint would have no effect"),
        ({"hint": "sibling", "terms": {"mine": {"kind": "import", "path": "a:b", "coefficient": 1.0,
                                                "reads_teacher": True}}}, "terms.mine reads the teacher on every"),
    ],
)  # fmt: skip
def test_keys_that_a_method_does_not_use_are_errors(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tiny_method(**changes)


def test_keys_that_a_method_uses_are_none() -> None:
    own = {"mine": {"kind": "import", "path": "a:b", "coefficient": 1.0, "reads_teacher": True}}
    for changes in (
        {"distillation": "jsd", "hint": "wrong_sibling", "hint_choice": "longest", "hint_missing": "fall_back"},
        {"outcome": "ppo_clip", "token_weighting": "rlsd", "hint": "sibling", "hint_missing": "skip"},
        {"terms": own, "contrast_hint": "wrong_answer", "hint_choice": "shortest"},
        {"terms": own, "hint": "feedback", "hint_missing": "fall_back"},
    ):
        assert tiny_method(**changes).model_fields_set >= changes.keys()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": {**PROMPTS.teacher, "sibling": "{student} Right!"}}, r"teacher.sibling has no \{response\}"),
        ({"teacher": {**PROMPTS.teacher, "wrong_sibling": "{response}"}}, r"teacher.wrong_sibling has no \{student\}"),
        ({"teacher": {**PROMPTS.teacher, "feedback": "{student}"}}, r"teacher.feedback has no \{feedback\}"),
        ({"feedback": {"wrong": "{extracted}", "truncated": "Cut."}}, "feedback.no_answer is not: add its sentence"),
        ({"feedback": {**PROMPTS.feedback, "wrong": "No."}}, r"feedback.wrong has no \{extracted\}"),
    ],
)
def test_templates_hold_what_they_need(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PromptParams.model_validate(PROMPTS.model_dump() | changes)


def test_a_method_needs_the_templates_of_its_hints() -> None:
    tree = params_with(["sdpg-ufkl"], [0]).model_dump(mode="json", exclude_unset=True)
    del tree["prompts"]["teacher"]["sibling"]
    parse_params(tree)
    tree["methods"]["sdpg-ufkl"]["hint"] = "sibling"
    with pytest.raises(UserError, match=r"methods.sdpg-ufkl has hint sibling .* add prompts.teacher.sibling"):
        parse_params(tree)
    tree["methods"]["sdpg-ufkl"] |= {"hint": "prompts", "gate": {"kind": "import", "path": "a:b"}}
    tree["methods"]["sdpg-ufkl"] |= {"contrast_hint": "wrong_sibling"}
    with pytest.raises(UserError, match=r"contrast_hint wrong_sibling, but prompts.teacher has no template sibling"):
        parse_params(tree)
    assert MethodParams(**{**tree["methods"]["sdpg-ufkl"], "contrast_hint": "wrong_answer"}).templates == ["answer"]
