"""The benchmark: what `loadtest/bench.py` runs."""
