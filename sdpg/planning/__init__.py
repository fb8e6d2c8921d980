"""Predicts what a run will take from its parameters alone: memory, operations, hours, disk. Nothing here is measured.

The package imports :mod:`sdpg.params`, :mod:`sdpg.objective` and the sizes that :mod:`sdpg.models.fused_head`
allocates.
"""
