"""A process that turns kernels into object files, so that a failure of LLVM ends only this one.

Reads a line per job, `{"module": path, "object": path, "target": {...}}`, and answers with a line:
`{}`, or `{"problem": text}`. It ends when nobody writes to it any more.
"""

import json
import sys
from pathlib import Path


def main() -> int:
    """Do jobs until the input ends."""
    import tvm

    from effc.codegen.objects import write_module
    from effc.ir.errors import BuildError
    from effc.ir.target import Target

    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        facts = job["target"] | {"features": tuple(job["target"]["features"])}
        module = tvm.ir.load_json(Path(job["module"]).read_text())
        try:
            write_module(module, Target(**facts), Path(job["object"]))
            print(json.dumps({}), flush=True)
        except BuildError as error:
            print(json.dumps({"problem": str(error)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
