"""Soteria prunes the columns that a slow loop finds, and nothing else."""

import pytest
import torch
from torch import nn

import defenses.soteria
from defenses import Soteria, defended_update
from defenses.soteria import revelation
from learning.models import LeNet, ResNet18
from learning.tensors import Batch, generator, seeded
from learning.training import Training, local_update
from tests.defenses.behind import network, pictures, same

TRAINING = Training(batch_size=5)


def convolutions() -> nn.Sequential:
    """Two convolutions with a ReLU between them, for the pictures."""
    channels, height, width = pictures().images.shape[1:]
    with seeded(1):
        first, second = nn.Conv2d(channels, 6, 3, stride=2), nn.Conv2d(6, 4, 3)
        rows, columns = ((side - 3) // 2 - 1 for side in (height, width))
        return nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(4 * rows * columns, 10)).eval()


def by_a_loop(model: nn.Module, layer: nn.Linear | nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """Section 4.2, one picture and one feature at a time; the model in eval mode."""
    found = torch.zeros(layer.weight.shape[1], dtype=images.dtype)
    for image in images:
        image = image.clone().unsqueeze(0).requires_grad_()
        seen = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # noqa: B023
        model(image)
        hook.remove()
        for column, values in enumerate(seen[0][0]):
            for value in values.flatten():
                (slope,) = torch.autograd.grad(value, image, retain_graph=True)
                if value != 0:
                    found[column] += (value.abs() / slope.norm()).detach()
    return found


@pytest.mark.parametrize("at_once", [1, 7 * 5 * 64, 2**24])
def test_what_features_reveal_is_what_a_loop_finds(at_once, monkeypatch):
    """With BatchNorm in eval mode, and features that a ReLU has cut off."""
    monkeypatch.setattr(defenses.soteria, "AT_ONCE", at_once)
    model, images = network().double().eval(), pictures().images.double()
    layer = model[4]
    expected = by_a_loop(model, layer, images)
    assert torch.allclose(revelation(model, layer, images), expected, rtol=1e-9)
    assert expected.unique().numel() > 20, "and not all are cut off"


@pytest.mark.parametrize("place", [0, 2])
def test_what_a_convolution_s_channels_reveal_is_what_a_loop_finds(place):
    """Of the first one, which sees the pictures themselves, and of one behind a ReLU."""
    model, images = convolutions().double(), pictures().images.double()
    expected = by_a_loop(model, model[place], images)
    assert torch.allclose(revelation(model, model[place], images), expected, rtol=1e-9)
    assert expected.unique().numel() == expected.numel()


def test_exactly_the_channels_that_reveal_most_are_pruned():
    model = convolutions()
    plain = local_update(model, pictures(), TRAINING, generator(0)).parameters
    found = defended_update([Soteria(layer="2", prune=0.5)], TRAINING)(model, pictures(), generator(0)).parameters
    pruned = by_a_loop(model, model[2], pictures().images).topk(3).indices
    left = torch.ones(6, dtype=torch.bool).index_fill(0, pruned, False)
    assert (found["2.weight"][:, pruned] == 0).all()
    assert torch.equal(found["2.weight"][:, left], plain["2.weight"][:, left])
    assert same({n: t for n, t in found.items() if n != "2.weight"}, {n: t for n, t in plain.items() if n != "2.weight"})
    assert (plain["2.weight"][:, pruned] != 0).any(), "something was there to prune"


def test_a_convolution_in_groups_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 8, groups=2), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(ValueError, match="'1' is a convolution in 2 groups"):
        defended_update([Soteria(layer="1", prune=0.5)], TRAINING)(model, pictures(), generator(0))


@pytest.mark.parametrize("prune", [0.01, 0.25, 0.5, 1.0])
def test_exactly_the_columns_that_reveal_most_are_pruned(prune):
    model = network().eval()
    plain = local_update(model, pictures(), TRAINING, generator(0)).parameters
    found = defended_update([Soteria(layer="4", prune=prune)], TRAINING)(model, pictures(), generator(0)).parameters
    reveals = by_a_loop(model, model[4], pictures().images)
    count = int(prune * 108)
    pruned = reveals.topk(count).indices
    left = torch.ones(108, dtype=torch.bool).index_fill(0, pruned, False)
    assert (found["4.weight"][:, pruned] == 0).all()
    assert torch.equal(found["4.weight"][:, left], plain["4.weight"][:, left])
    assert same({n: t for n, t in found.items() if n != "4.weight"}, {n: t for n, t in plain.items() if n != "4.weight"})
    assert count == 0 or int((plain["4.weight"][:, pruned] != 0).sum()) > 0, "something was there to prune"


def test_in_train_mode_the_running_statistics_move_once():
    training = Training(batch_size=5, batch_norm="train", buffers="sent")
    plain = defended_update([], training)(network(), pictures(), generator(0))
    model = network()
    found = defended_update([Soteria(layer="4", prune=0.3)], training)(model, pictures(), generator(0))
    assert same(found.buffers, plain.buffers)
    assert int(model[1].num_batches_tracked) == 1
    assert len(model[4]._forward_pre_hooks) == 0


def test_a_layer_is_found_by_name_where_there_are_buffers_before_it():
    """Zipping a state's tensors with the parameters by position masks another layer as soon as a model has buffers."""
    model = ResNet18().build((3, 16, 16), 10, 0)
    batch = Batch(torch.rand(1, 3, 16, 16, generator=generator("one")), torch.tensor([3]))
    plain = local_update(model, batch, TRAINING, generator(0)).parameters
    found = defended_update([Soteria(layer="network.fc", prune=0.1)], TRAINING)(model, batch, generator(0)).parameters
    assert [name for name in plain if not torch.equal(plain[name], found[name])] == ["network.fc.weight"]


@pytest.mark.parametrize("layer", ["4.weight", "1", "", "nowhere"])
def test_a_layer_that_is_none_is_refused_with_those_that_there_are(layer):
    with pytest.raises(ValueError, match=rf"'{layer}' is no Linear or Conv2d module of the model; choices: 0, 4$"):
        defended_update([Soteria(layer=layer, prune=0.1)], TRAINING)(network(), pictures(), generator(0))


def test_a_layer_of_many_vectors_is_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="one vector for a picture"):
        defended_update([Soteria(layer="0", prune=0.5)], TRAINING)(model, pictures(), generator(0))


def test_lenet_s_layer_by_its_name():
    model = LeNet().build((1, 12, 12), 10, 0)
    batch = Batch(torch.rand(2, 1, 12, 12, generator=generator("two")), torch.tensor([3, 4]))
    found = defended_update([Soteria(layer="network.7", prune=0.5)], TRAINING)(model, batch, generator(0)).parameters
    assert int((found["network.7.weight"].abs().sum(0) == 0).sum()) == 54
