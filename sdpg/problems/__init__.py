"""Reads problems from their sources and turns them into prepared rows with a student's and a teacher's prompt.

The package imports :mod:`sdpg.params`, :mod:`sdpg.records` and :mod:`sdpg.rewards`; it imports no torch.
"""
