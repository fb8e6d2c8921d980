"""What the sections of params.yaml are made of."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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


def name_or_import(value: Any) -> str:
    """Tells pydantic what stands in a field that takes a name or an own part. Errors leave these tags out."""
    return "(import)" if isinstance(value, dict | Imported) else "(name)"
