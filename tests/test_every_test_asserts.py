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


def silent_tests(source: str) -> list[str]:
    """Names of the test functions of a file that check nothing, themselves or in a helper."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    asserting = {function.name for function in functions if asserts(function)}
    tests = [function for function in functions if function.name.startswith("test_")]
    return [test.name for test in tests if not (asserts(test) or called(test) & asserting)]


def test_every_test_asserts() -> None:
    found = {
        str(file.relative_to(TESTS)): names
        for file in sorted(TESTS.rglob("test_*.py"))
        if (names := silent_tests(file.read_text()))
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
