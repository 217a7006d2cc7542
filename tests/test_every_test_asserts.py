"""Every test function checks something."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
CHECKS = ("raises", "warns", "fail")


def called(function: ast.AST) -> set[str]:
    """Names of everything a function calls."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {getattr(call, "attr", getattr(call, "id", "")) for call in calls}


def asserts(function: ast.AST) -> bool:
    """Whether a function contains an assertion or calls one by name."""
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    return any(name in CHECKS or name.startswith("assert_") for name in called(function))


def functions(source: str) -> list[ast.FunctionDef]:
    """Every function and method of a file."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def silent_tests(source: str, shared: str = "") -> list[str]:
    """Names of the test functions of a file that check nothing, themselves or in a helper.

    Args:
        source: The file.
        shared: The `conftest.py` files whose fixtures it may use.
    """
    helpers = functions(source) + functions(shared)
    asserting = {function.name for function in helpers if asserts(function)}
    tests = [function for function in functions(source) if function.name.startswith("test_")]
    return [test.name for test in tests if not (asserts(test) or called(test) & asserting)]


def fixtures_of(file: Path) -> str:
    """The sources of the `conftest.py` files beside and above a test file."""
    folders = [folder for folder in file.parents if folder.is_relative_to(TESTS)]
    paths = [folder / "conftest.py" for folder in folders]
    return "\n".join(path.read_text() for path in paths if path.exists())


def test_every_test_asserts() -> None:
    found = {
        str(file.relative_to(TESTS)): names
        for file in sorted(TESTS.rglob("test_*.py"))
        if (names := silent_tests(file.read_text(), fixtures_of(file)))
    }
    assert found == {}


def test_silence_is_found() -> None:
    source = """
def test_silent(): print(1)
def test_asserts(): assert 1
def test_raises():
    with pytest.raises(ValueError): f()
def test_compares(): assert_same(1, 1)
def test_helped(): helper()
def helper(): assert 1
"""
    assert silent_tests(source) == ["test_silent"]
    shared = "class Compiled:\n    def check(self): assert 1"
    assert silent_tests("def test_fixture(made): made.check()", shared) == []
    assert silent_tests("def test_fixture(made): made.look()", shared) == ["test_fixture"]
