"""Benchmark suites against peers; each writes `bench/<name>.json` and its page under `docs/`."""
