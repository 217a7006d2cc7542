"""Short, label-free training of what folds back into the weights (METHODS.md F14)."""
