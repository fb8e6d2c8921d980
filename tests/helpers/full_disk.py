"""Makes a disk seem full."""

from collections.abc import Iterator
from contextlib import contextmanager
import resource


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow past ``size`` bytes: writing more is an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
