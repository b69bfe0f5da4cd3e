"""Benchmarks: `make bench` measures this package beside others, `make figures` counts its code."""
