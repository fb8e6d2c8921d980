"""Measures time and memory against named rivals: ``python -m benchmarks`` (or ``make bench``)."""
