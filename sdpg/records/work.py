"""Removes work in progress, ``.state/<fingerprint>``, once it is needed no more.

A fingerprint that comes from a file or a storage may say anything, and files of runs are pulled from others. So it
names nothing: it is compared with the folders that are there, and with what each says of itself.
"""

from pathlib import Path
import re
import shutil

from sdpg import paths
from sdpg.errors import UserError
from sdpg.params import read_yaml

FINGERPRINT = re.compile(r"[0-9a-f]{16}")
LONGEST = 256
"""The characters that are read of a file that should hold one fingerprint."""


def read_fingerprint(file: Path) -> str:
    """Returns the fingerprint in a file; the text is empty where the file is missing or holds none."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(LONGEST).strip()
    except OSError:
        return ""
    return text if FINGERPRINT.fullmatch(text) else ""


def remove_work(run: str, identity: str) -> bool:
    """Removes the work in progress of one run, and returns whether there was any.

    Args:
        run: the run's name in its records, such as ``grpo-0``.
        identity: the run's fingerprint. A folder of that name stays if its config.yaml is of another run or missing, or
            if it is a symbolic link.
    """
    for folder in paths.STATE.iterdir() if paths.STATE.is_dir() else ():
        if folder.name != identity or not FINGERPRINT.fullmatch(folder.name) or folder.is_symlink():
            continue
        if _described(folder) == (run, folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            return True
    return False


def _described(folder: Path) -> tuple[str, str] | None:
    """Returns the name and the fingerprint of the run that works in a folder, as its config.yaml has them."""
    try:
        config = read_yaml(folder / "config.yaml")
        return str(config["run"]), str(config["fingerprint"])
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return None
