"""Files stay under 400 lines and functions under 60; the lists of exceptions may only shrink."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ["ir", "passes", "codegen", "backends", "tools", "tests"]
LARGEST_FILE, LARGEST_FUNCTION = 400, 60
LARGE_FILES: dict[str, int] = {}
LARGE_FUNCTIONS: dict[str, int] = {}


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def functions(file: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function, without its docstring."""
    for node in ast.walk(ast.parse(file.read_text(), file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_documented = ast.get_docstring(node) is not None and first.end_lineno is not None
            documented = first.end_lineno - first.lineno + 1 if is_documented else 0
            assert node.end_lineno is not None
            name = f"{file.relative_to(ROOT)}:{node.name}"
            yield name, node.end_lineno - node.lineno + 1 - documented


def test_files() -> None:
    sizes = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in files()}
    large = {name: size for name, size in sizes.items() if size > LARGEST_FILE}
    assert large == LARGE_FILES


def test_functions() -> None:
    sizes = [entry for file in files() for entry in functions(file)]
    assert {name: size for name, size in sizes if size > LARGEST_FUNCTION} == LARGE_FUNCTIONS


def test_measuring(tmp_path: Path) -> None:
    file = ROOT / "tests" / "test_size.py"
    sizes = dict(functions(file))
    assert sizes["tests/test_size.py:files"] == 3
    assert sizes["tests/test_size.py:functions"] == 9
