"""`make run`: compiles a real sentence encoder and prints what that gained.

all-MiniLM-L6-v2 is compiled for this machine with calibration text and judged by retrieval over the
documentation of Python's standard library.
"""

import sys
from pathlib import Path

from bench.pages import write_section
from effc.artifact import Artifact
from effc.compiler import Compilation
from effc.ir.errors import EffcError
from effc.preparation import Sources
from effc.progress import progress_on_stderr
from effc.recipe import make_recipe
from effc.tables import comparison_table, render
from zoo.minilm import minilm_folder

OUT = Path("out/minilm")
WIDTH = 100
SETTINGS = {
    "model": str(minilm_folder()),
    "calib": "zoo.retrieval:calibration",
    "eval": "zoo.retrieval:evaluation",
    "metric": "zoo.retrieval:quality",
    "max_drop": "2%",
}


def compiled(out: Path) -> Artifact:
    """Compile the encoder into a folder, with progress on stderr."""
    recipe = make_recipe(SETTINGS)
    with progress_on_stderr() as progress:
        return Compilation(recipe, Sources(recipe.model), progress).run(out)


def main() -> int:
    """Compile, print the table, keep it in the results; return the exit code."""
    try:
        artifact = compiled(OUT)
    except EffcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    table = comparison_table(artifact.report)
    table.title = "all-MiniLM-L6-v2, int8"
    print(render([table], width=WIDTH))
    print(f"The artifact lies in {OUT}. To load it:\n")
    print(f'    import effc\n    model = effc.load("{OUT}")')
    print("    states = model(input_ids, attention_mask)  # numpy or torch\n")
    print(f"`.venv/bin/effc run {OUT}` runs and checks its sample, `effc report {OUT}` shows more.")
    write_section("run", "make run", [table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
