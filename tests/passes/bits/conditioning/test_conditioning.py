"""Re-parameterisations: float outputs stay, ranges become what the paper says, rounding gains."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.errors import DataError, UsageError
from effc.ir.program import Program, attribute
from effc.ir.testing import Tolerance, assert_same_outputs, traced
from effc.passes.base import PassContext
from effc.passes.calibrate.statistics import statistics_of
from effc.passes.manager import PassManager

CLOSE = Tolerance(relative=2e-5)
WIDTH, CHANNEL = 64, 7
IDS = torch.stack([torch.arange(9), torch.arange(9).flip(0)])


class Gated(nn.Module):
    """A norm, two linears, a product, a linear; one channel of the norm is an outlier."""

    def __init__(self, kind: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = kind(WIDTH)
        self.gate, self.up = nn.Linear(WIDTH, 96), nn.Linear(WIDTH, 96, bias=False)
        self.down = nn.Linear(96, WIDTH)
        with torch.no_grad():
            self.norm.weight[CHANNEL] = 60.0
            if kind is nn.LayerNorm:
                self.norm.bias[3] = 20.0
            self.up.weight[5] *= 40

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return self.down(functional.silu(self.gate(normed)) * self.up(normed))


@pytest.fixture(params=[nn.LayerNorm, nn.RMSNorm], ids=["layer-norm", "rms-norm"])
def gated(request) -> Program:
    return traced(Gated(request.param), torch.randn(2, 3, WIDTH), dynamic={"x.0": "batch"})


@pytest.fixture
def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(8, 3, WIDTH, generator=generator)} for _ in range(3)]


def run(program: Program, data, pipeline: str, **context):
    return PassManager.parse(pipeline).run(program, PassContext(calibration=data, **context))


def normed(program: Program, data) -> Tensor:
    """What the first two linears read."""
    norm = next(n for n in program.forward.graph.nodes if "norm" in str(n.target)
                and n.op == "call_function")  # fmt: skip
    operands = [attribute(program.forward, a.target) if hasattr(a, "target") and a.op == "get_attr"
                else a for a in norm.args[1:]]  # fmt: skip
    x = torch.cat([batch["x"] for batch in data]).reshape(-1, WIDTH)
    return norm.target(x, *operands)


METHODS = ["method=smoothquant", "method=smoothquant shift=true", "method=repq", "method=awq",
           "alpha=0.8"]  # fmt: skip


@pytest.mark.parametrize("options", METHODS)
def test_smoothing_changes_nothing_in_float(gated, data, options):
    report = run(gated, data, f"smooth-activations{{{options}}}")
    assert_same_outputs(gated, report.program, data[0], CLOSE)
    assert set(report.rows[0].notes["smoothed"]) == {"gate, up", "down"}


def test_smoothquant_by_hand(gated, data):
    after = run(gated, data, "smooth-activations{alpha=0.6}").program
    x, found = normed(gated, data), normed(after, data)
    weights = [attribute(gated.forward, f"{name}.weight") for name in ("gate", "up")]
    columns = torch.cat(weights).abs().amax(0)
    scale = x.abs().amax(0) ** 0.6 / columns**0.4
    torch.testing.assert_close(found, x / scale, rtol=1e-4, atol=1e-5)
    changed = [n.target for n in after.forward.graph.find_nodes(op="get_attr")]
    gate = next(name for name in changed if name.startswith("gate.weight"))
    torch.testing.assert_close(attribute(after.forward, gate), weights[0] * scale)


def test_channels_are_moved_to_the_middle(data):
    """SQ-b, and layer norm re-parameterised: equal ranges of all channels."""
    program = traced(Gated(), torch.randn(2, 3, WIDTH), dynamic={"x.0": "batch"})
    for options in ("shift=true", "method=repq"):
        x = normed(run(program, data, f"smooth-activations{{{options}}}").program, data)
        middle = (x.amax(0) + x.amin(0)) / 2
        assert float(middle.abs().max()) < 1e-3 * float(x.abs().max())
    extent = x.amax(0) - x.amin(0)
    torch.testing.assert_close(extent, extent.mean().expand(WIDTH), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", ["method=smoothquant", "method=repq"])
def test_static_codes_lose_less(gated, data, error_db, options):
    static = "quantize{activations=static observer=minmax}"
    found = [
        error_db(gated, run(gated, data, text).program, data[0])
        for text in (static, f"smooth-activations{{{options}}},{static}")
    ]
    assert found[1] > found[0] + 3


def test_awq_loses_less(gated, data, error_db):
    low = "quantize-weights{bits=3 weight_observer=minmax activations=float32}"
    smooth = f"smooth-activations{{method=awq bits=3}},{low}"
    found = [error_db(gated, run(gated, data, text).program, data[0]) for text in (low, smooth)]
    assert found[1] > found[0] + 1


class Branches(nn.Module):
    """An input that is read twice, a shared weight, and a value nothing can scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(8)
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return y + self.right(torch.tanh(self.left(y)))


def test_refusals():
    program = traced(Branches(), torch.randn(2, 8), dynamic={"x.0": "batch"})
    report = run(program, [{"x": torch.randn(4, 8)}], "smooth-activations")
    assert [(one["sources"], one["reason"]) for one in report.rows[0].refusals] == [
        (["left"], "something else reads their input, too"),
        (["right"], "no norm or linear computes their input"),
    ]
    with pytest.raises(UsageError, match="smooth-activations needs data; give --calib"):
        run(program, None, "smooth-activations")


class Stream(nn.Module):
    """A transformer-like residual stream with an outlier channel; 12 channels are 3 x 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(9, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 9, bias=False)
        with torch.no_grad():
            self.table.weight[:, 1] *= 50
            self.norms[0].weight.uniform_(0.5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + self.down(functional.silu(self.up(self.norms[0](x))))
        return self.head(self.norms[1](x))


@pytest.mark.parametrize("width", [16, 12])
@pytest.mark.parametrize("options", ["", "{random=false}"])
def test_rotation(width, options):
    program = traced(Stream(width), IDS, dynamic={"ids.0": "batch"})
    report = run(program, None, f"rotate-residual{options}")
    after = report.program
    assert_same_outputs(program, after, {"ids": IDS}, CLOSE)
    tables = [attribute(one.forward, next(
        n.target for n in one.forward.graph.find_nodes(op="get_attr")
        if n.target.startswith("table"))) for one in (program, after)]  # fmt: skip
    torch.testing.assert_close(*[one @ one.T for one in tables], rtol=1e-4, atol=1e-3)
    spread = [float((one.abs().amax(1) / one.norm(dim=1)).mean()) for one in tables]
    assert spread[1] < 0.8 * spread[0]
    assert report.rows[0].notes["rotated"]["norms.0"]["read by"] == 2


def token_batches(count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [{"ids": torch.randint(0, 9, (2, 9), generator=generator)} for _ in range(count)]


def test_principal_directions_are_uncorrelated():
    program, data = traced(Stream(24), IDS, dynamic={"ids.0": "batch"}), token_batches()
    after = run(program, data, "rotate-residual{basis=principal}").program
    assert_same_outputs(program, after, {"ids": IDS}, CLOSE)
    norms = [n.name for n in after.forward.graph.nodes if "rms_norm" in str(n.target)]
    known = statistics_of(after, PassContext(calibration=data), set(norms), moments=True)
    total = sum(known[name].moment for name in norms)
    spectrum = np.diag(total)
    assert np.abs(total - np.diag(spectrum)).max() < 1e-4 * spectrum.max()
    assert (np.diff(spectrum) <= 1e-4 * spectrum.max()).all()


def test_directions_that_carry_nothing_are_sliced_off(error_db):
    net, data = Stream(24), token_batches()
    flat, _ = torch.linalg.qr(torch.randn(24, 24))
    with torch.no_grad():
        within = flat[:, :12] @ flat[:, :12].T
        net.table.weight.copy_(net.table.weight @ within)
        net.down.weight.copy_(within @ net.down.weight)
        net.down.bias.copy_(net.down.bias @ within)
    program = traced(net, IDS, dynamic={"ids.0": "batch"})
    cut = "prune-channels{ratio=0.5 scope=hidden importance=activation align=1 repair=sequential}"
    sliced = run(program, data, f"rotate-residual{{basis=principal}},{cut}").program
    plain = run(program, data, cut).program
    inputs = token_batches(1)[0]
    assert sliced.weight_nbytes == plain.weight_nbytes < 0.7 * program.weight_nbytes
    assert error_db(program, sliced, inputs) > 40
    assert error_db(program, plain, inputs) < 35


def test_principal_directions_need_data():
    with pytest.raises(DataError, match="statistics need calibration data"):
        run(traced(Stream(16), IDS), None, "rotate-residual{basis=principal}")


def test_a_stream_that_something_else_reads_stays():
    class Read(Stream):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            return self.head(self.norms[1](x)) + torch.tanh(x).sum()

    program = traced(Read(16), IDS)
    report = run(program, None, "rotate-residual")
    assert "touches the stream" in report.rows[0].refusals[0]["reason"]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.first.weight *= torch.logspace(-2, 2, 8)[:, None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        return self.last(functional.relu(self.depthwise(x)))


def test_equalised_ranges(error_db):
    program = traced(Convolutions(), torch.randn(2, 3, 8, 8), dynamic={"x.0": "batch"})
    report = run(program, None, "equalize-layers")
    x = {"x": torch.randn(2, 3, 8, 8)}
    assert_same_outputs(program, report.program, x, CLOSE)
    assert report.rows[0].notes["pairs"] == ["first -> depthwise", "depthwise -> last"]
    weights = {
        name.partition(".")[0]: attribute(report.program.forward, name).flatten(1)
        for name in [n.target for n in report.program.forward.graph.find_nodes(op="get_attr")]
        if "weight" in name
    }
    ranges = {name: one.abs().amax(1) for name, one in weights.items()}
    torch.testing.assert_close(ranges["first"], ranges["depthwise"], rtol=0.02, atol=0)
    columns = weights["last"].abs().amax(0)
    torch.testing.assert_close(ranges["depthwise"], columns, rtol=0.02, atol=0)


def test_noise(error_db):
    """Values that crowd between two codes, as those of GELU do, and a few large ones."""
    torch.manual_seed(0)
    program = traced(nn.Linear(32, 16), torch.randn(2, 32), dynamic={"input.0": "batch"})
    crowd = 0.5 + 0.05 * torch.randn(200, 32)
    crowd[0, 0] = 63.0
    data = [{"input": part} for part in crowd.split(50)]
    report = run(program, data, "add-noise{bits=6}", seed=3)
    note = report.rows[0].notes["noise"]["linear"]
    assert note["error_ratio"] < 0.6
    assert_same_outputs(program, report.program, data[0], Tolerance(relative=1e-4))
    (name,) = [n.target for n in report.program.forward.graph.find_nodes(op="get_attr")
               if n.target.endswith("noise") and "bias" not in n.target]  # fmt: skip
    size = float(attribute(report.program.forward, name).abs().max())
    assert 0.8 * note["largest"] < size <= note["largest"] * 1.001
    whole = [{"input": torch.round(part)} for part in crowd.split(50)]
    left = run(program, whole, "add-noise{bits=6}", seed=3).rows[0].refusals
    assert [one["reason"] for one in left] == ["no noise lowers its error"]


def test_the_error_noise_is_chosen_by():
    from effc.passes.bits.conditioning.add_noise import AddNoise

    draw = np.random.default_rng(0)
    rows, weight = draw.standard_normal((50, 5)) ** 3, draw.standard_normal((4, 5))
    noise = draw.uniform(-0.2, 0.2, 5)
    moved = (rows + noise).astype(np.float32)
    scale = (max(moved.max(), 0) - min(moved.min(), 0)) / 63
    zero = round(-min(moved.min(), 0) / scale)
    codes = np.clip(np.round(moved / scale) + zero, 0, 63)
    lost = (((codes - zero) * scale - moved) @ weight.T) ** 2
    given = [torch.from_numpy(one).float() for one in (rows, weight, noise)]
    assert AddNoise(bits=6).error(*given) == pytest.approx(float(lost.sum()), rel=1e-3)
