"""A process that runs a trial executable, so that a kernel that crashes ends only this one.

Called with a folder that holds `model.so`, `weights.safetensors` and `trial.json`; writes
`seconds.npy` (rounds x steps) and the outputs of one run, `output_<number>.npy`.
"""

import json
import sys
from pathlib import Path

import numpy as np

WARM_UP = 2


def main() -> int:
    """Run all rounds."""
    from effc.backends.tvm_cpu.library import Library

    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    trial = json.loads((folder / "trial.json").read_text())
    library = Library(folder / "model.so", folder / "weights.safetensors")
    outputs = [np.zeros(nbytes, np.uint8) for nbytes in trial["outputs"]]
    library.run([], outputs, trial["sizes"])
    for number, output in enumerate(outputs):
        np.save(folder / f"output_{number}.npy", output)
    seconds = np.zeros((WARM_UP + rounds, len(library.step_names)))
    for row in seconds:
        library.run([], outputs, trial["sizes"], row)
    np.save(folder / "seconds.npy", seconds[WARM_UP:])
    library.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
