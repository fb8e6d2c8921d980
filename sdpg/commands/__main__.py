"""Runs ``python -m sdpg.commands``, which is the command ``sdpg``."""

from sdpg.commands.main import main

if __name__ == "__main__":
    main()
