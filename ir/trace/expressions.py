"""Grammars of the texts inside a torch.export archive that torch would evaluate as Python."""

import ast
import re

TEXT_LIMIT = 20_000
NAME = re.compile(r"[A-Za-z_]\w*")
SYMBOL = re.compile(r"[a-z_]*[suz]f?[0-9]+")
CONSTRUCTOR = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv"
    "|ModularIndexing|Where|Identity|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|ToFloat"
    "|TruncToInt|TruncToFloat|RoundToInt|RoundDecimal|FloorToInt|CeilToInt|LShift|RShift|Eq|Ne|Le"
    "|Lt|Ge|Gt|Equality|Unequality|LessThan|StrictLessThan|GreaterThan|StrictGreaterThan|And|Or"
    "|Not|Xor|floor|ceiling|Abs|sqrt|OpaqueUnaryFn_sqrt|IsNonOverlappingAndDenseIndicator"
    "|BooleanTrue|BooleanFalse|Infinity|NegativeInfinity|IntInfinity|NegativeIntInfinity"
)
NUMBER = re.compile("true|false|True|False|oo|int_oo|pi|E|nan|I|zoo")
GUARD_CALL = re.compile(r"max|min|float|int|abs|math\.(ceil|floor|trunc|isnan)")
GUARD_METHOD = re.compile("size|stride|storage_offset|dim|numel")
ARITHMETIC = (
    ast.Expression,
    ast.Load,
    ast.Constant,
    ast.UnaryOp,
    ast.unaryop,
    ast.BinOp,
    ast.operator,
    ast.Compare,
    ast.cmpop,
    ast.BoolOp,
    ast.boolop,
)


def is_size_expression(text: str) -> bool:
    """Whether a text is arithmetic over symbols, as `sympy.srepr` or `str` writes it.

    torch.export.load hands it to `sympy.sympify`, which evaluates Python.
    """
    tree = _parse(text)
    return tree is not None and all(_is_size_node(node) for node in ast.walk(tree))


def _is_size_node(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args):
            is_spread = any(isinstance(argument, ast.Starred) for argument in args)
            return bool(CONSTRUCTOR.fullmatch(name)) and not is_spread
        case ast.Name(id=name):
            return any(known.fullmatch(name) for known in (CONSTRUCTOR, NUMBER, SYMBOL))
        case ast.keyword(arg=name, value=ast.Constant(value=bool())):
            return name is not None
        case ast.keyword(arg="precision" | "dps", value=ast.Constant(value=int())):
            return True
        case ast.Constant(value=str(value)):
            return bool(NAME.fullmatch(value)) or value.replace(".", "").isdecimal()
    return isinstance(node, ARITHMETIC)


def is_guard(text: str) -> bool:
    """Whether a text compares sizes of inputs, such as `L['x'].size()[1] % 4 == 0`.

    torch runs it when the module of an archive is first called.
    """
    tree = _parse(text)
    return tree is not None and _is_guard(tree)


def _is_guard(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="L"):
            return True
        case ast.Attribute(value=ast.Name(id="math"), attr="inf"):
            return True
        case ast.Subscript(value=value, slice=index):
            return _is_guard(value) and _is_guard(index)
        case ast.Call(func=ast.Attribute(value=owner, attr=name), args=args, keywords=[]) if (
            GUARD_METHOD.fullmatch(name)
        ):
            return _is_guard(owner) and all(map(_is_guard, args))
        case ast.Call(func=function, args=args, keywords=[]):
            is_known = GUARD_CALL.fullmatch(ast.unparse(function))
            return bool(is_known) and all(map(_is_guard, args))
    return isinstance(node, ARITHMETIC) and all(map(_is_guard, ast.iter_child_nodes(node)))


def _parse(text: str) -> ast.Expression | None:
    if len(text) > TEXT_LIMIT:
        return None
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
