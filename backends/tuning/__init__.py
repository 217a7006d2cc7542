"""Tuning: kernels measured on this machine, the database of what was found, and the search."""
