"""Docstrings of the standard library, read from its sources; no module is imported."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo import standard_library

UNRELATED = frozenset({"idlelib", "lib2to3", "turtledemo"})
SHORTEST_QUERY = 20
SHORTEST_DOCUMENT = 80
SENTENCE = re.compile(r"(.+?[.!?])(?:\s+(?=[A-Z0-9\"'`(<>*\-])|\n\s*\n|\s*$)", re.DOTALL)
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Pair:
    """A docstring cut after its first sentence.

    Attributes:
        place: file and qualified name, as `json/decoder.py:JSONDecoder.decode`.
        query: the first sentence, on one line.
        document: everything after it, on one line.
    """

    place: str
    query: str
    document: str


@dataclass(frozen=True)
class Collection:
    """What was kept and what was not.

    Attributes:
        kept: in file order, then source order; no two share a query or a document.
        dropped: number of docstrings left out, by reason.
    """

    kept: tuple[Pair, ...]
    dropped: dict[str, int]


def collect() -> Collection:
    """Read every docstring of a function, method or class that can be cut in two."""
    found = [item for file in standard_library.sources(UNRELATED) for item in in_file(file)]
    queries = Counter(item.query for item in found)
    documents = Counter(item.document for item in found)
    kept, dropped = [], Counter[str]()
    for item in found:
        if len(item.document) < SHORTEST_DOCUMENT:
            dropped["document too short"] += 1
        elif len(item.query) < SHORTEST_QUERY:
            dropped["query too short"] += 1
        elif queries[item.query] > 1 or documents[item.document] > 1:
            dropped["not unique"] += 1
        else:
            kept.append(item)
    return Collection(tuple(kept), dict(dropped))


def in_file(file: Path) -> Iterator[Pair]:
    """Docstrings of one file, given relative to the standard library, in source order."""
    tree = ast.parse((standard_library.root() / file).read_bytes())
    for name, node in definitions(tree, ""):
        text = ast.get_docstring(node)
        if text:
            yield Pair(f"{file.as_posix()}:{name}", *cut(text))


def definitions(parent: ast.AST, prefix: str) -> Iterator[tuple[str, Documented]]:
    """Functions, methods and classes below a node, with their qualified names."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Documented):
            yield prefix + node.name, node
            yield from definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield from definitions(node, prefix)


def cut(text: str) -> tuple[str, str]:
    """Cut a docstring after its first sentence, or else after its first paragraph."""
    paragraph = text.split("\n\n", 1)[0]
    match = SENTENCE.match(paragraph)
    end = match.end() if match else len(paragraph)
    return " ".join(text[:end].split()), " ".join(text[end:].split())
