"""Processors: LLVM kernels and a C driver."""
