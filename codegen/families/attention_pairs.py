"""The second stage of attention on bfloat16: products of pairs, summed in float32."""

from collections.abc import Iterator

import torch
from tvm import tirx

from effc.codegen.dtypes import to_memory
from effc.codegen.families.attention_pack import PAIR
from effc.codegen.families.attention_tile import Attention
from effc.codegen.kernel import Stage
from effc.codegen.tir import (
    Expr,
    const,
    index,
    lanes_of,
    load,
    mask,
    splat,
    with_lanes,
)


class AttentionOfPairs(Attention):
    """The second stage on pairs of bfloat16: of features first, then of keys."""

    def stage(self) -> Stage:
        """Emit the loops over tiles of queries."""
        self.function.import_llvm(self.isa.pair_code)
        self.values = self.function.param("temporary", "values", self.sizes.dtype)
        return super().stage()

    def _features(self) -> Iterator[tuple[Expr, bool]]:
        with self.b.loop(0, self.features // PAIR, "e") as e:
            yield e, False
        if self.features % PAIR:
            yield index(self.features // PAIR), True

    def _feature(self, source: tirx.Buffer, line: Expr, e: Expr, is_single: bool) -> Expr:
        return self.isa.load_pair(source, line + e * index(PAIR), is_single)

    def _multiplied(self, factor: Expr, vector: Expr, total: Expr) -> Expr:
        return self.isa.dot_pairs(total, factor, vector)

    def _keep(self, row: int, position: Expr, value: Expr, valid: Expr | None) -> None:
        """Store exponentials as bfloat16 at the front of the row, zero past the last key."""
        lanes = lanes_of(value)
        codes = to_memory(value, torch.bfloat16)
        if valid is not None:
            codes = tirx.Select(mask(valid, lanes), codes, const(0, with_lanes("uint16", lanes)))
        words = tirx.reinterpret(with_lanes("float32", lanes // PAIR), codes)
        self.b.store(self.scores, words, self._pair(row, tirx.Div(position, index(PAIR))))

    def _pair(self, row: int, number: Expr) -> Expr:
        return index(row) * self.b.size(self._row_stride()) + number

    def _sum_values(
        self, rows: int, limit: Expr, start: int, parts: list[tuple[int, int]], totals: tirx.Buffer
    ) -> None:
        b, lanes, columns = self.b, self.isa.lanes, self.sizes.columns
        base = self._head() * b.size(self.sizes.head_pairs) * index(columns) + index(start)
        base = b.let(base)
        with b.loop(index(0), tirx.Div(limit + index(1), index(PAIR)), "pair") as pair:
            line = b.let(base + pair * index(columns))
            values = [b.let(load(self.values, line + index(at), lanes)) for at, _ in parts]
            for row in range(rows):
                word = tirx.reinterpret("uint32", load(self.scores, self._pair(row, pair)))
                self._accumulate(
                    totals, row * len(parts) * lanes, b.let(splat(word, lanes)), values
                )
