"""Imports a user's own parts, which params.yaml names by ``module:attribute``."""

from collections.abc import Callable, Iterator
import importlib
import inspect
from pathlib import Path
import sys
from typing import Any

from pydantic import BaseModel

from sdpg.errors import UserError
from sdpg.params.section import Imported


def load_part(part: Imported, field: str) -> Callable[..., Any]:
    """Imports an own part: a function or a class, from the project's folder or from an installed package.

    Args:
        part: the part as params.yaml names it.
        field: the part's path in params.yaml, which errors name.

    Raises:
        UserError: if the module does not exist or raises an exception while it is imported, or if the attribute does
            not exist or cannot be called.
    """
    module_name, attribute = part.path.split(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # A module that was written after Python had listed the folder would not be found otherwise.
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _raised(part, field, error) from error
        raise UserError(
            f"{field}.path is {part.path!r}, but there is no module {error.name}: write {error.name}.py beside "
            f"params.yaml ({folder}), install the package that holds it, or correct the path"
        ) from None
    # An own module may raise anything; its author reads it, with the field that named the module.
    except Exception as error:
        raise _raised(part, field, error) from error
    if not hasattr(module, attribute):
        there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UserError(
            f"{field}.path is {part.path!r}, but {module.__file__} has no {attribute}; it has: "
            f"{', '.join(there) or 'no function and no class'}. Correct the path, or define {attribute} there"
        )
    target = getattr(module, attribute)
    if not callable(target):
        raise UserError(
            f"{field}.path is {part.path!r}, which is {type(target).__name__} {target!r}: name a function or a class"
        )
    return target


def check_call(found: Callable[..., Any], part: Imported, field: str, *arguments: str) -> None:
    """Checks that an own part can be called with these positional arguments and with its options.

    Args:
        found: the part that :func:`load_part` returned.
        part: the part as params.yaml names it; its options are given as keywords.
        field: the part's path in params.yaml, which errors name.
        arguments: names of the positional arguments, for the error.

    Raises:
        UserError: if the part cannot be called so; the message says how it will be called.
    """
    try:
        signature = inspect.signature(found)
    except ValueError:  # a builtin, which has no signature to read
        return
    try:
        signature.bind(*arguments, **part.options)
    except TypeError as error:
        call = ", ".join([*arguments, *(f"{name}={value!r}" for name, value in part.options.items())])
        raise UserError(
            f"{field}: {part.path.split(':')[1]}{signature} cannot be called as ({call}): {error}. Change its "
            f"arguments, or {field}.options, which are given to it by name"
        ) from None


def imported_parts(section: Any, field: str = "") -> Iterator[tuple[str, Imported]]:
    """Yields every own part in a section of the parameters, each after its path in params.yaml.

    Args:
        section: all parameters, or some of them.
        field: the section's own path.
    """
    if isinstance(section, Imported):
        yield field, section
    elif isinstance(section, BaseModel | dict):
        # A model iterates over pairs of field and value.
        for name, value in section.items() if isinstance(section, dict) else section:
            yield from imported_parts(value, f"{field}.{name}".lstrip("."))


def _raised(part: Imported, field: str, error: Exception) -> UserError:
    module = part.path.split(":")[0]
    return UserError(
        f"{field}.path is {part.path!r}, but importing {module} raises {type(error).__name__}: {error}. Correct the "
        f"module; python -c 'import {module}' shows where"
    )
