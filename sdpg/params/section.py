"""What the sections of params.yaml are made of."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class Section(BaseModel):
    """A part of the tree: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Imported(Section):
    """A part of a user's own: a function or a class of a module beside params.yaml, or of an installed package."""

    kind: Literal["import"]
    path: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
    """``module:attribute``; the module is imported with the folder of params.yaml first on the path."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Given to the function or class by name."""


def without_unknown(kind: type[Section], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Copies the plain tree of a run without the keys that this code does not know, as other versions may write them.

    Whatever else is wrong with the tree stays in it, for the validation to say.
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
    """Removes what lies at a path; pydantic's paths also name the kind of a section, where there are several."""
    for part in path[:-1]:
        if isinstance(part, int) or part in tree:
            tree = tree[part]
    tree.pop(path[-1], None)


def name_or_import(value: Any) -> str:
    """Tells pydantic what stands in a field that takes a name or an own part. Errors leave these tags out."""
    return "(import)" if isinstance(value, dict | Imported) else "(name)"
