"""What every metric promises, and each one's numbers beside independent arithmetic."""

import numpy as np
import pytest
import torch

from effc.ir.errors import DataError, ModelError, UsageError
from effc.passes.base import PassContext
from effc.passes.bits.forms import FLOAT, INT8, Form
from effc.passes.bits.metrics import curvature, factors, outputs
from effc.passes.bits.metrics.outputs import AugmentedHessian
from effc.passes.bits.metrics.registry import METRICS, metric_of, sensitivities
from effc.passes.bits.metrics.second_moments import inverse_diagonal, moments_of, relative_error
from effc.passes.bits.metrics.study import Study

FORMS = [FLOAT, INT8, Form(4, 32, 4), Form(2, 32, 4)]
RUN = [name for name in METRICS if name != "task-drop"]


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("net", ["feed", "images", "words"])
def test_every_metric_orders_formats(name, net, request, study_of):
    program = request.getfixturevalue(net)
    found = sensitivities(study_of(program), name, FORMS)
    again = sensitivities(study_of(program), name, FORMS)
    assert found == again
    totals = np.sum([*found.values()], axis=0)
    assert np.isfinite(totals).all()
    assert totals[0] == 0
    assert totals[1] < totals[3]
    if name != "taylor-first":
        assert totals[1] < totals[2] < totals[3]
    assert min(min(losses) for losses in found.values()) >= 0


def test_noise_over_signal_of_a_layer(feed, study_of):
    study = study_of(feed)
    (part,) = [one for one in study.parts if one.name == "down"]
    layer = part.layers[0]
    x = torch.cat([b.values[layer.value].reshape(-1, 24) for b in study.sample]).double()
    weight, form = part.weight.double(), Form(3, 32, 8)
    noise = (x @ (form.restored(part.weight).double() - weight).T).square().sum()
    expected = float(noise / (x @ weight.T).square().sum())
    assert relative_error(study, part, form) == pytest.approx(expected, rel=1e-4)
    moment = (x.T @ x).numpy()
    damped = moment + 0.01 * np.diag(moment).mean() * np.eye(24)
    inverse = np.linalg.inv(damped)
    found = inverse_diagonal(moments_of(study, part))
    np.testing.assert_allclose(found[0], np.diag(inverse), rtol=1e-4)


def test_noise_over_signal_of_a_convolution(images, study_of):
    study = study_of(images)
    for part in study.parts[:-1]:
        (layer,) = part.layers
        form = Form(3, 32, 0)
        args = [layer.node.args[0], layer.node.args[1], None, *layer.node.args[3:]]
        signal = noise = 0.0
        for batch in study.sample:
            x = batch.values[args[0]].double()
            for weight, is_noise in ((part.weight, False), (form.restored(part.weight), True)):
                change = (weight - part.weight if is_noise else weight).double()
                energy = float(layer.node.target(x, change, *args[2:]).square().sum())
                noise, signal = noise + energy * is_noise, signal + energy * (not is_noise)
        assert relative_error(study, part, form) == pytest.approx(noise / signal, rel=1e-4)


def loss_of(study, part):
    """The divergence as a function of a part's flattened weight."""

    def loss(flat: torch.Tensor) -> torch.Tensor:
        known = {node: flat.reshape(part.weight.shape) for node in part.sources}
        (batch,) = study.sample
        found = curvature.Exchanged(study.program.forward, known).outputs(batch.inputs)
        return study.divergence(batch.outputs, found)

    return loss


@pytest.fixture
def hidden(words, study_of):
    """One batch, and the layer between table and head with its whole Hessian."""
    study = study_of(words)
    del study.sample[1:]
    (part,) = [one for one in study.parts if one.name == "hidden"]
    flat = part.weight.flatten()
    return study, part, torch.autograd.functional.hessian(loss_of(study, part), flat)


def test_hessian_trace_and_eigenvalue(hidden, monkeypatch):
    study, part, hessian = hidden
    vector = torch.randn(64, generator=torch.Generator().manual_seed(2))
    (product,) = curvature.hessian_products(
        study, [part], study.sample[0], [vector.reshape(part.weight.shape)]
    )
    torch.testing.assert_close(product.flatten(), hessian @ vector, rtol=1e-3, atol=1e-6)
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    monkeypatch.setattr(curvature, "ITERATIONS", 60)
    found = curvature.largest_eigenvalue(study, part, torch.Generator().manual_seed(0))
    assert found == pytest.approx(largest, rel=0.02)
    monkeypatch.setattr(curvature, "DRAWS", 400)
    form = Form(4, 32, 4)
    ((_, (loss,)),) = metric_of("hessian-trace").losses(study, [part], [form])
    error = float((form.restored(part.weight) - part.weight).square().sum())
    assert loss == pytest.approx(0.5 * float(hessian.trace()) / 64 * error, rel=0.1)


@pytest.mark.parametrize("net", ["words", "feed"])
def test_scores_have_the_hessian_as_their_mean_square(net, request, study_of):
    study = study_of(request.getfixturevalue(net))
    del study.sample[1:]
    part = next(one for one in study.parts if one.name in ("hidden", "down"))
    direction = torch.randn(part.weight.shape, generator=torch.Generator().manual_seed(3))
    product = curvature.hessian_products(study, [part], study.sample[0], [direction])[0]
    expected = float((direction * product).sum())
    draw = study.generator("test")
    weight = part.weight.clone().requires_grad_()
    known = {node: weight for node in part.sources}
    (batch,) = study.sample
    outputs = curvature.Exchanged(study.program.forward, known).outputs(batch.inputs)
    squares = []
    for _ in range(600):
        score = study.divergence.score(batch.outputs, outputs, draw)
        (gradient,) = torch.autograd.grad(score, weight, retain_graph=True)
        squares.append(float((gradient * direction).sum()) ** 2)
    assert np.mean(squares) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("net", ["feed", "words"])
def test_whitened_changes_measure_the_divergence(net, request, study_of):
    study = study_of(request.getfixturevalue(net))
    form = Form(6, 32, 4)
    found = study.outputs_of({part: form for part in study.parts})
    for batch, results in zip(study.sample, found, strict=True):
        change = study.divergence.whitened(batch.outputs, results)
        expected = float(study.divergence(batch.outputs, results))
        assert 0.5 * float(change.square().sum()) == pytest.approx(expected, rel=0.1)


def test_augmented_losses_bound_the_loss_of_all(feed, study_of):
    study, forms = study_of(feed), [Form(5, 32, 4)]
    alone = {n: v[0] for n, v in sensitivities(study, "output-divergence", forms).items()}
    found = {part.name: losses[0] for part, losses in
             AugmentedHessian().losses(study, study.parts, forms)}  # fmt: skip
    measured = study.damage({part: forms[0] for part in study.parts})
    assert sum(found.values()) >= 0.9 * measured
    lengths = sum(loss**0.5 for loss in alone.values())  # of the changes, which share at most all
    for name, loss in found.items():
        assert 0.8 * alone[name] <= loss <= 1.2 * alone[name] ** 0.5 * lengths


def test_augmented_losses_are_the_squares_and_what_parts_share(feed, study_of, monkeypatch):
    study, forms = study_of(feed), [Form(5, 32, 4)]
    changes = {}
    for number, part in enumerate(study.parts):
        changes[part] = np.zeros((1, outputs.SKETCH), np.float32)
        changes[part][0, :2] = [(2, 0), (1, 3), (-4, 0)][number]
    monkeypatch.setattr(outputs, "_sketches", lambda study, part, forms: changes[part])
    found = [losses[0] for _, losses in AugmentedHessian().losses(study, study.parts, forms)]
    assert found == [0.5 * (4 + 2), 0.5 * (10 + 2), 0.5 * 16]


def test_divergence_of_one_part_is_that_of_the_changed_program(images, study_of):
    study, form = study_of(images), Form(2, 32, 0)
    for part in study.parts:
        changed = images.clone()
        for node in part.sources:
            owner, _, name = str(node.target).rpartition(".")
            module = changed.forward.get_submodule(owner)
            delattr(module, name)
            module.register_buffer(name, form.restored(part.weight))
        found = []
        for batch in study.sample:
            with torch.no_grad():
                (logits,) = changed.forward(*batch.inputs)
            p, q = (v.double().log_softmax(-1) for v in (batch.outputs[0], logits))
            found.append(float((p.exp() * (p - q)).sum(-1).mean()))
        assert study.damage({part: form}) == pytest.approx(np.mean(found), rel=1e-3, abs=1e-7)


def test_canonical_correlation():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 6))
    assert factors.canonical_correlation(x, x @ draw.standard_normal((6, 6)) + 3) == pytest.approx(
        1
    )
    assert factors.canonical_correlation(x, draw.standard_normal((400, 6))) < 0.2
    half = np.column_stack((x[:, :3], draw.standard_normal((400, 3))))
    assert factors.canonical_correlation(x, half) == pytest.approx(0.5, abs=0.1)


def test_task_drop(words, study_of):
    asked = []

    def evaluate(program):
        asked.append(program)
        weight = next(w for name, w in program.weights().items() if "hidden" in name)
        return 1.0 - float((weight - part.weight).abs().max() > 0) if weight.dim() == 2 else 1.0

    study = study_of(words, evaluate=evaluate)
    (part,) = [one for one in study.parts if one.name == "hidden"]
    found = sensitivities(study, "task-drop", [FLOAT, Form(4, 32, 4)])
    assert found["hidden"] == [0.0, 1.0]
    assert len(asked) == 1 + len(study.parts)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (lambda program: 1 / 0, "the evaluation failed: ZeroDivisionError: division by zero"),
        (lambda program: float("nan"), "the evaluation gives NaN, not a number"),
        (None, "metric task-drop needs evaluation data; give it with --eval"),
    ],
)
def test_evaluations_that_fail(words, study_of, evaluate, message):
    with pytest.raises((DataError, UsageError)) as raised:
        sensitivities(study_of(words, evaluate=evaluate), "task-drop", FORMS)
    assert str(raised.value) == message


@pytest.mark.parametrize("name", [n for n in RUN if n not in ("weight-error", "sqnr", "entropy")])
def test_metrics_that_need_data_say_so(name, feed, study_of):
    with pytest.raises(DataError, match="this metric needs calibration data"):
        sensitivities(study_of(feed, calibration=None), name, FORMS)


def test_without_data_inputs_are_white(feed, study_of):
    blind = study_of(feed, calibration=None)
    assert sensitivities(blind, "sqnr", FORMS[2:]) == sensitivities(
        blind, "weight-error", FORMS[2:]
    )


def test_weights_of_zeros_and_enormous_ones(feed, study_of):
    program = feed.clone()
    for name, factor in (("left.weight", 0.0), ("right.weight", 1e15)):
        owner, _, leaf = name.rpartition(".")
        module = program.forward.get_submodule(owner)
        weight = getattr(module, leaf).detach() * factor
        delattr(module, leaf)
        module.register_buffer(leaf, weight)
    for name in ("sqnr", "salience", "output-divergence", "entropy", "weight-error"):
        found = sensitivities(study_of(program), name, FORMS)
        assert np.isfinite([*found.values()]).all(), name
        assert found["left"] == [0.0] * 4, name


def test_weights_that_are_no_numbers(feed, study_of):
    program = feed.clone()
    module = program.forward.get_submodule("down")
    weight = module.weight.detach().clone()
    weight[0, 0] = float("nan")
    del module.weight
    module.register_buffer("weight", weight)
    with pytest.raises(ModelError, match="the weight of down holds NaN or infinite values"):
        study_of(program)


def test_changes_of_outputs_are_measured_once(feed, study_of, tmp_path, monkeypatch):
    first = sensitivities(study_of(feed, store=tmp_path), "augmented-hessian", FORMS[:3])
    asked = []
    original = Study.outputs_of
    monkeypatch.setattr(Study, "outputs_of", lambda self, forms: asked.append(forms) or
                        original(self, forms))  # fmt: skip
    again = sensitivities(study_of(feed, store=tmp_path), "augmented-hessian", FORMS)
    assert len(asked) == len(first)  # one format is new
    assert [losses[:3] for losses in again.values()] == [*first.values()]


def test_unknown_metric(feed, study_of):
    with pytest.raises(UsageError, match="unknown metric 'magic'; there are: auto, sqnr,"):
        sensitivities(study_of(feed), "magic", FORMS)


class Stopped(BaseException):
    pass


def test_a_killed_run_goes_on_where_it_stopped(images, study_of, tmp_path, monkeypatch):
    measured = []
    original = Study.damage

    def counted(self, forms):
        (part,) = forms
        if len(measured) == stop_at:
            raise Stopped
        measured.append((part.name, str(forms[part])))
        return original(self, forms)

    monkeypatch.setattr(Study, "damage", counted)
    stop_at = 7
    with pytest.raises(Stopped):
        sensitivities(study_of(images, store=tmp_path), "output-divergence", FORMS)
    stop_at = None
    resumed = sensitivities(study_of(images, store=tmp_path), "output-divergence", FORMS)
    whole = len(study_of(images).parts) * 3
    assert len(measured) == whole + 1  # one format of the part it was killed in came twice
    again = sensitivities(study_of(images, store=tmp_path), "output-divergence", FORMS)
    assert len(measured) == whole + 1
    assert again == resumed == sensitivities(study_of(images), "output-divergence", FORMS)
    more = [*FORMS[1:], Form(3, 32, 4)]
    sensitivities(study_of(images, store=tmp_path), "output-divergence", more)
    assert isinstance(study_of(images).ctx, PassContext)
