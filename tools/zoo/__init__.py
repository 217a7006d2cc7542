"""Real models, data and metrics on which the compiler is tried: small, and no download needed."""
