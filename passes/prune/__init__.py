"""Passes that remove channels, heads, neurons and blocks."""
