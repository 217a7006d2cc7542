"""Two processes under `torchrun` train one model: the same result in both, better than before."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from effc.ir.testing import traced
from effc.ir.text import fingerprint
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.recover.workers import Workers

PIPELINE = "quantize-weights{bits=2},recover{minutes=0 steps=10 rows=16 rate=0.01}"
SECONDS = 300


def train() -> tuple[str, dict[str, object]]:
    """The fingerprint of what training gives, and its notes."""
    torch.manual_seed(0)
    layers = nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 8)
    program = traced(nn.Sequential(*layers), torch.ones(2, 12), dynamic={"input.0": "batch"})
    drawn = torch.Generator().manual_seed(1)
    data = [{"input": torch.randn(32, 12, generator=drawn)} for _ in range(4)]
    report = PassManager.parse(PIPELINE).run(program, PassContext(calibration=data))
    return fingerprint(report.program), dict(report.rows[-1].notes)


def test_two_processes_agree_and_learn(tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    where = ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [*start, *where, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one["fingerprint"] == two["fingerprint"]
    assert one["loss_after"] < one["loss_before"]
    assert one["fingerprint"] != train()[0]


def test_items_are_shared_evenly():
    shares = [list(Workers(rank, 3).share(range(8))) for rank in range(3)]
    assert shares == [[0, 3], [1, 4], [2, 5]]
    assert [list(Workers(rank, 3).share([7])) for rank in range(3)] == [[7], [7], [7]]
    assert list(Workers().share(range(3))) == [0, 1, 2]


if __name__ == "__main__":
    found, notes = train()
    kept = {name: notes[name] for name in ("loss_before", "loss_after")}
    rank = Workers.joined().rank
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps({"fingerprint": found, **kept}))
