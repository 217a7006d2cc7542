"""A loaded artifact of the ONNX Runtime backend."""

import json
import time
from pathlib import Path

import numpy as np

from effc.backends.artifact import Manifest
from effc.ir import options
from effc.ir.errors import ArtifactError, ModelError, NotAvailableError, UsageError
from effc.ir.trace.failures import one_line

MODEL, SETTINGS = "model.onnx", "session.json"
PROVIDERS = ["CPUExecutionProvider"]
ERRORS_ONLY = 3
EXACT_BLOCKS = {"session.qdq_matmulnbits_accuracy_level": "0"}
Arrays = dict[str, np.ndarray]


class Runtime:
    """A model in ONNX Runtime.

    Args:
        path: The model.
        threads: How many threads to use.
        config: Entries of the session's configuration.
        environment: Variables that must be set while the model is loaded.

    Raises:
        ModelError: If ONNX Runtime cannot load the model.
        NotAvailableError: Without the package onnxruntime.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        environment: dict[str, str],
        config: dict[str, str] = EXACT_BLOCKS,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise NotAvailableError(
                "running ONNX models without onnxruntime (pip install effc[onnxruntime])"
            ) from error
        chosen = onnxruntime.SessionOptions()
        chosen.intra_op_num_threads = threads
        chosen.log_severity_level = ERRORS_ONLY
        for name, value in config.items():
            chosen.add_session_config_entry(name, value)
        try:
            with options.environment(environment):
                self._session = onnxruntime.InferenceSession(str(path), chosen, providers=PROVIDERS)
        except Exception as error:  # its errors are plain exceptions of a dozen classes
            raise ModelError(f"ONNX Runtime cannot load {path}: {one_line(error)}") from error
        self._taken = {entry.name for entry in self._session.get_inputs()}

    def run(self, inputs: Arrays, names: list[str]) -> Arrays:
        """Outputs by name.

        Raises:
            ModelError: If ONNX Runtime fails.
        """
        given = {
            name: np.require(value, None, ["C", "A"])
            for name, value in inputs.items()
            if name in self._taken
        }
        try:
            return dict(zip(names, self._session.run(names, given), strict=True))
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime failed: {one_line(error)}") from error


class OnnxRuntimeSession:
    """Runs `model.onnx` with the settings in `session.json`.

    Args:
        folder: The artifact.
        manifest: Its description.
        threads: How many threads to use; 0 for what it was built for, or as many as there are
            processors, if fewer.

    Raises:
        ArtifactError: If a file is missing or damaged.
        ModelError: If ONNX Runtime cannot load the model.
        NotAvailableError: Without the package onnxruntime.
    """

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        for name in (MODEL, SETTINGS):
            if name not in manifest.files:
                raise ArtifactError(f"{folder} is incomplete: its manifest lists no {name}")
        threads = threads or min(manifest.threads, options.default_threads())
        self._nbytes = sum(entry.nbytes for entry in manifest.files.values())
        config, environment = _settings(folder / SETTINGS)
        self._opened: Runtime | None = Runtime(folder / MODEL, threads, environment, config)
        self._names = [spec.name for spec in manifest.signature.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        """Run once on checked inputs."""
        if self._opened is None:
            raise UsageError("the model is closed; load it again with effc.load")
        return self._opened.run(inputs, self._names)

    def profile(self, inputs: Arrays) -> list[tuple[str, float]]:
        """Seconds of one run as a whole; what ONNX Runtime fuses are no steps of the program."""
        started = time.perf_counter()
        self.run(inputs)
        return [("onnxruntime forward", time.perf_counter() - started)]

    @property
    def memory_nbytes(self) -> int:
        """Bytes of the model; ONNX Runtime does not tell its working memory."""
        return self._nbytes if self._opened is not None else 0

    def close(self) -> None:
        """Let go of the model."""
        self._opened = None


def _settings(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Entries of the session's configuration, and environment variables."""
    try:
        found = json.loads(path.read_text())
        parts = found["config"], found.get("environment", {})
        config, environment = ({str(k): str(v) for k, v in part.items()} for part in parts)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    return config, environment
