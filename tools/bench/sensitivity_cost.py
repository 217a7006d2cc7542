"""What sensitivities and the solve cost on a whole model: `python -m bench.sensitivity_cost`.

Prints one JSON line: seconds, seconds of processor time, and by how many bytes the process grew
beyond what it held before it read the model, beside the bytes of the model.
"""

import importlib
import json
import resource
import sys
import time
from typing import Any

from bench.models import SUITE
from effc.environment import peak_memory_nbytes
from effc.footprint import resident_nbytes
from effc.ir.data import open_data
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.manager import PassManager
from effc.passes.plan.model import Limit
from effc.preparation import cleaned
from effc.progress import no_progress

MODEL, ARCHITECTURE = "MiniLM-L6", "transformers.models.bert.modeling_bert"
SHARE = 0.2


def measured() -> dict[str, Any]:
    """Sensitivities of every layer in every format, and a plan for a fifth of the bytes."""
    entry = next(one for one in SUITE if one.name == MODEL)
    importlib.import_module(ARCHITECTURE)  # libraries are no part of the model's memory
    open_model("zoo.digits:vit")
    before = resident_nbytes()
    program = cleaned(open_model(entry.model(1)), no_progress).program
    data = open_data(entry.calib(1), program.signature, program.symbols)
    limit = Limit("nbytes", SHARE * program.weight_nbytes)
    ctx = PassContext(calibration=data, limits=(limit,))
    started, used = time.perf_counter(), _processor_seconds()
    report = PassManager((AllocateBits(),)).run(program, ctx)
    found = report.rows[0].notes["plan"]
    return {
        "model": MODEL,
        "layers": len(report.rows[0].notes["layers"]),
        "metric": found["metric"],
        "seconds": time.perf_counter() - started,
        "processor_seconds": _processor_seconds() - used,
        "grown_nbytes": peak_memory_nbytes() - before,
        "model_nbytes": program.weight_nbytes,
    }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(json.dumps(measured()))
    sys.exit(0)
