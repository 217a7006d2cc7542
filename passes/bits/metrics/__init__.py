"""Sensitivity: how much a program loses if a part of it takes a format."""
