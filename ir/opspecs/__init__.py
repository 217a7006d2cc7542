"""The entries of the op table."""
