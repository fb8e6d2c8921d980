"""Kills work at a chosen call of a function, in a child process."""

from collections.abc import Callable
import os
from types import ModuleType
from typing import Any


def killed_at(count: int, module: ModuleType, name: str, work: Callable[[], object]) -> bool:
    """Does work in a child process that dies at the call of a function after ``count`` calls; says whether it died."""
    child = os.fork()
    if child == 0:
        left, real = iter(range(count)), getattr(module, name)

        def dying(*arguments: Any, **named: Any) -> Any:
            if next(left, None) is None:
                os._exit(9)
            return real(*arguments, **named)

        setattr(module, name, dying)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
