"""Which positions of which tensors can only be cut together."""
