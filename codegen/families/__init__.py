"""Kernel families: each turns a region into functions."""
