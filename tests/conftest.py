"""Chooses the kernels of the default profile for all tests: what is computed here equals what commands print."""

from sdpg.records.cpu_kernels import fix_cpu_kernels

# Before any test imports torch: commands that a test runs in this process or another set the same.
fix_cpu_kernels("avx2")
