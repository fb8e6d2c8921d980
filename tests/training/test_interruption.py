"""Tests SIGTERM: training keeps what it has done and goes on to the same bits, other work ends, a second one kills."""

from pathlib import Path
import random
import subprocess
import sys

from tests.helpers.interrupted import STEPS, TIMES

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, bytes]:
    """Every file but timing.csv, which holds times; records say when they were written in no column."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.csv"
    }


def test_sigterm_at_ten_random_moments_loses_no_step_and_no_bit(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-m", "tests.helpers.interrupted", str(tmp_path), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    said = f"seed {seed}\n{done.stdout}\n{done.stderr[-3000:]}"
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("attempt ")]
    assert [code for code, _ in lines] == [*["75"] * TIMES, "0"], said
    # A step that was begun is finished and kept.
    kept = [0 if name == "nothing" else int(name.removeprefix("checkpoint-")) for _, name in lines]
    assert kept == sorted(kept) and kept[-1] == STEPS and len(set(kept)) > TIMES // 2, said
    assert done.stderr.count("a second one ends this at once") == TIMES, said
    assert f"sdpg-ufkl-0: interrupted with {kept[4]} of {STEPS} steps done, which are kept: run the same" in done.stderr
    whole, resumed = files(tmp_path / "whole"), files(tmp_path / "interrupted")
    assert whole.keys() == resumed.keys() and len(whole) > STEPS
    assert [name for name in whole if whole[name] != resumed[name]] == [], said
