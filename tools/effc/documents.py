"""JSON as every reader takes it: no NaN, no Infinity."""

import json
import math
from typing import Any

import numpy as np


def json_text(content: Any) -> str:
    """A JSON document; numbers that are not finite become null, unknown objects their text."""
    return json.dumps(_plain(content), indent=1, default=str, allow_nan=False)


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, np.generic):
        return _plain(content.item())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
