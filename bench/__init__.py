"""Benchmarks: each against one named peer, as ratios of alternated runs. `python -m bench` runs them all."""
