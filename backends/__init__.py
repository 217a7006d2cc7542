"""Device families: build, measure, load, run."""
