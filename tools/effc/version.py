"""The version, where packaging and artifacts read it."""

__version__ = "0.1.0"
