"""The page of two rollouts side by side: where their texts differ, both verdicts, one signal on one scale."""

import streamlit as st

from app import aligned, differences, rollout_choice, selection, store, tokens, ui
from app.places import places
from app.rollout_choice import Chosen
from app.signals import united
from app.sources import RunEntry
from sdpg.errors import UserError

SIBLINGS, RUNS, ANY = "siblings", "two runs", "any two"


def other_sibling(chosen: Chosen) -> Chosen:
    """Lets the reader choose B in the group of A; the default is the next sibling with another verdict."""
    row = chosen.row
    group = rollout_choice.members(store.step_rollouts(chosen.run, row["step"]), row["group"])
    statuses = dict(zip(group["sibling"].to_pylist(), group["status"].to_pylist(), strict=True))
    after = [one for one in statuses if one > row["sibling"]] + [one for one in statuses if one < row["sibling"]]
    differs = [one for one in after if statuses[one] != row["status"]]
    sibling = rollout_choice.choose_sibling(group, "b_sibling", next(iter(differs + after), row["sibling"]))
    return Chosen(chosen.run, store.rollout(chosen.run, row["step"], row["group"], sibling))


def same_problem(chosen: Chosen) -> Chosen:
    """Lets the reader choose B in a run that drew A's problem, at the same step if possible."""
    problem, names = chosen.row["problem_id"], ui.found().runs
    others = [run for run in names.values() if run.id != chosen.run.id]
    # Runs of one seed draw the same problems at the same steps.
    first = next(iter([run for run in others if run.seed == chosen.run.seed] + others), chosen.run)
    run = ui.choose_run(key="b_run", first=first.id)
    stands = dict(places(run).get(problem, []))
    if not stands:
        what = f"{run.label} has no rollout of the problem {tokens.cut(problem, 80)}"
        raise UserError(f"{what}: choose another run or problem")
    near = min(stands, key=lambda step: abs(step - chosen.row["step"]))
    step = rollout_choice.choose_step(run, "b_step", near, list(stands))
    group = rollout_choice.members(store.step_rollouts(run, step), stands[step])
    sibling = rollout_choice.choose_sibling(group, "b_sibling", chosen.row["sibling"])
    return Chosen(run, store.rollout(run, step, stands[step], sibling))


def any_other(chosen: Chosen) -> Chosen:
    """Lets the reader choose B anywhere."""
    run = ui.choose_run(key="b_run", first=chosen.run.id)
    left, right = st.columns([2, 3])
    with left:
        step = rollout_choice.choose_step(run, "b_step", chosen.row["step"])
    table = store.step_rollouts(run, step)
    with right:
        group = rollout_choice.choose_group(table, "b_group", chosen.row["group"])
    sibling = rollout_choice.choose_sibling(rollout_choice.members(table, group), "b_sibling")
    return Chosen(run, store.rollout(run, step, group, sibling))


def first_rollout(run: RunEntry) -> Chosen:
    """Returns A: the rollout that the other pages have selected."""
    left, right = st.columns([2, 3])
    with left:
        step = rollout_choice.choose_step(run)
    table = store.step_rollouts(run, step)
    with right:
        group = rollout_choice.choose_group(table)
    sibling = rollout_choice.choose_sibling(rollout_choice.members(table, group))
    return Chosen(run, store.rollout(run, step, group, sibling))


def summary(found: differences.Difference, by: str, same: bool) -> str:
    """Says in one line what the two rollouts share."""
    if same:
        return "This is the same rollout twice."
    if found.first is None:
        return f"The same text, {len(found.left):,} {by}."
    text = f"**{found.shared:,} {by} in common** of {len(found.left):,} in A and {len(found.right):,} in B"
    where = f"the first difference is {by[:-1]} {found.first + 1:,}"
    rest = "" if found.exact else ". Too long to compare in full: all between the common start and end is marked"
    return f"{text}; {where}{rest}."


def strips(pair: tuple[Chosen, Chosen], by: str) -> None:
    """Shows both strips, coloured and marked."""
    mine, theirs = (chosen.readings() for chosen in pair)
    signal = rollout_choice.choose_signal(mine, theirs)
    marked, difference = differences.token_marks((pair[0].row, pair[1].row), by)
    st.markdown(summary(difference, by, pair[0].key == pair[1].key))
    scaled = (united(mine, theirs), united(theirs, mine))
    for name, column, chosen, readings, differing in zip("AB", st.columns(2), pair, scaled, marked, strict=True):
        with column:
            data = tokens.strip_data(chosen.row, readings, signal, f"{chosen.key}/{by}/{pair[0].key}/{pair[1].key}",
                                     differing=differing, prompt=False, distils=chosen.distils)  # fmt: skip
            facts = tokens.facts(chosen.row, chosen.limit, chosen.distils)[:-1]
            problem = ["problem", tokens.cut(chosen.row["problem_id"], 60), ""]
            data |= {"brief": True, "facts": [[f"{name} verdict", *facts[0][1:]], *facts[1:], problem]}
            tokens.mount(data, f"strip_{name.lower()}")
            selection.link("rollout", f"Open {name}", **chosen.link)


def page() -> None:
    """Shows the Diff page."""
    left, middle, right = st.columns([4, 4, 3], vertical_alignment="bottom")
    left.header("Diff")
    with middle:
        kind = selection.segments("Compare", (SIBLINGS, RUNS, ANY), "pair")
    with right:
        by = selection.segments("By", differences.UNITS, "by")
    with ui.guard():
        first, second = st.columns(2)
        with first:
            st.markdown("**A**")
            chosen = first_rollout(ui.choose_run())
        with second:
            st.markdown("**B**")
            other = {SIBLINGS: other_sibling, RUNS: same_problem, ANY: any_other}[kind](chosen)
        strips((chosen, other), by)
        st.subheader("Word by word")
        rows = chosen.row, other.row
        heads = [f"{name} · {tokens.VERDICTS.get(row['status'], row['status'])}, answer "
                 f"{row['extracted_answer'] or '–'}" for name, row in zip("AB", rows, strict=True)]  # fmt: skip
        aligned.show(rows[0]["completion"], rows[1]["completion"], (heads[0], heads[1]))


page()
