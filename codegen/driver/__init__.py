"""The C driver: what is the same for every model, and what is generated."""
