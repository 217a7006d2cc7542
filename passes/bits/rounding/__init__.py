"""How weights are rounded to the codes of a format, and what is done to them before."""
