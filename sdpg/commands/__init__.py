"""The command ``sdpg``: finds the project, sets the environment of its stages, and hands over to ``pipelines``."""
