"""The exceptions whose message a user is meant to read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import errno
import os
import sys

_FULL = "the disk is full{where}: free some space"
DISK = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "a file grows beyond what is allowed{where}: raise the limit (ulimit -f unlimited)",
    errno.EIO: "the disk fails{where}: mend it, or move the project to another",
    errno.EROFS: "the disk is read-only{where}: make it writable",
}
"""The message for each error of which the disk is the cause."""


class UserError(Exception):
    """Input that a person can mend: the message names the field or file, the value, and the remedy."""


class Diverged(UserError):
    """Training whose numbers are no longer finite: the values that it was given do not work."""


class Interrupted(Exception):
    """Work that was asked to end before it was done: the same command goes on with it."""


RESUME = 75
"""The exit code of interrupted work (EX_TEMPFAIL): nothing is wrong, run the same command again."""


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns a :class:`UserError` into one message on stderr and exit code 2; other exceptions keep their traceback.

    An :class:`Interrupted` is one message too, and exit code 75.

    A disk that is full, fails or is read-only is one message too, and a reader of the output that closed it is none.
    """
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    except Interrupted as interrupted:
        sys.stderr.write(f"{interrupted}\n")
        raise SystemExit(RESUME) from None
    except BrokenPipeError:
        # Whoever reads the output, such as head, has seen enough. Python's last flush must not fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        if (message := DISK.get(error.errno or 0)) is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        sys.stderr.write(f"error: {message.format(where=where)}, then run the same command again\n")
        raise SystemExit(2) from None


def entry_point(main: Callable[[], None]) -> None:
    """Runs ``main`` as a command line program whose user errors are one message and exit code 2."""
    with readable_errors():
        main()
        # Here, and not as the interpreter ends, so that a reader that has left is noticed above.
        sys.stdout.flush()
