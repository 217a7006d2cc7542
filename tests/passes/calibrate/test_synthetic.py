"""Data made from a model: what it looks like, that it repeats, that a second run reads it."""

import torch
from torch import Tensor, nn

from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.calibrate import synthetic
from effc.passes.calibrate.synthetic import synthesised


class Normed(nn.Module):
    """Two batch norms that expect something other than what noise gives them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 4, 3)
        self.last = nn.BatchNorm2d(4)
        with torch.no_grad():
            seen = self.first(0.4 * torch.randn(64, 3, 10, 10) + 0.7)
            self.norm.running_mean.copy_(seen.mean((0, 2, 3)))
            self.norm.running_var.copy_(seen.var((0, 2, 3)))
            deep = self.second(self.norm.eval()(seen).relu())
            self.last.running_mean.copy_(deep.mean((0, 2, 3)))
            self.last.running_var.copy_(deep.var((0, 2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.norm(self.first(x)).relu()))


class Language(nn.Module):
    """Predicts the token after the next: the answer to `t` is `t + 1`, nearly always."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 16)
        self.head = nn.Linear(16, 16, bias=False)
        with torch.no_grad():
            self.table.weight.copy_(torch.eye(16))
            self.head.weight.copy_(20 * torch.eye(16).roll(1, 0))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.table(ids)) * mask[..., None]


class Tagger(nn.Module):
    """Looks tokens up and says one thing per row."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).mean(1)


def norm_distance(module, x):
    """Squared distance of what the norms see from what they keep."""
    seen = module.first(x)
    deep = module.second(module.norm(seen).relu())
    return sum(
        float((value.mean((0, 2, 3)) - norm.running_mean).square().mean())
        + float((value.std((0, 2, 3)) - norm.running_var.sqrt()).square().mean())
        for value, norm in ((seen, module.norm), (deep, module.last))
    )


def test_images_match_the_norms():
    module = Normed().eval()
    program = traced(module, torch.randn(2, 3, 10, 10), dynamic={"x.0": "batch"})
    made = synthesised(program, PassContext())
    assert made.how == synthetic.NORMS
    with torch.no_grad():
        noise = norm_distance(module, torch.randn(32, 3, 10, 10))
        found = [norm_distance(module, batch["x"]) for batch in made]
    assert len(found) == synthetic.BATCHES
    assert max(found) < 0.1 * noise
    assert not torch.equal(made.batches[0]["x"], made.batches[1]["x"])


def test_tokens_are_what_the_model_predicts():
    ids = torch.zeros(2, 5, dtype=torch.int64)
    dynamic = {"ids.0": "batch", "ids.1": "length", "mask.0": "batch", "mask.1": "length"}
    program = traced(Language(), ids, torch.ones_like(ids), dynamic=dynamic)
    made = synthesised(program, PassContext())
    assert made.how == synthetic.DRAWN
    for batch in made:
        assert batch["ids"].shape == (synthetic.ROWS, synthetic.LENGTH)
        assert bool((batch["mask"] == 1).all())
        follows = (batch["ids"][:, 1:] - batch["ids"][:, :-1]) % 16 == 1
        assert float(follows.double().mean()) > 0.99
        assert len(batch["ids"][:, 0].unique()) > 3


def test_tokens_of_fixed_length_and_without_predictions():
    program = traced(Tagger(), torch.zeros(2, 7, dtype=torch.int64))
    made = synthesised(program, PassContext())
    assert made.how == synthetic.RANDOM
    (first, _) = made.batches
    assert first["ids"].shape == (2, 7)
    assert 0 <= int(first["ids"].min()) <= int(first["ids"].max()) < 11


def test_noise_for_everything_else():
    made = synthesised(traced(nn.Linear(4, 3), torch.ones(2, 4)), PassContext())
    assert made.how == synthetic.NOISE
    assert abs(float(made.batches[0]["input"].std()) - 1) < 0.8


def test_made_once_and_the_same_for_a_seed(tmp_path, monkeypatch):
    program = traced(nn.Linear(4, 3), torch.ones(2, 4))
    first = synthesised(program, PassContext(store=tmp_path, seed=3))
    other = synthesised(program, PassContext(store=tmp_path, seed=4))
    assert not torch.equal(first.batches[0]["input"], other.batches[0]["input"])

    def never(self):
        raise AssertionError("made again")

    monkeypatch.setattr(synthetic._Maker, "made", never)
    again = synthesised(program, PassContext(store=tmp_path, seed=3))
    assert again.how == first.how
    for before, after in zip(first, again, strict=True):
        torch.testing.assert_close(before["input"], after["input"], rtol=0, atol=0)
