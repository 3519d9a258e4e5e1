"""What convolutions make of pictures is solved for behind them, and pictures are sought that have it."""

import pytest
import torch
from torch import Tensor, nn

from attacks import NotApplicable, Observation
from attacks.directions.inputs import Inputs, fitting_labels, run_through
from attacks.directions.layers import tail
from attacks.exact.features import features_of
from attacks.matching import FeatureInversion
from learning.models import MLP, LeNet, LeNet5
from learning.tensors import Batch, generator
from learning.training import Training
from studies.scores import score
from tests.attacks.test_labels import counts, observe, random_batch, restored

SHAPE = (1, 20, 20)


def seen(size: int, seed: int, training: Training | None = None) -> tuple[Observation, Batch]:
    batch = random_batch(size, seed, SHAPE)
    return observe(LeNet5().build(SHAPE, 10, seed), batch, training), batch


def true_inputs(observation: Observation, batch: Batch) -> Tensor:
    """What the first linear layer is given for the true pictures."""
    given: list[Tensor] = []
    layer = observation.model.get_submodule(tail(observation).layers[0].name)
    hook = layer.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
    with torch.no_grad():
        observation.model(batch.images)
    hook.remove()
    return given[0].double()


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("training", [None, Training(shared="delta", batch_size=4, learning_rate=0.1)])
def test_the_features_of_every_example_come_back_with_its_label(size, training):
    for seed in range(3):
        observation, batch = seen(size, seed, training)
        found = features_of(observation, 20.0, generator(seed))
        truth = true_inputs(observation, batch)
        apart = torch.cdist(truth, found.inputs) / truth.norm(dim=1).mean()
        assert apart.amin(1).max() < 1e-3
        assert found.labels[apart.argmin(1)].argmax(1).tolist() == batch.labels.tolist()
        assert found.remainder < 1e-3


def test_what_examples_explain_of_linear_layers_is_their_gradient():
    observation, batch = seen(3, 0)
    end = tail(observation)
    rows = nn.functional.one_hot(batch.labels, 10).double()
    truth = true_inputs(observation, batch)
    explained = run_through(end, truth, rows, 3)
    for layer, gradients in zip(end.layers, explained.gradients, strict=True):
        torch.testing.assert_close(gradients, layer.gradient, rtol=1e-4, atol=1e-7)
    assert fitting_labels(end, Inputs(truth, explained.slopes), 3).argmax(1).tolist() == batch.labels.tolist()


def test_features_that_do_not_explain_the_gradient_are_not_returned():
    observation, _ = seen(2, 0)
    last = tail(observation).layers[-1].name
    observation.update.parameters[f"{last}.weight"].mul_(1.5)
    with pytest.raises(NotApplicable, match="of a linear layer's gradient unexplained"):
        features_of(observation, 2.0, generator(0))


@pytest.mark.parametrize(
    ("architecture", "shape", "size", "reason"),
    [
        (MLP(), (1, 8, 8), 2, "sees the picture itself: linear, spear and spear-plus return it"),
        (LeNet(), SHAPE, 2, "no ReLU and linear layer follow"),
        (LeNet5(), SHAPE, 200, "told apart"),
    ],
)
def test_a_network_or_batch_without_features_to_be_had_is_refused_with_the_reason(architecture, shape, size, reason):
    observation = observe(architecture.build(shape, 10, 0), random_batch(size, shape=shape))
    with pytest.raises(NotApplicable, match=reason):
        FeatureInversion(iterations=2).reconstruct(observation, generator(0))


def test_pictures_with_the_features_are_nearer_than_grey_ones():
    smooth = nn.functional.interpolate(random_batch(2, 5, (1, 4, 4)).images, SHAPE[1:], mode="bilinear")
    batch = Batch(smooth, torch.tensor([3, 3]))
    model = LeNet5().build(SHAPE, 10, 3)
    found = FeatureInversion(iterations=300, restarts=1).reconstruct(observe(model, batch), generator(0))
    assert found.loss in found.history[200:]
    assert restored(found.labels) == counts(batch.labels)
    row = score(found, batch, 10).row()
    grey = -10 * torch.log10((batch.images - 0.5).square().mean())
    assert min(row["psnr"]) > grey + 3
