"""Program to program: the pass manager and the pass families."""
