"""Data made from the model itself, where there is none to calibrate on.

Images match the statistics a batch norm keeps of what it saw in training: the distilled data of
ZeroQ (Cai et al., 2020, arXiv 2001.00281), x = argmin sum over norms of |mean(x_l) - mu_l|^2 +
|std(x_l) - sigma_l|^2, by Adam from normal noise. Tokens are drawn one by one from what a language
model itself predicts, as in LLM-QAT (Liu et al., 2023, arXiv 2305.17888); where no output holds
predictions, at random from the rows of the table they look up. Everything else is normal noise.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir.cost import typical_sizes
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import FORWARD, Program, TensorSpec, attribute
from effc.ir.symbols import Size, evaluate
from effc.ir.text import fingerprint
from effc.passes.base import PassContext
from effc.passes.calibrate.batches import Inputs
from effc.passes.calibrate.store import Shelf
from effc.passes.clean.channel_maps import norm_of
from effc.passes.clean.matching import tensor_of

ROWS, LENGTH, BATCHES = 32, 64, 2
STEPS, RATE = 100, 0.1
STAGE, ENTRY = "make data", "synthetic"
NORMS = "images that match the statistics of its batch norms"
DRAWN = "tokens it predicts itself"
RANDOM = "random tokens"
NOISE = "normal noise"


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Batches that were made.

    Attributes:
        batches: By input name.
        how: What was made, in words.
    """

    batches: list[Inputs]
    how: str

    def __iter__(self) -> Iterator[Inputs]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def synthesised(program: Program, ctx: PassContext) -> Synthetic:
    """Data for a program; from the store where an earlier run left it.

    Args:
        program: Best as it was traced: clean passes fold the batch norms whose statistics serve.
        ctx: Seed, store and progress.
    """
    shelf = None
    if ctx.store is not None:
        key = f"{fingerprint(program)}-{ctx.seed}"
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        shelf = Shelf(ctx.store / "synthetic" / name, key)
        entry = shelf.read(ENTRY)
        if entry is not None:
            index, arrays = entry
            batches: list[Inputs] = [{} for _ in range(index["batches"])]
            for label, value in arrays.items():
                number, _, input_name = label.partition(".")
                batches[int(number)][input_name] = torch.from_numpy(value)
            return Synthetic(batches, index["how"])
    made = _Maker(program, ctx).made()
    if shelf is not None:
        arrays = {f"{at}.{name}": value.numpy() for at, batch in enumerate(made.batches)
                  for name, value in batch.items()}  # fmt: skip
        shelf.write(ENTRY, {"batches": len(made.batches), "how": made.how}, arrays)
    return made


class _Maker:
    """Makes data for one program."""

    def __init__(self, program: Program, ctx: PassContext) -> None:
        self.program, self.ctx = program, ctx
        self.specs = program.signatures[FORWARD].inputs
        self.norms = _norms(program.forward)
        self.tables = {spec.name: _table_rows(program, spec.name) for spec in self.specs}
        seed = int(ctx.rng("synthetic").integers(0, 2**63 - 1))
        self.draw = torch.Generator().manual_seed(seed)
        self.sizes = self._sizes()

    def made(self) -> Synthetic:
        """All batches."""
        has_tokens = any(self.tables.values())
        words = DRAWN if self._scores_name() is not None else RANDOM
        way = NORMS if self.norms else words if has_tokens else NOISE
        batches = []
        for number in range(BATCHES):
            batch = {spec.name: self._start(spec) for spec in self.specs}
            self.ctx.progress(STAGE, number, BATCHES)
            if way == NORMS:
                self._distil(batch)
            elif way == DRAWN:
                self._generate(batch)
            batches.append(batch)
        self.ctx.progress(STAGE, BATCHES, BATCHES)
        return Synthetic(batches, way)

    def _sizes(self) -> dict[str, int]:
        """A value per symbol: many rows, tokens as long as is useful."""
        sizes = dict(typical_sizes(self.program))
        for spec in self.specs:
            for at, size in enumerate(spec.shape):
                for name in _names(size):
                    symbol = self.program.symbols[name]
                    wanted = ROWS if at == 0 else LENGTH if self.tables[spec.name] else sizes[name]
                    sizes[name] = min(max(wanted, symbol.minimum), symbol.maximum)
        return sizes

    def _start(self, spec: TensorSpec) -> Tensor:
        shape = [evaluate(size, self.sizes) for size in spec.shape]
        rows = self.tables[spec.name]
        if rows:
            return torch.randint(0, rows, shape, generator=self.draw).to(spec.dtype)
        if not spec.dtype.is_floating_point:  # masks: nothing is hidden
            return torch.ones(shape).to(spec.dtype)
        return torch.randn(shape, generator=self.draw).to(spec.dtype)

    def _distil(self, batch: Inputs) -> None:
        """Move the floating inputs until the norms see what they expect."""
        moved = {name: value.clone().requires_grad_() for name, value in batch.items()
                 if value.is_floating_point()}  # fmt: skip
        optimiser = torch.optim.Adam(list(moved.values()), lr=RATE)
        for step in range(STEPS):
            inputs = [{**batch, **moved}[spec.name] for spec in self.specs]
            with torch.enable_grad():
                watcher = _Watcher(self.program.forward, self.norms)
                watcher.run(*inputs, enable_io_processing=False)
                loss = torch.stack(watcher.distances).sum()
            gradients = torch.autograd.grad(loss, list(moved.values()), allow_unused=True)
            for value, gradient in zip(moved.values(), gradients, strict=True):
                value.grad = gradient
            optimiser.step()
            if step == STEPS // 2:
                for group in optimiser.param_groups:
                    group["lr"] = RATE / 10
        batch.update({name: value.detach() for name, value in moved.items()})

    def _scores_name(self) -> str | None:
        rows = {count for count in self.tables.values() if count}
        for spec in self.program.signatures[FORWARD].outputs:
            if spec.dtype.is_floating_point and len(spec.shape) == 3 and spec.shape[-1] in rows:
                return spec.name
        return None

    def _generate(self, batch: Inputs) -> None:
        """Draw tokens from left to right; the first is random."""
        scores = self._scores_name()
        assert scores is not None, "there are predictions"
        names = [name for name, rows in self.tables.items() if rows]
        length = min(batch[names[0]].shape[1], LENGTH)
        for at in range(1, length):
            with torch.no_grad():
                found = self.program.run(batch)[scores][:, at - 1]
            chosen = torch.multinomial(found.float().softmax(-1), 1, generator=self.draw)[:, 0]
            for name in names:
                batch[name][:, at] = chosen.to(batch[name].dtype)
        for name in names:  # what is longer goes on with what was drawn
            whole = batch[name]
            repeats = -(-whole.shape[1] // length)
            batch[name] = whole[:, :length].repeat(1, repeats)[:, : whole.shape[1]].contiguous()


class _Watcher(fx.Interpreter):
    """Runs a graph and measures how far what norms read is from what they expect."""

    def __init__(self, module: fx.GraphModule, norms: dict[fx.Node, tuple[Tensor, Tensor]]) -> None:
        super().__init__(module)
        self.norms = norms
        self.distances: list[Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; in front of a norm, compare."""
        if n in self.norms:
            value = self.env[n.args[0]].transpose(0, 1).flatten(1)
            mean, deviation = self.norms[n]
            self.distances.append((value.mean(1) - mean).square().mean())
            self.distances.append((value.std(1) - deviation).square().mean())
        return super().run_node(n)


def _norms(module: fx.GraphModule) -> dict[fx.Node, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of what every batch norm saw in training."""
    found: dict[fx.Node, tuple[Tensor, Tensor]] = {}
    for node in module.graph.nodes:
        norm = norm_of(node)
        if norm is None:
            continue
        mean, variance = tensor_of(norm.args[3]), tensor_of(norm.args[4])
        if mean is not None and variance is not None:
            found[norm] = mean.float(), variance.float().clamp(min=0).sqrt()
    return found


def _table_rows(program: Program, name: str) -> int:
    """Rows of the table an integer input looks up; 0 if it looks up none."""
    module = program.forward
    specs = program.signatures[FORWARD].inputs
    at = next(at for at, spec in enumerate(specs) if spec.name == name)
    reached = {list(module.graph.find_nodes(op="placeholder"))[at]}
    for node in module.graph.nodes:
        if op_name(node) == "aten.embedding.default" and node.args[1] in reached:
            weight = node.args[0]
            is_known = weight.op == "get_attr"
            return int(attribute(module, str(weight.target)).shape[0]) if is_known else 0
        is_passed = node.op == "call_function" and kind_of(node) in (Kind.VIEW, Kind.ELEMENTWISE)
        if is_passed and any(read in reached for read in node.all_input_nodes):
            reached.add(node)
    return 0


def _names(size: Size) -> list[str]:
    return [] if isinstance(size, int) else sorted(str(one) for one in size.free_symbols)
