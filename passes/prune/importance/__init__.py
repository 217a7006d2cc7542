"""How much each channel of a group matters."""
