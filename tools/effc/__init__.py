"""effc: a compiler that makes trained models small, fast and deployable."""

__version__ = "0.1.0"
