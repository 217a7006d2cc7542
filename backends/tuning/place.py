"""Where kernels are measured: what a time in the database depends on."""

import dataclasses
import hashlib
import importlib.metadata
from pathlib import Path

from effc import codegen
from effc.backends.tuning.database import Place
from effc.ir.host import host_facts
from effc.ir.target import Target

DIGEST_BYTES = 8


def place_of(target: Target, version: str) -> Place:
    """This machine with the kernels this effc makes for a target.

    Args:
        target: What is built for; its cores are the threads.
        version: Of effc.
    """
    facts = dataclasses.asdict(target)
    facts = {key: value for key, value in facts.items() if key not in ("name", "cores")}
    versions = {"effc": version, "kernels": generators(), "tvm": _installed("apache-tvm")}
    described = {key: _plain(value) for key, value in facts.items()}
    return Place(
        machine=host_facts().model, target=described, threads=target.cores, versions=versions
    )


def generators() -> str:
    """Digest of the sources of all kernel generators, whose change makes every time outdated."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    folder = Path(codegen.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain(value: object) -> str | int:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, int) else str(value)


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
