"""Linears as products of smaller ones, and back."""
