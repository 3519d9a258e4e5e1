"""Label smoothing is the gradient of the smoothed cross-entropy."""

import pytest
import torch
from torch.nn import functional

from defenses import LabelSmoothing, defended_update
from defenses.label_smoothing import soft
from learning.tensors import Batch, generator
from learning.training import Training
from tests.defenses.behind import network, pictures


def test_it_is_the_gradient_of_pytorch_s_own_smoothed_loss():
    model, batch = network().eval(), pictures()
    found = defended_update([LabelSmoothing(smoothing=0.3)], Training(batch_size=5))(model, batch, generator(0))
    loss = functional.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.3)
    for tensor, expected in zip(found.parameters.values(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
        assert torch.allclose(tensor, expected, atol=1e-7)


def test_two_smoothings_are_one():
    """Certainty is multiplied."""
    training = Training(batch_size=5)
    twice = defended_update([LabelSmoothing(smoothing=0.2)] * 2, training)(network(), pictures(), generator(0))
    once = defended_update([LabelSmoothing(smoothing=1 - 0.8**2)], training)(network(), pictures(), generator(0))
    assert torch.allclose(twice.flat(), once.flat(), atol=1e-7)


def test_rows_are_certain_and_as_many_as_the_model_has_outputs():
    model = network()
    model[1].eval()  # a mixture of modes, and running statistics
    before = [module.training for module in model.modules()], model[1].running_mean.clone()
    rows = soft(model, pictures()).labels
    assert rows.shape == (5, 10)
    assert rows.argmax(1).tolist() == pictures().labels.tolist()
    assert rows.sum(1).tolist() == [1] * 5
    assert [module.training for module in model.modules()] == before[0]
    assert torch.equal(model[1].running_mean, before[1])


def test_rows_that_are_soft_stay():
    batch = soft(network(), pictures())
    assert soft(network(), batch) is batch


def test_a_row_too_few_is_refused():
    with pytest.raises(Exception, match="labels"):
        type(soft(network(), pictures()))(torch.zeros(2, 1, 8, 8), torch.ones(1, 10))


def test_a_plain_batch_takes_no_rows():
    with pytest.raises(Exception, match="labels"):
        Batch(torch.zeros(2, 1, 8, 8), torch.ones(2, 10))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_what_is_no_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing"):
        LabelSmoothing(smoothing=smoothing)
