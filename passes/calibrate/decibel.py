"""Signal to quantization-noise ratios."""

import math


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise.

    Args:
        signal: Sum or mean of squares of the values.
        noise: The same of their errors.
    """
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
