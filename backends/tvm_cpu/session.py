"""A loaded CPU artifact."""

from pathlib import Path

import numpy as np

from effc.backends.artifact import Manifest
from effc.backends.runner import output_arrays
from effc.backends.tvm_cpu.depths import depth_file, depth_of
from effc.backends.tvm_cpu.elastic import WIDE, derived_file, width_of
from effc.backends.tvm_cpu.library import Library
from effc.ir import options
from effc.ir.errors import ArtifactError, UsageError
from effc.ir.program import bind_sizes

LIBRARY, WEIGHTS = "model.so", "weights.safetensors"


class CpuSession:
    """Runs `model.so`.

    Args:
        folder: The artifact.
        manifest: Its description.
        threads: How many threads to use; 0 for what it was built for, or as many as there are
            processors, if fewer.
        bits: Which width of an elastic artifact's weights; 0 for the stored one.
        depth: How many of its blocks; 0 for all.

    Raises:
        ArtifactError: If it cannot be loaded here.
        UsageError: If it does not offer that width or depth.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int, bits: int = 0, depth: int = 0
    ) -> None:
        for name in (LIBRARY, WEIGHTS):
            if name not in manifest.files:
                raise ArtifactError(f"{folder} is incomplete: its manifest lists no {name}")
        self._signature = manifest.signature  # built anew by the manifest at every look
        self._ranges = manifest.ranges
        self._weight_nbytes = manifest.files[WEIGHTS].nbytes
        threads = threads or min(manifest.threads, options.default_threads())
        if depth and bits not in (0, WIDE):
            raise UsageError(f"{folder} has {bits} bits for all of its blocks; leave depth out")
        if depth:
            library = folder / depth_of(folder, depth).library
            self._library = self._derived(library, depth_file(folder, depth), threads)
        elif bits in (0, WIDE):
            self._library = Library(folder / LIBRARY, folder / WEIGHTS, threads)
        else:
            library = folder / width_of(folder, bits).library
            self._library = self._derived(library, derived_file(folder, bits), threads)

    def _derived(self, library: Path, weights: Path, threads: int) -> Library:
        """A library with weights in a temporary file, derived from the stored ones."""
        try:
            self._weight_nbytes = weights.stat().st_size
            return Library(library, weights, threads)
        finally:
            weights.unlink()  # what is mapped stays

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once on checked inputs."""
        return self._run(inputs, None)

    def profile(self, inputs: dict[str, np.ndarray]) -> list[tuple[str, float]]:
        """Seconds per step of one run, with the step's name."""
        names = self._library.step_names
        seconds = np.zeros(len(names))
        self._run(inputs, seconds)
        return list(zip(names, seconds.tolist(), strict=True))

    @property
    def memory_nbytes(self) -> int:
        """Bytes of weights and working memory of the last run."""
        return self._weight_nbytes + self._library.memory_nbytes

    def close(self) -> None:
        """Stop the threads and free the memory."""
        self._library.close()

    def _run(
        self, inputs: dict[str, np.ndarray], seconds: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        sizes = bind_sizes(self._signature, self._ranges, inputs)
        outputs = output_arrays(self._signature, sizes)
        arrays = [np.require(inputs[s.name], None, ["C", "A"]) for s in self._signature.inputs]
        values = [sizes[name] for name in self._ranges]
        self._library.run(arrays, list(outputs.values()), values, seconds)
        return outputs
