"""Interleaving bytes of four vectors, so that one integer dot product sums four of them per lane.

Written as LLVM text: its shuffles become the instructions (`vpermt2b`, `vpermt2w`, unpacking) that
the processor has.
"""

from tvm import tirx

from effc.codegen.tir import Expr, with_lanes

QUAD_FUNCTION = "effc_quads"
WIDTH = 4


def quads(rows: list[Expr], vectors: int, lanes: int) -> list[Expr]:
    """Vectors whose lane `i` holds the bytes `i` of four rows.

    The function around it must import `quad_code`.

    Args:
        rows: Four vectors of `vectors * lanes` uint8.
        vectors: How many results.
        lanes: Lanes of a result.

    Returns:
        int32 vectors of `lanes`; the first holds the first `lanes` bytes of the rows, and so on.
    """
    result = with_lanes("int32", lanes)
    return [
        tirx.call_pure_extern(result, f"{QUAD_FUNCTION}_{vectors}_{number}", *rows)
        for number in range(vectors)
    ]


def quad_code(lanes: int, most: int) -> str:
    """The functions `quads` calls, for up to `most` vectors."""
    return "\n".join(
        _function(vectors, number, lanes)
        for vectors in range(1, most + 1)
        for number in range(vectors)
    )


def _function(vectors: int, number: int, lanes: int) -> str:
    count, first = vectors * lanes, number * lanes
    source, pair, result = f"<{count} x i8>", f"<{2 * lanes} x i16>", f"<{lanes} x i32>"
    pairs = [place for i in range(first, first + lanes) for place in (i, count + i)]
    words = [place for i in range(lanes) for place in (i, lanes + i)]
    taken = ", ".join(f"{source} %{name}" for name in "abcd")
    return f"""
define internal {result} @{QUAD_FUNCTION}_{vectors}_{number}({taken}) alwaysinline nounwind {{
  %ab = shufflevector {source} %a, {source} %b, {_mask(pairs)}
  %cd = shufflevector {source} %c, {source} %d, {_mask(pairs)}
  %x = bitcast <{2 * lanes} x i8> %ab to <{lanes} x i16>
  %y = bitcast <{2 * lanes} x i8> %cd to <{lanes} x i16>
  %z = shufflevector <{lanes} x i16> %x, <{lanes} x i16> %y, {_mask(words)}
  %r = bitcast {pair} %z to {result}
  ret {result} %r
}}
"""


def _mask(places: list[int]) -> str:
    return f"<{len(places)} x i32> <{', '.join(f'i32 {place}' for place in places)}>"
