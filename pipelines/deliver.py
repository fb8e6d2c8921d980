"""Tells MLflow what earlier commands could not: events that wait in .state/tracking while it was away."""

import argparse

from pipelines.command_line import command_parser
from sdpg.errors import UserError, entry_point
from sdpg.locks import InUse


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command, which has no options."""
    return command_parser("deliver", __doc__, "")


def main() -> None:
    """Runs ``sdpg deliver``; ends with code 2 if events are left."""
    parser().parse_args()
    from sdpg.params import load_params

    tracking = load_params().tracking
    # Importing MLflow takes seconds, which a mistake in params.yaml need not wait for.
    from sdpg.records.delivery import deliver_now, waiting
    from sdpg.records.event_queue import queues

    found = [folder for folder in queues() if waiting(folder)]
    failed: list[str] = []
    for number, folder in enumerate(found, start=1):
        print(f"{folder.name} ({number} of {len(found)}): {waiting(folder)} events", flush=True)
        try:
            deliver_now(tracking, folder)
        except InUse as error:
            print(f"left to the process that makes them: {error}")
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError("\n".join(dict.fromkeys(failed)))
    print("Everything is delivered." if found else "Nothing waits to be delivered.")


if __name__ == "__main__":
    entry_point(main)
