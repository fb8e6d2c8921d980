"""``python -m tests.attack --number 100``: attacks the micro pipeline by chance, and prints what came of it.

Every fault follows from the seed, which is printed, and its number: ``--seed S --only 17`` repeats one.
"""

import argparse
from collections import Counter
from itertools import chain, count, islice
import json
import os
from pathlib import Path
from random import Random
import shutil
import sys
import tempfile
from typing import Any

from sdpg.records.cpu_kernels import fix_cpu_kernels

fix_cpu_kernels("avx2")  # before torch is imported, as each stage does
os.environ["TQDM_DISABLE"] = "1"  # what commands say is then short, also under a limit on files

from pipelines import base, check, doctor, evaluate, prepare, tabulate, train  # noqa: E402, F401 (its forks have them)
import sdpg.evaluation.base  # noqa: E402
import sdpg.evaluation.final  # noqa: E402
import sdpg.training.run  # noqa: E402, F401
from tests.attack.faults import FIXED, KINDS, NEEDS_MOUNT, drawn  # noqa: E402
from tests.attack.judge import OUTCOMES, attack, can_mount  # noqa: E402
from tests.attack.world import World  # noqa: E402


def main() -> int:
    """Returns 1 if anything was corrupted or blocked."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--number", type=int, default=30, help="of attacks")
    parser.add_argument("--seed", default=os.urandom(4).hex(), help="otherwise a new one")
    parser.add_argument("--only", type=int, help="the number of the one attack to carry out")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND",
                        help="some of: " + ", ".join(KINDS))  # fmt: skip
    parser.add_argument("--fixed", action="store_true", help="the fixed faults of the ordinary tests before them")
    parser.add_argument("--out", type=Path, help="a JSON file; otherwise .state/attack-<seed>.json")
    options = parser.parse_args()
    seed = options.seed
    out = options.out or Path(f".state/attack-{seed}.json")
    out.parent.mkdir(exist_ok=True)
    left_out = () if can_mount() else NEEDS_MOUNT
    if left_out:
        print("No file system can be mounted here, so these are left out:", ", ".join(left_out))
    names = list(KINDS)
    ours = (n for n in count() if (kind := names[n % len(names)]) in options.kinds and kind not in left_out)
    # Which kinds a small number has is chance too.
    first = Random(seed).randrange(len(names)) if options.fixed else 0
    numbers = list(islice(ours, first, first + options.number)) if options.only is None else [options.only]
    fixed = FIXED if options.fixed else ()
    count_all = len(fixed) + len(numbers)
    print(f"seed {seed}: {count_all} attacks; first the pipeline runs once for the reference", flush=True)
    folder, found = Path(tempfile.mkdtemp(prefix="attack-")).resolve(), []
    try:
        world = World(folder)
        for number, fault in chain(enumerate(fixed), ((number, drawn(seed, number, world)) for number in numbers)):
            found.append({"number": number, "seed": seed, **attack(world, fault)})
            print(line(found[-1]), flush=True)
            out.write_text(json.dumps({"seed": seed, "attacks": found}, indent=1, ensure_ascii=False), encoding="utf-8")
        world.clear()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{table(found)}\n{out} has the faults and what the commands said")
    return int(any(result["outcome"] in ("corrupted", "blocked") for result in found))


def line(result: dict[str, Any]) -> str:
    """Returns one attack in a line."""
    shown = ("number", "seed", "kind", "outcome", "ends", "beside")
    told = {key: value for key, value in result.items() if key not in shown}
    ends = ", ".join(end["how"] for end in (*result["ends"], *result["beside"]))
    return f"{result['number']:4} {result['kind']}: {result['outcome']} ({ends}) {told}"


def table(found: list[dict[str, Any]]) -> str:
    """Returns the number of attacks of each kind, by outcome."""
    columns = ("attacks", *OUTCOMES, "not struck", "tracebacks")
    rows: dict[str, Counter[str]] = {}
    for result in found:
        counts = rows.setdefault(result["kind"], Counter())
        counts.update(["attacks", result["outcome"]] + ["not struck"] * (not result["struck"]))
        counts["tracebacks"] += sum(end["how"] == "traceback" for end in result["ends"] + result["beside"])
    rows["all"] = sum(rows.values(), Counter())
    lines = [f"{'kind':20}  " + "  ".join(columns)]
    for kind, counts in rows.items():
        lines.append(f"{kind:20}  " + "  ".join(f"{counts[name]:>{len(name)}}" for name in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
