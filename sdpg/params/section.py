"""The parts of which the sections of params.yaml are made."""

from collections.abc import Mapping
from copy import deepcopy
import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class Section(BaseModel):
    """A part of the tree: it is immutable, and an unknown key is an error.

    A value must have its field's type: true is no 1, "8" and 8.0 are no 8; a whole number may be a float.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def holds_secret(address: str) -> bool:
    """Says whether an address holds a password or a token, which must not be in a file that git keeps."""
    parts = urlsplit(address)
    named = {name.lower() for name, _ in parse_qsl(parts.query)}
    alone = parts.scheme in ("http", "https") and bool(parts.username)
    return bool(parts.password) or alone or bool(named & {"password", "passwd", "pwd", "token", "sslpassword"})


def hide_secrets(text: str) -> str:
    """Returns a text as it may be shown: passwords and tokens in the addresses that it holds are left out."""
    return re.sub(r"(?i)\b(\w*password|passwd|pwd|token)=[^&\s'\"]*", r"\1=…", re.sub(r"//[^/\s]*@", "//…@", text))


def mask_addresses(text: str) -> str:
    """Returns a text in which each address that holds a password or a token is shown without it; the rest stays."""
    return re.sub(r"[a-zA-Z][\w+.-]*://[^\s'\"]+", lambda match: _masked(match[0]), text)


def _masked(address: str) -> str:
    try:
        return hide_secrets(address) if holds_secret(address) else address
    except ValueError:
        # What is no address may still hold a password.
        return hide_secrets(address)


class Imported(Section):
    """A user's own part: a function or a class of a module beside params.yaml, or of an installed package."""

    kind: Literal["import"]
    path: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
    """The part as ``module:attribute``; the module is imported with the folder of params.yaml first on the path."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The keyword arguments for the function or class."""


def without_unknown(kind: type[Section], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Copies the plain tree of a run without the keys that this code does not know, which other versions may have
    written.

    Anything else that is wrong stays in the tree, for the validation to report.
    """
    known = deepcopy(dict(tree))
    try:
        kind.model_validate(known)
    except ValidationError as error:
        for problem in error.errors():
            if problem["type"] == "extra_forbidden":
                _remove(known, problem["loc"])
    return known


def _remove(tree: Any, path: tuple[int | str, ...]) -> None:
    """Removes the value at a path; pydantic's paths also name the kind of a section, where there are several."""
    for part in path[:-1]:
        if isinstance(part, int) or part in tree:
            tree = tree[part]
    tree.pop(path[-1], None)


def name_or_import(value: Any) -> str:
    """Returns pydantic's tag for the value of a field that takes a name or an own part. Errors leave these tags out."""
    return "(import)" if isinstance(value, dict | Imported) else "(name)"
