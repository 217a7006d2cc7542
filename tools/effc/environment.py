"""What a result depends on besides the recipe: versions and machine."""

import importlib.metadata
import platform
from pathlib import Path
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


def peak_memory_nbytes() -> int:
    """The most memory this process ever held, in bytes (0 where the system does not say)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
