"""Rewrite rules: a pattern, a check that says why not, and a rewrite.

Rules hold no state. `apply` tries each rule on each node until nothing changes, and returns how
often each fired and every refusal with its reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.program import Program
from effc.ir.provenance import label

MAX_ROUNDS = 32


class Rule(Protocol):
    """One rewrite."""

    name: str

    def match(self, node: fx.Node) -> bool:
        """Whether the pattern that ends in this node is there."""

    def check(self, node: fx.Node, program: Program) -> str | None:
        """Why a matching node must be left alone, or None if it may be rewritten."""

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Replace the pattern; called only after `match` and `check` agreed."""


@dataclass
class Rewrites:
    """What `apply` did.

    Attributes:
        fired: Rewrites by rule name.
        refusals: What still matched after the last round and was left alone, without repetition.
        removed: Number of dead nodes removed on the way.
    """

    fired: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    removed: int = 0

    @property
    def changed(self) -> bool:
        """Whether any rule fired or a dead node went."""
        return bool(self.fired) or self.removed > 0


def apply(program: Program, rules: Sequence[Rule], limit: int | None = None) -> Rewrites:
    """Apply rules to every method of a program, in place, until none fires.

    Args:
        program: Edited in place.
        rules: Tried in order on every node.
        limit: Stop after this many rewrites (to find the one that breaks a check).
    """
    result = Rewrites()
    for method in program.methods:
        earlier = list(result.refusals)
        for _ in range(MAX_ROUNDS):
            result.refusals = list(earlier)
            if not _round(program, method, rules, result, limit):
                break
    result.refusals = list(dict.fromkeys(result.refusals))
    return result


def _round(
    program: Program, method: str, rules: Sequence[Rule], result: Rewrites, limit: int | None
) -> bool:
    editor = Editor(program, method)
    for node in list(editor.graph.nodes):
        if node._erased:
            continue
        for rule in rules:
            if limit is not None and result.fired.total() >= limit:
                break
            if not node._erased and rule.match(node) and _fire(rule, node, editor, result):
                break
    result.removed += editor.remove_dead()
    return editor.finish()


def _fire(rule: Rule, node: fx.Node, editor: Editor, result: Rewrites) -> bool:
    reason = rule.check(node, editor.program)
    if reason is not None:
        result.refusals.append(Refusal(rule.name, label(node), reason))
        return False
    editor.rule = rule.name
    rule.rewrite(node, editor)
    result.fired[rule.name] += 1
    return True
