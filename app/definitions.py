"""Looks up what a logged number is: docs/metrics.md defines each once, and the pages show that where it stands."""

from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
import re

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| (`[^|]+`) \| (.+) \|$")
_NAME = re.compile(r"`([\w*]+)`")


@lru_cache(maxsize=1)
def definitions() -> dict[str, str]:
    """Returns column → its definition, in Markdown; a name may end in ``*``. Empty where the page is not there."""
    try:
        text = PAGE.read_text(encoding="utf-8")
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        if (match := _ROW.match(line)) and (names := _NAME.findall(match[1])):
            first, *others = names
            # The page writes `grad_norm_outcome`, `_distillation` for names that begin alike.
            stem = first.rpartition("_")[0]
            for name in (first, *(f"{stem}{other}" if other.startswith("_") else other for other in others)):
                found.setdefault(name, match[2].replace("\\|", "|"))
    return found


def of(column: str) -> str:
    """Returns the definition of a column; empty where the page has none."""
    known = definitions()
    return known.get(column) or next((text for name, text in known.items() if fnmatchcase(column, name)), "")
