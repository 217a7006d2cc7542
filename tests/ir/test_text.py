"""Canonical text and fingerprint: stable, and sensitive to what matters only."""

import torch
from torch import nn

from effc.ir.program import Program
from effc.ir.testing import Function, recorded, traced
from effc.ir.text import WeightHashes, content_hash, fingerprint, program_text

WEIGHT = torch.arange(3.0)


def small() -> Program:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    return traced(module, torch.ones(2, 3), dynamic={"input.0": "batch"})


def test_the_text() -> None:
    program = recorded(
        lambda x: torch.cat([x, x * WEIGHT], 1).to(torch.float64), x=torch.ones(2, 3)
    )
    digest = content_hash(WEIGHT)[:12]
    assert program_text(program) == (
        "method forward(x: f32[2, 3]) -> (output: f64[2, 6])\n"
        f"  %0 = weight _tensor_constant0 #{digest} : f32[3]\n"
        "  %1 = aten.mul.Tensor(x, %0) : f32[2, 3]\n"
        "  %2 = aten.cat.default([x, %1], 1) : f32[2, 6]\n"
        "  %3 = aten.to.dtype(%2, f64) : f64[2, 6]\n"
        "  return [%3]\n"
    )


def test_two_exports_have_one_text() -> None:
    assert program_text(small()) == program_text(small())
    assert fingerprint(small()) == fingerprint(small())


def test_a_clone_has_the_same_text() -> None:
    program = small()
    copy = program.clone()
    assert program_text(copy) == program_text(program)
    assert program_text(copy.clone()) == program_text(program)


def test_names_of_nodes_do_not_matter() -> None:
    program = small()
    before = fingerprint(program)
    for number, node in enumerate(program.forward.graph.nodes):
        node.name = f"renamed_{number}"
    assert fingerprint(program) == before


def test_sources_are_shown_but_not_fingerprinted() -> None:
    program = small()
    before = fingerprint(program)
    for node in program.forward.graph.nodes:
        node.meta["custom"] = {"source": "elsewhere"}
    assert "@elsewhere" in program_text(program)
    assert "@" not in program_text(program, with_sources=False)
    assert fingerprint(program) == before


def test_a_changed_weight_changes_the_fingerprint() -> None:
    program, hashes = small(), WeightHashes()
    before = fingerprint(program, hashes)
    assert fingerprint(program, hashes) == before
    with torch.no_grad():
        program.weights()["0.weight"][0, 0] += 1
    assert fingerprint(program, hashes) != before


def test_content_hashes_tell_dtype_shape_and_bytes() -> None:
    zeros = torch.zeros(4)
    others = [zeros.view(2, 2), torch.zeros(5), zeros.half(), zeros.int(), zeros + 1, -zeros]
    assert len({content_hash(tensor) for tensor in (zeros, *others)}) == len(others) + 1
    assert content_hash(zeros) == content_hash(torch.zeros(4))
    assert content_hash(torch.zeros(2, 2).t()) == content_hash(torch.zeros(2, 2))
    assert content_hash(torch.tensor(True)) != content_hash(torch.tensor(False))
    assert content_hash(torch.zeros(0)) == content_hash(torch.ones(0))


def test_hashes_are_computed_once_per_version() -> None:
    hashes, tensor = WeightHashes(), torch.zeros(4)
    first = hashes(tensor)
    tensor.data = torch.ones(4)  # behind the version counter's back
    assert hashes(tensor) == first
    tensor += 0
    assert hashes(tensor) == content_hash(tensor) != first


def test_symbols_and_sizes_are_shown_under_the_users_names() -> None:
    module = Function(lambda x: x.view(-1))
    lines = program_text(traced(module, torch.ones(2, 3), dynamic={"x.0": "batch"})).splitlines()
    assert lines[:2] == [
        "symbol batch=1..64",
        "method forward(x: f32[batch, 3]) -> (output: f32[3*batch])",
    ]
