"""Tests where the app finds runs, and that everything it cannot show has a notice."""

from pathlib import Path
import shutil

import pytest

from app.quick_yaml import parse_yaml
from app.sources import SAMPLE, discover
from sdpg.params import read_yaml
from tests.helpers import pages

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
RUNS = sorted(path.name for path in (SAMPLE / "runs").iterdir())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the sample's runs as its own."""
    root = tmp_path / "project"
    shutil.copytree(SAMPLE, root)
    return root


def notices(root: Path, *folders: Path) -> dict[str, str]:
    return {notice.path: notice.text for notice in discover(root, folders).notices}


def test_runs_of_the_project(project: Path) -> None:
    found = discover(project)
    assert sorted(found.runs) == RUNS and not found.notices and not found.only_sample
    run = found.runs[RUNS[0]]
    assert run.kind == "finished" and run.label == run.name == f"{run.method}-{run.seed}"
    assert run.path("metrics.csv").exists() and run.final == f"evaluations/{run.name}/final.parquet"


def test_without_runs_there_is_the_sample(tmp_path: Path) -> None:
    found = discover(tmp_path)
    assert found.only_sample and sorted(run.name for run in found.runs.values()) == RUNS
    assert {run.kind for run in found.runs.values()} == {"sample"}
    assert all(run.config["git"]["commit"] for run in found.runs.values())


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.yaml", None, "does not exist"),
        ("config.yaml", "method: [", "is damaged"),
        ("config.yaml", "method: grpo\nseed: 0\n", "does not say params"),
        ("config.yaml", "", "does not say method, seed, params"),
        ("config.yaml", "method: grpo\nseed: zero\nparams: {}\n", "of another kind"),
        ("config.yaml", "- 1\n", "does not say"),
        ("config.yaml", BOMB, "unfolds to more than"),
        ("config.yaml", "method: grpo\nseed: 0\nparams: " + "[" * 3000 + "]" * 3000, "brackets or indents more than"),
        ("config.yaml", "method: grpo\nseed: 0\nparams: &a {b: *a}", "alias *a within what it names"),
        ("config.yaml", "seed: " + "9" * 5000, "is damaged"),
        ("config.yaml", "seed: !!timestamp soon", "is damaged"),
        ("config.yaml", "seed: !!bool maybe", "is damaged"),
        ("COMPLETE", None, "as far as it was written"),
    ],
)
def test_a_broken_run_is_a_notice_and_hides_no_other(project: Path, file: str, content: str | None, says: str) -> None:
    path = project / "runs" / RUNS[0] / file
    path.unlink() if content is None else path.write_text(content)
    found = discover(project)
    assert set(RUNS[1:]) <= set(found.runs)
    assert [notice.path for notice in found.notices] == [f"{project}/runs/{RUNS[0]}/{file}"]
    assert says in found.notices[0].text
    if file == "COMPLETE":
        assert found.runs[RUNS[0]].kind == "unfinished"
    else:
        assert RUNS[0] not in found.runs


def test_bytes_that_are_no_text_and_empty_folders(project: Path) -> None:
    (project / "runs" / RUNS[0] / "config.yaml").write_bytes(b"\xff\xfe\x00")
    (project / "runs" / "empty").mkdir()
    (project / "runs" / ".grpo-0.partial-1").mkdir()
    said = notices(project)
    assert set(said) == {f"{project}/runs/{RUNS[0]}/config.yaml", f"{project}/runs/empty"}
    assert "is empty" in said[f"{project}/runs/empty"]


def test_training_in_progress_until_it_is_finished(project: Path) -> None:
    config = read_yaml(project / "runs" / RUNS[0] / "config.yaml")
    state = project / ".state" / config["fingerprint"]
    shutil.copytree(project / "runs" / RUNS[0], state)
    assert len(discover(project).runs) == len(RUNS), "finished, its work in progress only not cleared away yet"
    shutil.rmtree(project / "runs" / RUNS[0])
    (project / ".state" / "checked").mkdir()
    run = discover(project).runs[f"in-progress-{config['fingerprint']}"]
    assert run.kind == "in progress" and run.name == RUNS[0] and run.label == f"{RUNS[0]} · in progress"


def test_trials_of_a_study(project: Path) -> None:
    for number in (0, 2, 10):
        shutil.copytree(project / "runs" / RUNS[0], project / "runs" / "tune" / "beta" / str(number))
    trials = [run for run in discover(project).runs.values() if run.kind == "trial"]
    assert [run.id for run in trials] == ["tune/beta/0", "tune/beta/2", "tune/beta/10"]
    assert trials[0].final is None and trials[0].path("metrics.csv").exists()


def test_other_folders(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "project"
    shutil.copytree(project, other)
    single = tmp_path / "single"
    shutil.copytree(project / "runs" / RUNS[1], single)
    (tmp_path / "nothing").mkdir()
    folders = (other, other / "runs", single, tmp_path / "nothing", tmp_path / "missing")
    found = discover(project, folders)
    expected = {*RUNS, *(f"project/{name}" for name in RUNS), *(f"runs/{name}" for name in RUNS), "single/single"}
    assert set(found.runs) == expected
    assert found.runs[f"project/{RUNS[0]}"].label == f"{RUNS[0]} · project"
    assert found.runs["single/single"].path("metrics.csv") == single / "metrics.csv"
    said = {notice.path: notice.text for notice in found.notices}
    assert "holds no run" in said[str(tmp_path / "nothing")] and "is no folder" in said[str(tmp_path / "missing")]


def test_two_folders_of_one_name(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "project"
    shutil.copytree(project, other)
    assert {f"project/{RUNS[0]}", f"project~2/{RUNS[0]}"} <= set(discover(tmp_path, (project, other)).runs)


def test_a_folder_of_other_things_is_read_for_runs_alone(project: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "secrets").mkdir(parents=True)
    (tmp_path / "home" / "secrets" / "key.txt").write_text("not for anybody")
    shutil.copytree(project / "runs" / RUNS[0], tmp_path / "home" / RUNS[0])
    found = discover(project, (tmp_path / "home",))
    assert [name for name in found.runs if name.startswith("home/")] == [f"home/{RUNS[0]}"] and not found.notices


def test_a_config_that_changed_is_read_anew(project: Path) -> None:
    path = project / "runs" / RUNS[0] / "config.yaml"
    assert discover(project).runs[RUNS[0]].seed == 0
    path.write_text(path.read_text().replace("\nseed: 0\n", "\nseed: 12\n"))
    assert discover(project).runs[RUNS[0]].seed == 12


@pytest.mark.parametrize("name", RUNS)
def test_quick_yaml_reads_what_the_project_writes(name: str) -> None:
    path = SAMPLE / "runs" / name / "config.yaml"
    assert parse_yaml(path.read_text(encoding="utf-8")) == read_yaml(path)


def test_quick_yaml_follows_1_2() -> None:
    text = "a: no\nb: 1e-06\nc: .5\nd: ~\ne: true\nf: on\ng: -3\nh: .inf\ni: '1'\nj: 1.0e-3\nk:\n"
    expected = {"a": "no", "b": 1e-6, "c": 0.5, "d": None, "e": True, "f": "on", "g": -3, "h": float("inf"),
                "i": "1", "j": 1e-3, "k": None}  # fmt: skip
    assert parse_yaml(text) == expected


def test_folders_are_added_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, other = tmp_path / "here", tmp_path / "other ü"
    project.mkdir()
    shutil.copytree(SAMPLE, other)
    at = pages.opened("overview", project, monkeypatch)
    assert all(run.startswith("sample/") for run in at.session_state["_found"].runs)
    at.text_area(key="_folders").set_value(
        f"\n  {other}\n{tmp_path / 'missing'}\n\0\n~nobody-here/x\n{'long' * 100}\n"
    ).run()
    assert not at.exception
    runs = at.session_state["_found"].runs
    assert set(runs) == {f"other ü/{name}-0" for name in ("grpo", "rlsd", "sdpg-ufkl")}
    assert [notice.path for notice in at.session_state["_found"].notices] == [
        str(tmp_path / "missing"), "~nobody-here/x", "long" * 100
    ]  # fmt: skip
    # Pages that are opened from here have them too; the address does not name the folder.
    at.switch_page("views/rollouts.py").run()
    assert not at.exception and set(at.session_state["_found"].runs) == set(runs)
    assert len(at.selectbox(key="run").options) == 3
    assert str(other) not in str(dict(at.query_params))
