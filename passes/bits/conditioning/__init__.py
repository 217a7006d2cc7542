"""Re-parameterisations that change nothing in float and make rounding lose less."""
