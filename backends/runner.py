"""Running an artifact from Python: arrays or tensors in, the same kind out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.backends.artifact import Manifest
from effc.backends.base import Session, backend_of
from effc.backends.reading import read_manifest
from effc.ir.errors import ArtifactError, InputError, UsageError
from effc.ir.host import host_facts
from effc.ir.program import Signature, bind_sizes
from effc.ir.symbols import evaluate


class Model:
    """A loaded artifact. Call it with inputs by position or name, from as many threads as you like.

    Args:
        folder: The artifact.
        threads: How many threads to use; 0 for what it was built for, or as many as there are
            processors, if fewer.
        check: Whether to compare every file with its digest first.
        bits: Which width of an elastic artifact's weights; 0 for the stored one.
        depth: How many of an elastic artifact's blocks; 0 for all.

    Raises:
        ArtifactError: If the artifact is damaged or was built for another machine.
        UsageError: If `threads` is negative, or the artifact does not offer that width or
            depth.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int = 0,
        check: bool = True,
        bits: int = 0,
        depth: int = 0,
    ) -> None:
        if threads < 0:
            raise UsageError(f"threads is {threads}; give a number of threads, or 0 for the usual")
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, check)
        check_features(self.manifest, self.folder)
        self.signature = self.manifest.signature
        self.symbols = self.manifest.ranges
        backend = backend_of(self.manifest.backend)
        self.session: Session = backend.open(self.folder, self.manifest, threads, bits, depth)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the model.

        Args:
            arguments: Inputs in order: numpy arrays, torch tensors, or anything with DLPack.
            named: Inputs by name.

        Returns:
            One array for a model with one output, else a dict by output name; torch tensors if the
            inputs were torch tensors.

        Raises:
            InputError: If a name, dtype or shape does not fit.
            UsageError: If the model is closed.
        """
        inputs = self._by_name(arguments, named)
        wants_torch = any(isinstance(value, torch.Tensor) for value in inputs.values())
        outputs = self.run({name: as_array(name, value) for name, value in inputs.items()})
        results: dict[str, Any] = dict(outputs)
        if wants_torch:
            results = {name: torch.from_numpy(value) for name, value in outputs.items()}
        return next(iter(results.values())) if len(results) == 1 else results

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run on arrays by name; return arrays by name.

        Raises:
            InputError: If a name, dtype or shape does not fit.
            UsageError: If the model is closed.
        """
        self.sizes(inputs)
        return self.session.run(inputs)

    def sizes(self, inputs: dict[str, np.ndarray]) -> dict[str, int]:
        """Check inputs and read off the symbolic sizes.

        Raises:
            InputError: If a name, dtype or shape does not fit.
        """
        return bind_sizes(self.signature, self.symbols, inputs)

    @property
    def memory_nbytes(self) -> int:
        """Bytes of weights and working memory of the last run."""
        return self.session.memory_nbytes

    def close(self) -> None:
        """Stop the threads and free the memory; once closed, closing again does nothing."""
        self.session.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<effc.Model {self.manifest.name} {self.signature} for {self.manifest.target}>"

    def _by_name(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        names = [spec.name for spec in self.signature.inputs]
        if len(arguments) > len(names):
            raise InputError(f"{len(arguments)} inputs given; the model takes {', '.join(names)}")
        positional = dict(zip(names, arguments, strict=False))
        if repeated := positional.keys() & named.keys():
            raise InputError(f"input {sorted(repeated)[0]} given twice")
        return {**positional, **named}


def check_features(manifest: Manifest, folder: Path) -> None:
    """Make sure that this processor has every instruction the code may use.

    Raises:
        ArtifactError: Naming what is missing.
    """
    found = host_facts().features
    missing = [feature for feature in manifest.features if feature not in found]
    if found and missing:
        raise ArtifactError(
            f"{folder} was built for a processor with {', '.join(missing)}, which this one lacks; "
            "compile it for another --target"
        )


def as_array(name: str, value: Any) -> np.ndarray:
    """A numpy view of an array-like input.

    Raises:
        InputError: If it is neither an array nor offers DLPack, or has a dtype numpy lacks.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        if isinstance(value, torch.Tensor):
            return value.detach().cpu().resolve_conj().resolve_neg().numpy()
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"input {name} cannot be read as an array: {error}") from error
    raise InputError(f"input {name} is a {type(value).__name__}, expected an array or tensor")


def output_arrays(signature: Signature, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Empty arrays for every output, given the symbolic sizes."""
    return {
        spec.name: np.empty(
            [evaluate(size, sizes) for size in spec.shape], str(spec.dtype).removeprefix("torch.")
        )
        for spec in signature.outputs
    }
