"""Writes requirements.lock: every package of the default installation with its version and the hash of its file.

pip itself decides, as `make install` would let it, without installing anything. The hashes are of the files that it
takes on this platform, which the first lines name.
"""

import argparse
import json
from pathlib import Path
import platform
import re
import subprocess
import sys
from typing import Any

from sdpg.errors import UserError, entry_point
from sdpg.files import write_text

LOCK = Path("requirements.lock")
OURS = "sdpg"
"""The project itself, which is installed from the checkout."""
COMMAND = ("-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check",
           "--constraint", "constraints.txt", "--report", "-", ".[dev]")  # fmt: skip


def main() -> None:
    """Runs ``python -m pipelines.lock``."""
    argparse.ArgumentParser(prog="python -m pipelines.lock", description=__doc__).parse_args()
    text = lock_text(_ask_pip())
    write_text(LOCK, text)
    print(f"{LOCK} pins {text.count('==')} packages. make install LOCKED=1 installs exactly these files.")


def _ask_pip() -> Any:
    done = subprocess.run([sys.executable, *COMMAND], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"pip found no set of packages: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout)


def lock_text(report: Any) -> str:
    """Returns the lock of a report of ``pip install --report``, in order of names.

    Raises:
        UserError: if the report is not pip's, or a package has no SHA-256, as one from a folder or a repository has.
    """
    lines = []
    try:
        for entry in report["install"]:
            name, version = entry["metadata"]["name"], entry["metadata"]["version"]
            name = re.sub(r"[-_.]+", "-", name).lower()
            if name == OURS:
                continue
            sha = entry["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
            if not sha:
                raise UserError(f"{name} {version} comes from {entry['download_info'].get('url')} and has no SHA-256: "
                                "take it from an index")  # fmt: skip
            lines.append(f"{name}=={version} \\\n    --hash=sha256:{sha}")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"this is no report of pip install --report ({error!r}): let pip write it again") from None
    head = (f"# Made by `make lock` for {platform.system()} {platform.machine()}, Python "
            f"{'.'.join(platform.python_version_tuple()[:2])}; `make install LOCKED=1` reads it.\n")  # fmt: skip
    return head + "".join(f"{line}\n" for line in sorted(lines))


if __name__ == "__main__":
    entry_point(main)
