"""Makes the parsers of the commands of ``sdpg``; it imports nothing that ``--help`` would have to wait for."""

import argparse


def command_parser(name: str, text: str | None, example: str, usage: str | None = None) -> argparse.ArgumentParser:
    """Returns a parser whose help says what the command does, lists its options and ends with an example.

    Args:
        name: the subcommand's name.
        text: what it does: a module's docstring.
        example: the arguments of the example.
        usage: the arguments in the first line, where all options together would fill the screen.
    """
    return argparse.ArgumentParser(
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
        prog=f"sdpg {name}",
        usage=None if usage is None else f"sdpg {name} {usage}",
        description=text,
        epilog=f"Example: sdpg {name} {example}",
    )


def whole_number(written: str) -> int:
    """Reads an option that counts something.

    Raises:
        argparse.ArgumentTypeError: if it is no whole number above 0.
    """
    if not written.isdecimal() or int(written) < 1:
        raise argparse.ArgumentTypeError(f"{written!r} is not a number of them: give 1, 2, 3, …")
    return int(written)
