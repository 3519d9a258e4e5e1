"""The engine: cheap slopes are the dear ones, restarts do not see each other, a descent ends where it should."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.attack import label_rows
from attacks.matching import InvertingGradients, halves, patches, slopes
from attacks.matching.adam import descend
from attacks.matching.differences import Differences
from attacks.matching.distances import cosine_distance
from attacks.matching.fixed_statistics import FixedStatistics, use_fixed_statistics
from attacks.matching.halves import use_halves
from attacks.matching.patches import Patches, use_patches
from attacks.matching.simulation import simulation
from attacks.matching.slopes import TRACED_FROM, slope_of
from attacks.matching.tracing import program_of
from attacks.matching.victim import Victim, victim_of, work
from attacks.matching.winograd import Winograd, use_winograd
from learning.models import ConvNet, LeNet, LeNet5, ResNet18
from learning.tensors import Tensors, generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, observe, random_batch

SMALL = (3, 12, 12)


def matching(architecture, shape, training: Training | None = None, dtype: torch.dtype = torch.float64):
    """The loss of matching a victim of two pictures, the victim, and a stack of two starts."""
    batch = random_batch(2, shape=shape)
    observation = observe(
        architecture.build(shape, CLASSES, 0).to(dtype), type(batch)(batch.images.to(dtype), batch.labels), training
    )
    victim, wanted = victim_of(observation, dtype), observation.gradient()
    labels = label_rows(batch.labels, CLASSES).to(dtype)

    def loss(one: Tensors) -> Tensor:
        return cosine_distance(victim.gradient(one["images"], labels), wanted)

    return loss, victim, {"images": torch.rand(2, 2, *shape, generator=generator("starts")).to(dtype)}


VICTIMS = {
    "LeNet": (LeNet(), SHAPE, Training()),
    "BatchNorm, eval": (ConvNet(width=4), SMALL, Training()),
    "BatchNorm, train": (ConvNet(width=4), SMALL, Training(batch_norm="train")),
    "residual": (ResNet18(), (1, 8, 8), Training()),
}


@pytest.mark.parametrize("case", VICTIMS)
def test_restarts_computed_together_are_those_computed_alone(case):
    loss, victim, starts = matching(*VICTIMS[case])
    slopes, losses = slope_of(loss, victim, starts, 1, large=False)(starts)
    alone, values = slope_of(loss, victim, starts, 1, large=True)(starts)
    torch.testing.assert_close(values, losses)
    torch.testing.assert_close(alone, slopes, atol=1e-10, rtol=1e-6)


@pytest.mark.parametrize("case", VICTIMS)
@pytest.mark.parametrize("large", [False, True], ids=["together", "one by one"])
def test_a_traced_slope_is_the_slope(case, large):
    loss, victim, starts = matching(*VICTIMS[case])
    victim.differences.there = False
    slope = slope_of(loss, victim, starts, 1, large)
    program = slope_of(loss, victim, {"images": starts["images"] + 1}, TRACED_FROM, large)
    for variables in (starts, {"images": starts["images"].flip(0)}):
        torch.testing.assert_close(program(variables), slope(variables), rtol=1e-9, atol=1e-12)


HALVED = (ConvNet(width=16), SMALL, None, torch.float32)  # its second convolution has 4,608 weights


@pytest.fixture
def multiplies_halves(monkeypatch):
    """As on hardware that multiplies bfloat16 numbers: PyTorch computes with them anywhere."""
    monkeypatch.setattr(halves, "_multiplies_halves", lambda device: True)


def test_slopes_by_bfloat16_convolutions_point_where_the_exact_ones_do(multiplies_halves):
    loss, victim, starts = matching(*HALVED)
    exact, values = slope_of(loss, victim, starts, 1, large=True)(starts)
    slopes, losses = slope_of(loss, victim, starts, TRACED_FROM, large=True)(starts)
    together = directions(slopes["images"], exact["images"])
    assert victim.halves.there
    assert not victim.halves.on
    assert (together > 0.95).all()
    assert (together < 1 - 1e-6).all(), "they are not in bfloat16"
    torch.testing.assert_close(losses, values, rtol=0, atol=1e-3)


def test_bfloat16_convolutions_are_held_against_exact_ones_at_the_first_call_and_at_every_fiftieth(
    multiplies_halves, monkeypatch
):
    loss, victim, starts = matching(*HALVED)
    slope, asked = slope_of(loss, victim, starts, TRACED_FROM, large=True), []
    monkeypatch.setattr(slopes._WhileAgreeing, "_agrees", lambda self, found, exact: asked.append((found, exact)) is None)
    for _ in range(101):
        slope(starts)
    assert len(asked) == 3


def test_slopes_are_exact_from_where_bfloat16_disagrees(multiplies_halves):
    loss, victim, starts = matching(*HALVED)
    wanted = slope_of(loss, victim, starts, 1, large=True)(starts)
    slope = slope_of(loss, victim, starts, TRACED_FROM, large=True)
    before = slope(starts)
    victim.halves.agreeing = 1.0
    for _ in range(49):
        assert torch.equal(slope(starts)[1], before[1])
    for _ in range(2):
        torch.testing.assert_close(slope(starts), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", ["other hardware", "float64"])
def test_convolutions_are_left_alone_where_bfloat16_gains_nothing(case, monkeypatch):
    monkeypatch.setattr(halves, "_multiplies_halves", lambda device: case != "other hardware")
    dtype = torch.float64 if case == "float64" else torch.float32
    loss, victim, starts = matching(*HALVED[:3], dtype)
    assert not victim.halves.there
    assert not any(isinstance(module, halves.HalfConvolution) for module in victim.model.modules())
    victim.differences.there = False
    slope, traced = (slope_of(loss, victim, starts, iterations, large=True) for iterations in (1, TRACED_FROM))
    torch.testing.assert_close(traced(starts), slope(starts), rtol=1e-4, atol=1e-7)


# Differences


def directions(found: Tensor, exact: Tensor) -> Tensor:
    """The cosine of each restart's slopes."""
    return functional.cosine_similarity(found.flatten(1), exact.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [*VICTIMS, "leaky ReLU and pooling"])
def test_slopes_by_differences_are_the_exact_ones(case, dtype):
    victims = VICTIMS | {"leaky ReLU and pooling": (LeNet5(activation="leaky-relu"), (1, 28, 28), Training())}
    loss, victim, starts = matching(*victims[case], dtype)
    exact, values = slope_of(loss, victim, starts, 1, large=True)(starts)
    slopes, losses = slope_of(loss, victim, starts, TRACED_FROM, large=True)(starts)
    assert not slopes["images"].equal(exact["images"]), "they are no differences"
    assert (directions(slopes["images"], exact["images"]) > 1 - (1e-3 if dtype == torch.float32 else 1e-6)).all()
    torch.testing.assert_close(losses, values)


def test_differences_are_of_weights_and_labels_too():
    """As they have to be where a second step starts from what the first has made of the weights, or labels are sought."""
    batch = random_batch(3, shape=SMALL)
    observation = observe(ConvNet(width=4).build(SMALL, CLASSES, 0).double(), type(batch)(batch.images.double(), batch.labels))
    victim, wanted = victim_of(observation, torch.float64), observation.gradient()
    work = simulation(victim, Training(shared="delta", batch_size=2, epochs=2, learning_rate=0.5), 3)

    def loss(one: Tensors) -> Tensor:
        return cosine_distance(work(one["images"], one["scores"].softmax(-1)), wanted)

    rng = generator("starts")
    sought = {
        "images": torch.rand(3, *SMALL, generator=rng).double(),
        "scores": torch.randn(3, CLASSES, generator=rng).double(),
    }
    exact, value = torch.func.grad_and_value(loss)(sought)
    with victim.differences.used():
        slopes, same = torch.func.grad_and_value(loss)(sought)
    assert same == pytest.approx(value.item(), rel=1e-9)
    for name in sought:
        assert not slopes[name].equal(exact[name])
        torch.testing.assert_close(slopes[name], exact[name], rtol=1e-3, atol=1e-4 * exact[name].abs().max().item())


def test_a_difference_passes_no_edge():
    """What is next to an edge stays on its side, as it does for the exact derivative."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    differences = Differences(model)
    weights = {
        "1.weight": torch.tensor([[1e-15], [1.0]]).double(),  # the first is switched on, and off as soon as it is moved down
        "3.weight": torch.tensor([[1.0, 0.5], [-0.5, 2.0]]).double(),
    }
    images, labels = torch.full((1, 1, 1, 1), 0.7).double(), torch.tensor([[1.0, 0.0]]).double()
    direction = {
        "1.weight": torch.tensor([[-1.0], [0.3]]).double(),
        "3.weight": torch.tensor([[0.2, -0.4], [0.1, 0.6]]).double(),
    }

    def loss(weights: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, weights, (images,)), labels)

    def along(gradient: Tensors) -> Tensor:
        return torch.stack([(gradient[name] * direction[name]).sum() for name in weights]).sum()

    exact = torch.func.grad(lambda images: along(torch.func.grad(loss)(weights, images, labels)))(images)
    found = torch.func.grad(lambda images: along(differences.gradient(loss, weights, images, labels)))(images)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)


class Edged(nn.Module):
    """A network of functions, whose edges nobody can see, and which all lie between the weights and what they are moved to."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(27, 40), nn.Linear(40, CLASSES)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(functional.relu(self.layer(images.flatten(1)) + 1e-9))


def test_differences_that_pass_edges_are_seen_and_left():
    batch = random_batch(2, shape=(3, 3, 3))
    observation = observe(Edged(), batch)
    victim, wanted = victim_of(observation, torch.float32), observation.gradient()

    def loss(one: Tensors) -> Tensor:
        return cosine_distance(victim.gradient(one["images"], label_rows(batch.labels, CLASSES)), wanted)

    starts = {"images": torch.rand(1, 2, 3, 3, 3, generator=generator("starts"))}
    exact = slope_of(loss, victim, starts, 1, large=True)(starts)
    slope = slope_of(loss, victim, starts, TRACED_FROM, large=True)
    slope(starts)
    torch.testing.assert_close(slope(starts), exact)


def test_a_direction_of_no_length_has_no_slope():
    loss, victim, starts = matching(*VICTIMS["LeNet"])
    with victim.differences.used():
        slopes = torch.func.grad(lambda images: 0 * loss({"images": images}))(starts["images"][0])
    assert slopes.abs().max() < 1e-20


# Layers that compute the same in less time


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 5, 3),
    "padded": nn.Conv2d(3, 5, 5, padding=2),
    "strided": nn.Conv2d(3, 5, (3, 4), stride=(2, 1), padding=(1, 0)),
    "without a bias": nn.Conv2d(3, 5, 3, bias=False),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("most", [patches.MOST_ENTRIES, 0], ids=["small", "large"])
def test_patches_are_the_convolution(case, most, monkeypatch):
    """Also where a picture has so many that the convolution itself is run."""
    monkeypatch.setattr(patches, "MOST_ENTRIES", most)
    convolution = CONVOLUTIONS[case].double()
    model = nn.Sequential(convolution)
    use_patches(model)
    assert isinstance(model[0], Patches)
    assert dict(model[0].named_parameters()).keys() == dict(convolution.named_parameters()).keys()
    images = torch.rand(2, 3, 9, 8, generator=generator("images")).double()
    torch.testing.assert_close(model(images), convolution(images))
    for module in (model, convolution):
        inputs = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(inputs).sin().sum(), module.parameters().__next__(), create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), inputs)[0]
        if module is model:
            first = second
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("stacked", [True, False], ids=["restarts together", "one restart"])
def test_recorded_patches_have_the_convolution_s_slopes(case, stacked):
    """Those of what gradients of a client's two layers are matched with, for other pictures than the recorded ones."""
    convolution = CONVOLUTIONS[case].double()
    after = nn.Conv2d(5, 2, 3, padding=1).double()

    def slopes_of(*layers: nn.Module):
        model = nn.Sequential(layers[0], nn.Sigmoid(), layers[1])
        weights = {name: tensor.detach() for name, tensor in model.named_parameters()}

        def loss(one: Tensors) -> Tensor:
            found = partial(torch.func.functional_call, model)
            gradient = torch.func.grad(lambda at: found(at, (one["images"],)).square().sum())(weights)
            return torch.stack([gradient[name].sin().sum() for name in gradient]).sum()

        one = torch.func.grad_and_value(loss)
        return torch.func.vmap(one) if stacked else one

    images = torch.rand(2, *([3] * stacked), 2, 3, 9, 8, generator=generator("images"), dtype=torch.float64)
    recorded = program_of(slopes_of(Patches(convolution), Patches(after)), {"images": images[0]})
    torch.testing.assert_close(recorded({"images": images[1]}), slopes_of(convolution, after)({"images": images[1]}))


def assert_same_slopes(model: nn.Module, layer: nn.Module, images: Tensor) -> None:
    """Both compute the same of pictures, with the same slopes, and these have the same slopes again."""
    found = []
    for module in (model, layer):
        inputs = images.clone().requires_grad_()
        wanted = (inputs, *module.parameters())
        slopes = torch.autograd.grad(module(inputs).sin().sum(), wanted, create_graph=True)
        total = torch.stack([slope.square().sum() for slope in slopes]).sum()
        found.append([module(images), *slopes, *torch.autograd.grad(total, wanted)])
    torch.testing.assert_close(*found)


WINOGRAD = {
    "padded": (nn.Conv2d(64, 65, 3, padding=1), (24, 24)),
    "not padded": (nn.Conv2d(64, 64, 3), (26, 26)),
    "not of whole tiles": (nn.Conv2d(64, 64, 3, padding=(2, 1)), (21, 30)),
    "without a bias": (nn.Conv2d(64, 64, 3, padding=1, bias=False), (24, 24)),
    "of few tiles": (nn.Conv2d(64, 64, 3, padding=1), (8, 8)),
}


@pytest.mark.parametrize("case", WINOGRAD)
def test_winograd_is_the_convolution(case):
    convolution, pixels = WINOGRAD[case]
    convolution = copy.deepcopy(convolution).double()
    model = nn.Sequential(copy.deepcopy(convolution))
    use_winograd(model)
    assert isinstance(model[0], Winograd)
    assert model[0].state_dict().keys() == convolution.state_dict().keys()
    images = torch.rand(2, 64, *pixels, generator=generator("images")).double()
    assert_same_slopes(model, convolution, images)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 5), nn.Conv2d(64, 64, 3, stride=2), nn.Conv2d(128, 128, 3, groups=2),
        nn.Conv2d(64, 64, 3, dilation=2), nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
    ],
    ids=["small", "other kernel", "strided", "grouped", "dilated", "padding by name", "reflecting"],
)  # fmt: skip
def test_convolutions_that_winograd_does_not_fit_stay(convolution):
    model = nn.Sequential(convolution)
    use_winograd(model)
    assert model[0] is convolution


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_fixed_statistics_are_batch_norm_in_eval_mode(affine):
    layer = nn.BatchNorm2d(4, affine=affine).double()
    rng = generator("statistics")
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
    model = nn.Sequential(copy.deepcopy(layer.eval()))
    use_fixed_statistics(model)
    assert isinstance(model[0], FixedStatistics)
    assert dict(model[0].named_parameters()).keys() == dict(layer.named_parameters()).keys()
    images = torch.rand(2, 4, 5, 3, generator=rng).double()
    assert_same_slopes(model, layer, images)


def test_batch_norm_that_looks_at_the_batch_stays():
    layers = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False).eval(), nn.BatchNorm2d(4).eval())
    use_fixed_statistics(layers)
    assert [isinstance(layer, FixedStatistics) for layer in layers] == [False, False, True]


@pytest.mark.parametrize(
    "convolution",
    [nn.Conv2d(64, 128, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(3, 4, 3, dilation=2), nn.Conv2d(3, 4, 3, padding="same")],
    ids=["large", "grouped", "dilated", "padding by name"],
)
def test_other_convolutions_stay(convolution):
    model = nn.Sequential(convolution)
    use_patches(model)
    assert model[0] is convolution


def test_work_counts_multiplications():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 5))
    victim = Victim(model, dict(model.named_parameters()), use_halves(model), Differences(model))
    assert work(victim, (1, 4, 4)) == 16 * 2 * 9 + 32 * 5


# The descent


def bowl(variables: Tensors) -> tuple[Tensors, Tensor]:
    """Half the squared distance from 0.3, for every restart; not a number where a restart is above 2."""
    away = variables["images"] - 0.3
    losses = 0.5 * away.square().flatten(1).sum(1)
    return {"images": away}, torch.where(variables["images"].flatten(1).amax(1) > 2, math.nan, losses)


def test_a_descent_moves_every_restart_downhill_and_leaves_its_start():
    starts = {"images": torch.rand(4, 2, 3, generator=generator(0))}
    before = starts["images"].clone()
    runs = descend(bowl, starts, 200, lambda _: 0.01)
    assert starts["images"].equal(before)
    for run, start in zip(runs, before, strict=True):
        assert run.loss in run.history
        assert run.loss < 1e-4
        assert run.history[0] == pytest.approx(bowl({"images": start[None]})[1].item())
        assert bowl({"images": run.variables["images"][None]})[1].item() == pytest.approx(run.loss, rel=1e-4)


def test_an_early_lucky_loss_is_not_what_a_descent_returns():
    calls = 0

    def slope(now: Tensors) -> tuple[Tensors, Tensor]:
        nonlocal calls
        calls += 1
        slopes, losses = bowl(now)
        return slopes, losses * 0 if calls == 7 else losses

    run = descend(slope, {"images": torch.full((1, 4), 0.9)}, 50, lambda _: 0.01)[0]
    assert len(run.history) == 51, "nor does it end the descent"
    assert run.history[6] == 0
    assert run.loss == run.history[-1] == sorted(run.history)[1]


def test_a_restart_that_is_lost_does_not_touch_the_others():
    starts = torch.rand(3, 4, generator=generator(0))
    alone = descend(bowl, {"images": starts}, 50, lambda _: 0.01)
    spoiled = torch.cat([starts, torch.full((1, 4), 3.0)])
    together = descend(bowl, {"images": spoiled}, 50, lambda _: 0.01)
    assert together[3].loss == math.inf
    assert together[3].history == (math.inf,)
    for one, other in zip(alone, together[:3], strict=True):
        assert one.history == pytest.approx(other.history, rel=1e-5)


def test_a_restart_that_is_lost_stays_where_it_is():
    """Its momentum and the decay towards the middle do not move it on; the other goes on."""
    places = []

    def slope(now: Tensors):
        images = now["images"]
        places.append(images.clone())
        losses = images.square().sum(1)
        losses[0] = losses[0] if len(places) < 5 else torch.nan
        return {"images": 2 * images}, losses

    descend(slope, {"images": torch.full((2, 4), 0.9)}, 12, lambda _: 0.01, decay=0.5)
    assert places[4][0].max() < 0.9
    assert all(place[0].equal(places[4][0]) for place in places[4:])
    assert places[-1][1].max() < places[4][1].max()


def test_a_descent_that_stands_still_ends():
    runs = descend(bowl, {"images": torch.full((1, 4), 0.3 + 0.2)}, 1000, lambda _: 1e-9)
    assert 800 < len(runs[0].history) <= 821, "two spells of two fifths without a fall, and the next look"
    falls = descend(bowl, {"images": torch.full((1, 4), 1.0)}, 100, lambda _: 1e-3)
    assert len(falls[0].history) == 101


def test_attacks_in_threads_do_not_disturb_each_other():
    victims = [observe(LeNet().build(SHAPE, CLASSES, seed), random_batch(1, seed)) for seed in range(2)]
    attack = InvertingGradients(iterations=TRACED_FROM, signed=False)
    alone = [attack.reconstruct(victim, generator(0)) for victim in victims]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda victim: attack.reconstruct(victim, generator(0)), victims))
    assert [one.history for one in alone] == [one.history for one in together]
