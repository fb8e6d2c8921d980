"""``python -m benchmarks.gpu_check`` (``make gpu-check``): whether this machine's GPU does all that the project asks.

One module for each part of the check. What they use of the trainer lies in :mod:`benchmarks.gpu_check.steps` alone.
"""
