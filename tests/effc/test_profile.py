"""`effc bench --profile`: what kernels achieve, and where the machine's limits are not known."""

import json

import pytest


@pytest.fixture
def out(run, clock):
    run("compile", "cli_models:classifier", "-o", "out", "--threads", "1").assert_succeeds()
    return "out"


def test_work_of_a_linear_layer_is_counted(out, run):
    """cli_models:classifier is linear layers only, so its multiply-adds are its weights' sizes."""
    found = json.loads(run("bench", out, "--rounds", "1", "--profile", "--json").out)
    inspected = json.loads(run("inspect", "cli_models:classifier", "--json").out)
    assert sum(row["macs"] for row in found["profile"]) == inspected["macs"]
    products = [row for row in found["profile"] if row["macs"]]
    assert {row["precision"] for row in products} == {"int8"}
    assert all(row["nbytes"] > 0 for row in found["profile"])
    assert found["peaks"]["macs"]["float32"] > 1e9


def test_limits_are_measured_only_for_a_profile(out, run):
    assert json.loads(run("bench", out, "--rounds", "1", "--json").out)["peaks"] is None


def test_a_machine_without_a_compiler_has_a_profile_without_limits(out, run, monkeypatch):
    monkeypatch.setenv("EFFC_CC", "no-such-compiler")
    found = json.loads(run("bench", out, "--rounds", "1", "--profile", "--json").out)
    assert found["peaks"] is None
    assert found["profile"]
