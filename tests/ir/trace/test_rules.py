"""The grammars and trees a torch.export archive is checked against."""

import json

import pytest
import sympy
from torch.utils import _pytree as pytree

from effc.ir.trace.archive_rules import is_allowed_target, is_registered
from effc.ir.trace.archive_trees import check_keywords, plain_tree
from effc.ir.trace.expressions import is_guard, is_size_expression

S = sympy.Symbol("s77", integer=True, positive=True)


@pytest.mark.parametrize(
    "expression",
    [S, 2 * S + 1, S**2, sympy.Max(1, S), sympy.Eq(S, 3), sympy.S.true, S / 2, sympy.floor(S / 2)],
)
def test_what_torch_writes_for_sizes_is_allowed(expression: sympy.Basic) -> None:
    assert is_size_expression(sympy.srepr(expression))
    assert is_size_expression(str(expression))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Symbol('s77').__class__",
        "Symbol('s77; print()')",
        "Integer(*[1])",
        "[x for x in (1,)]",
        "(lambda: 1)()",
        "f'{1}'",
        "Function('f')",
        "open",
        "Symbol('s', integer=print())",
        "1 +",
        "Integer(1); print()",
        "s0 if s0 else s1",
        "(s0 := 1)",
        "9" * 30_000,
    ],
)
def test_other_python_is_not_a_size(text: str) -> None:
    assert not is_size_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "L['x'].size()[1] % 4 == 0",
        "L['mask'].size()[0] == L['ids'].size()[0]",
        "2 <= L['x'].size()[0] and L['x'].size()[0] <= 8",
        "max(1, L['x'].size()[0] // 4) == L['pair']['a'].size()[0]",
        "math.isnan(L['y'])",
    ],
)
def test_what_torch_writes_for_guards_is_allowed(text: str) -> None:
    assert is_guard(text)


@pytest.mark.parametrize(
    "text",
    [
        "print()",
        "L['x'].data_ptr() == 0",
        "L['x'].size",
        "L.__class__",
        "math.factorial(9)",
        "L['x'].size(dim=print())",
        "[1 for _ in L]",
        "len(L)",
    ],
)
def test_other_python_is_not_a_guard(text: str) -> None:
    assert not is_guard(text)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.linear.default",
        "torch.ops.effc.quantize.default",
        "torch.ops.higher_order.cond",
        "_operator.mul",
        "_operator.getitem",
        "math.ceil",
        "torch.sym_max",
        "torch._sym_sqrt",
    ],
)
def test_operators_are_allowed(target: str) -> None:
    assert is_allowed_target(target)


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.save.default",
        "torch.ops.debugprims.load_tensor.default",
        "torch.ops.c10d.send.default",
        "torch.ops.higher_order.cond.default",
        "torch.ops.higher_order.call_torchbind",
        "_operator.attrgetter",
        "_operator.call",
        "math.__loader__",
        "os.system",
        "",
    ],
)
def test_other_callables_are_not(target: str) -> None:
    assert not is_allowed_target(target)


def test_registered_operators_are_known() -> None:
    assert is_registered("torch.ops.aten.add.Tensor")
    assert is_registered("torch.ops.aten.linear.default")
    assert not is_registered("torch.ops.aten.add.Nothing")
    assert not is_registered("torch.ops.nowhere.add.default")


def test_plain_containers_stay_as_they_are() -> None:
    tree = ((1, [2]), {"a": 3, "b": {}})
    spec = pytree.treespec_dumps(pytree.tree_structure(tree))
    assert pytree.treespec_loads(plain_tree(spec, {})) == pytree.tree_structure(tree)


def test_named_tuples_become_dicts_by_field() -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    node = {
        "type": "collections.namedtuple",
        "context": "lib.Pair",
        "children_spec": [leaf, leaf],
    }
    spec = json.dumps([1, node])
    fields = {"lib.Pair": {"field_names": ["left", "right"]}}
    assert pytree.treespec_loads(plain_tree(spec, fields)) == pytree.tree_structure(
        {"left": 0, "right": 0}
    )
    assert pytree.treespec_loads(plain_tree(spec, {})) == pytree.tree_structure((0, 0))


@pytest.mark.parametrize("spec", ["[]", "3", "[1, {}]", "{", '[1, {"type": "a"}]', "[1, null]"])
def test_damaged_trees(spec: str) -> None:
    with pytest.raises(ValueError, match="not a description of containers"):
        plain_tree(spec, {})


def test_keywords_are_names() -> None:
    spec = pytree.treespec_dumps(pytree.tree_structure(((), {"x y": 1})))
    with pytest.raises(ValueError, match="a parameter that is not a name: x y"):
        check_keywords(plain_tree(spec, {}))
