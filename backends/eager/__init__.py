"""The program itself in PyTorch."""
