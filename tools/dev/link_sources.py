"""Link the source folders into `build/src/effc`, the layout type checkers read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"backends": "backends", "codegen": "codegen", "ir": "ir", "passes": "passes"}


def main() -> None:
    """Make the links; existing ones are made anew."""
    package = ROOT / "build" / "src" / "effc"
    package.mkdir(parents=True, exist_ok=True)
    sources = {name: ROOT / folder for name, folder in FOLDERS.items()}
    sources |= {path.name: path for path in (ROOT / "tools" / "effc").iterdir()}
    for name, target in sources.items():
        if name == "__pycache__":
            continue
        link = package / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)


if __name__ == "__main__":
    main()
