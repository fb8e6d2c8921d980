"""Computes the mathematics of a method: advantages, gates, schedules, divergences, losses.

The modules here know tensors and a method's values, but no model, no tokenizer and no file. Of the project they import
:mod:`sdpg.params` and :mod:`sdpg.errors`.
"""
