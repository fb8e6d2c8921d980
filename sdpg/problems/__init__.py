"""Where problems come from, and how they become prepared rows with a student's and a teacher's prompt.

Imports :mod:`sdpg.params`, :mod:`sdpg.records` and :mod:`sdpg.rewards`; no torch.
"""
