"""Loops and bytes: kernel families, packed layouts, the driver. Knows no device handle."""
