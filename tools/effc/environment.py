"""What a result depends on besides the recipe: versions and machine."""

import importlib.metadata
import platform
from typing import Any

from effc.ir.host import host_facts
from effc.ir.options import default_threads
from effc.version import __version__

PACKAGES = ("torch", "apache-tvm", "apache-tvm-ffi", "numpy", "transformers", "onnxruntime")


def environment() -> dict[str, Any]:
    """Versions of effc and what it builds on, and the machine."""
    return {
        "effc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": host_facts().model,
        "features": sorted(f for f in host_facts().features if f.startswith(("avx", "amx", "fma"))),
        "processors": default_threads(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
