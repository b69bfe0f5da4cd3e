"""How fast this is, side by side with others: `python -m benchmarks`."""
