"""What the hot paths cost, against their floors: `python -m benchmarks`."""
