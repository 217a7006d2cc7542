"""Weights with zeros in patterns."""
