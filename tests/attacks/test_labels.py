"""Label restoration: exact where its paper says so, and a clear refusal where an assumption fails."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from attacks import Granted, NotApplicable, Observation
from attacks.labels import ILRG, LLG, RLU, AutoLabels, GengLabels, GivenLabels, IDLGLabels, RankOneLabels
from attacks.labels.auto import share_by_counts
from attacks.labels.counts import counts_by_least_squares, rows_of, whole_counts
from attacks.labels.last_layer import last_layer, last_layer_with_bias
from learning.models import MLP, MODELS, VGG16, LeNet, LeNet5, Precode
from learning.tensors import Batch, Update, generator, parameters_of
from learning.training import Training, local_update, set_mode

SHAPE, CLASSES = (1, 8, 8), 10
DELTA = Training(shared="delta", batch_size=64, learning_rate=0.01)


def random_batch(size: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Batch:
    rng = generator("batch", seed)
    return Batch(torch.rand(size, *shape, generator=rng), torch.randint(CLASSES, (size,), generator=rng))


def observe(model: nn.Module, batch: Batch, training: Training | None = None, granted: Granted | None = None) -> Observation:
    """What the server sees of an undefended client that holds the batch."""
    training = training or Training()
    channels, height, width = batch.images.shape[1:]
    return Observation(
        round=0,
        client=0,
        model=set_mode(model, training),
        update=local_update(model, batch, training, generator("client")),
        training=training,
        examples=len(batch),
        image_shape=(channels, height, width),
        classes=CLASSES,
        granted=granted or Granted(),
    )


def counts(labels: Tensor) -> list[int]:
    return torch.bincount(labels, minlength=CLASSES).tolist()


def restored(rows: Tensor | None) -> list[int]:
    assert rows is not None
    return counts(rows.argmax(1))


# iLRG


@pytest.mark.parametrize(
    "architecture", [LeNet(activation="relu", initial="default"), MLP(depth=3, width=512)], ids=["LeNet", "MLP"]
)
@pytest.mark.parametrize("size", [1, 4, 8, 24])
@pytest.mark.parametrize(
    "training",
    [
        Training(),
        DELTA,
        Training(shared="delta", batch_size=64, learning_rate=0.001, epochs=2),
        Training(shared="delta", batch_size=64, learning_rate=0.001, epochs=2, momentum=0.9),
    ],
    ids=["gradient", "one step", "two epochs", "momentum"],
)
def test_ilrg_counts_every_label_on_untrained_deep_models(architecture, size, training):
    for seed in range(3):
        batch = random_batch(size, seed)
        observation = observe(architecture.build(SHAPE, CLASSES, seed), batch, training)
        assert restored(ILRG().reconstruct(observation, generator(0)).labels) == counts(batch.labels)


@pytest.mark.parametrize("architecture", [LeNet(), MLP(), MLP(activation="sigmoid")], ids=repr)
@pytest.mark.parametrize(("size", "exact"), [(1, 20), (4, 17), (8, 11)])
def test_ilrg_counts_most_batches_on_untrained_shallow_models(architecture, size, exact):
    """Their logits differ from example to example, and the paper's approximations with them."""
    right = 0
    for seed in range(20):
        batch = random_batch(size, seed)
        rows = ILRG().reconstruct(observe(architecture.build(SHAPE, CLASSES, seed), batch), generator(0)).labels
        right += restored(rows) == counts(batch.labels)
    assert right >= exact


def test_ilrg_restores_a_batch_of_one_class():
    batch = replace(random_batch(8), labels=torch.full((8,), 3))
    observation = observe(LeNet().build(SHAPE, CLASSES, 0), batch)
    assert restored(ILRG().reconstruct(observation, generator(0)).labels) == counts(batch.labels)


def test_ilrg_needs_a_bias():
    observation = observe(MLP(bias=False).build(SHAPE, CLASSES, 0), random_batch(4))
    with pytest.raises(NotApplicable, match="no bias"):
        ILRG().reconstruct(observation, generator(0))


def test_ilrg_gives_whole_rows_where_a_bias_gradient_is_zero():
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(4))
    observation = replace(observation, update=observation.update.map(torch.zeros_like))
    assert sum(restored(ILRG().reconstruct(observation, generator(0)).labels)) == 4


@pytest.mark.parametrize("size", [1, 8, 64])
def test_the_non_negative_solver_counts_as_many_or_more(size):
    """On a model that has learned, the pseudo-inverse finds negative counts (a peer even returns them: D23)."""
    right = {"pseudo-inverse": 0, "non-negative": 0}
    for seed in range(10):
        batch, model = random_batch(size, seed), MLP().build(SHAPE, CLASSES, seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
        for solver in right:
            found = restored(ILRG(solver=solver).reconstruct(observe(model, batch), generator(0)).labels)
            assert sum(found) == size
            right[solver] += sum(map(min, found, counts(batch.labels)))
    assert right["non-negative"] >= right["pseudo-inverse"]


# iDLG


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [Training(), DELTA], ids=["gradient", "delta"])
def test_idlg_finds_the_label_of_one_example(bias, training):
    for seed in range(10):
        batch = random_batch(1, seed)
        observation = observe(MLP(bias=bias).build(SHAPE, CLASSES, seed), batch, training)
        labels = IDLGLabels().reconstruct(observation, generator(0)).labels
        assert labels is not None
        assert labels.argmax(1).tolist() == batch.labels.tolist()


def test_idlg_reads_the_bias_where_features_are_negative():
    """Row sums of the weight gradient have the wrong sign where the features' sum is negative; the bias has not."""
    model = MLP(activation="tanh").build(SHAPE, CLASSES, 0)
    hidden = model.get_submodule("network.1")
    assert isinstance(hidden, nn.Linear)
    nn.init.constant_(hidden.bias, -3.0)
    for seed in range(10):
        batch = random_batch(1, seed)
        observation = observe(model, batch)
        assert observation.gradient()["network.3.weight"].sum(1).argmin() != batch.labels[0]
        assert restored(IDLGLabels().reconstruct(observation, generator(0)).labels) == counts(batch.labels)


def test_idlg_refuses_more_than_one_example():
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(2))
    with pytest.raises(NotApplicable, match="used 2"):
        IDLGLabels().reconstruct(observation, generator(0))


# Given labels


def test_given_labels_are_those_granted():
    labels = torch.tensor([1, 1, 7])
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(3), granted=Granted(labels=labels))
    found = GivenLabels().reconstruct(observation, generator(0))
    assert found.labels is not None
    assert found.labels.argmax(1).tolist() == [1, 1, 7]
    assert found.certified is not None
    assert found.certified.all(), "an assumption is not to be improved"


def test_given_labels_refuse_without_the_grant():
    with pytest.raises(NotApplicable, match="does not grant"):
        GivenLabels().reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), random_batch(3)), generator(0))


# The gradient that a delta stands for


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("epochs", "size", "steps"), [(1, 4, 0), (2, 4, 0), (3, 2, 0), (1, 4, 5)])
def test_a_delta_of_equal_steps_is_undone_exactly(momentum, epochs, size, steps):
    """Against PyTorch's SGD fed with one and the same gradient (a delta has the opposite sign: peers' defects D9 and D10)."""
    training = Training(shared="delta", batch_size=size, epochs=epochs, steps=steps, learning_rate=0.3, momentum=momentum)
    slope = torch.randn(5, generator=generator(0), dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.3, momentum=momentum)
    for _ in range(training.local_steps(4)):
        weight.grad = slope.clone()
        optimizer.step()
    observation = Observation(
        round=0,
        client=0,
        model=nn.Identity(),
        update=Update({"weight": weight.detach()}),
        training=training,
        examples=4,
        image_shape=SHAPE,
        classes=CLASSES,
    )
    torch.testing.assert_close(observation.gradient()["weight"], slope, rtol=1e-12, atol=0)


def test_a_shared_gradient_is_returned_as_it_is():
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(2))
    assert observation.gradient() is observation.update.parameters


# Whole counts

ESTIMATES = st.lists(
    st.floats(-1e3, 1e3) | st.sampled_from([float("nan"), float("inf"), -float("inf")]), min_size=2, max_size=20
)
COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=20)


@given(ESTIMATES, st.integers(0, 200))
def test_whole_counts_sum_to_the_total_and_are_not_negative(estimate, total):
    found = whole_counts(torch.tensor(estimate, dtype=torch.float64), total)
    assert found.sum() == total
    assert found.min() >= 0


@given(ESTIMATES, st.integers(0, 200), st.data())
def test_whole_counts_in_doubt_sum_to_the_total_and_are_not_negative(estimate, total, data):
    doubts = st.floats(0, 1e6) | st.sampled_from([float("nan"), float("inf")])
    doubt = data.draw(st.lists(doubts, min_size=len(estimate), max_size=len(estimate)))
    found = whole_counts(torch.tensor(estimate, dtype=torch.float64), total, torch.tensor(doubt, dtype=torch.float64))
    assert found.sum() == total
    assert found.min() >= 0


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(0.1, 10)), min_size=3, max_size=3))
def test_whole_counts_are_the_nearest_in_units_of_their_doubt(entries):
    estimate, doubt = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    total = round(float(estimate.sum()))
    estimate = estimate * total / estimate.sum().clamp_min(1e-9)
    every = torch.cartesian_prod(*[torch.arange(total + 1)] * 3)
    every = every[every.sum(1) == total]
    costs = ((every - estimate) / doubt).square().sum(1)
    found = whole_counts(estimate, total, doubt)
    assert float(costs[(every == found).all(1)]) == pytest.approx(float(costs.min()), abs=1e-6)


def test_what_is_in_doubt_gives_way_to_what_is_not():
    """Behind an untrained ResNet-18 one class in a hundred has a fifth of the probability, and its count is off by one."""
    estimate, doubt = torch.tensor([1.4, 0.96, 1.96, 0.93, 0.75]), torch.tensor([0.2, 0.01, 0.01, 0.01, 0.01])
    assert whole_counts(estimate, 5, doubt).tolist() == [0, 1, 2, 1, 1]
    assert whole_counts(estimate, 5).tolist() != [0, 1, 2, 1, 1]


@given(COUNTS)
def test_whole_counts_leave_whole_numbers_alone(numbers):
    assert whole_counts(torch.tensor(numbers, dtype=torch.float64), sum(numbers)).tolist() == numbers


@given(COUNTS, st.integers(0, 2**31))
def test_whole_counts_take_away_noise_below_half_a_share(numbers, seed):
    noise = torch.rand(len(numbers), generator=generator(seed), dtype=torch.float64) - 0.5
    estimate = torch.tensor(numbers, dtype=torch.float64) + 0.98 * noise / len(numbers)
    assert whole_counts(estimate, sum(numbers)).tolist() == numbers


@given(COUNTS, st.floats(-10, 10))
def test_whole_counts_share_out_a_wrong_sum_evenly(numbers, shift):
    """An error that all classes have in common disappears, where no class is empty."""
    numbers = [1 + number for number in numbers]
    assert whole_counts(torch.tensor(numbers, dtype=torch.float64) + shift, sum(numbers)).tolist() == numbers


@pytest.mark.parametrize(
    ("estimate", "total", "expected"),
    [
        ([7.6, 7.6, 7.7], 24, [8, 8, 8]),  # sums to less: a peer makes 32 of such totals (D22)
        ([9.0, 9.0, 9.0], 24, [8, 8, 8]),  # sums to more
        ([5.0, -1.2, 0.1], 4, [4, 0, 0]),  # negative (D23)
        ([float("nan"), 3.0, 1.0], 4, [0, 3, 1]),
        ([0.0, 0.0, 0.0], 0, [0, 0, 0]),
    ],
)
def test_whole_counts_of_wrong_totals_and_negatives(estimate, total, expected):
    assert whole_counts(torch.tensor(estimate), total).tolist() == expected


@given(COUNTS, st.integers(0, 2**31))
def test_counts_by_least_squares_solve_what_can_be_solved(numbers, seed):
    system = torch.randn(len(numbers) + 2, len(numbers), generator=generator(seed), dtype=torch.float64)
    wanted = torch.tensor(numbers, dtype=torch.float64)
    found = counts_by_least_squares(system, system @ wanted, sum(numbers))
    assert found.min() >= 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * max(1, sum(numbers)))


def test_rows_stand_for_counts():
    rows = rows_of(torch.tensor([2, 0, 1]))
    assert rows.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


# The last layer


class Backwards(nn.Module):
    """Its final layer is registered first and its first last."""

    def __init__(self, end: nn.Module | None = None):
        super().__init__()
        self.head = nn.Linear(16, CLASSES)
        self.body = nn.Linear(64, 16)
        self.end = end

    def forward(self, images: Tensor) -> Tensor:
        scores = self.head(self.body(images.flatten(1)).sigmoid())
        return scores if self.end is None else self.end(scores)


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_is_found_in_every_model(name):
    shape, classes = (3, 32, 32), 7
    special = {"vgg16": VGG16(hidden=32), "precode": Precode(network=MLP())}
    model = (special[name] if name in special else MODELS[name]()).build(shape, classes, seed=0)
    (expected,) = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    marked = {n: torch.full_like(p, float(n.startswith(f"{expected}."))) for n, p in parameters_of(model).items()}
    observation = Observation(
        round=0,
        client=0,
        model=model,
        update=Update(marked),
        training=Training(),
        examples=1,
        image_shape=shape,
        classes=classes,
    )
    model.train()
    weight, bias, weight_gradient, bias_gradient = last_layer_with_bias(observation)
    torch.testing.assert_close(weight, model.get_parameter(f"{expected}.weight").double())
    torch.testing.assert_close(bias, model.get_parameter(f"{expected}.bias").double())
    assert weight_gradient.eq(1).all()
    assert bias_gradient.eq(1).all()
    assert all(module.training for module in model.modules()), "the model's mode has changed"


def test_the_last_layer_is_the_last_to_run_not_the_last_registered():
    model, batch = Backwards(), random_batch(4)
    assert last_layer(observe(model, batch)).weight.equal(model.head.weight.double())
    assert restored(ILRG().reconstruct(observe(model, batch), generator(0)).labels) == counts(batch.labels)


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Tanh(), nn.Sequential(nn.Linear(CLASSES, CLASSES), nn.ReLU())])
def test_a_model_must_end_in_a_linear_layer(end):
    observation = observe(Backwards(end), random_batch(1))
    for attack in (ILRG(), IDLGLabels()):
        with pytest.raises(NotApplicable, match="does not end in a linear layer"):
            attack.reconstruct(observation, generator(0))


def test_the_update_must_hold_the_last_layer():
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(1))
    kept = {name: tensor for name, tensor in observation.update.parameters.items() if "3.weight" not in name}
    with pytest.raises(NotApplicable, match=r"'network\.3\.weight'"):
        last_layer(replace(observation, update=Update(kept)))


# What holds for all that count

COUNTING = {"ilrg": ILRG(), "rank-one": RankOneLabels(), "geng": GengLabels(), "auto": AutoLabels()}


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_noise_leaves_the_total_and_no_negative(name, strength):
    """Peers return 32 labels for 24 (D22) and negative counts (D23)."""
    for seed in range(5):
        observation = observe(MLP().build(SHAPE, CLASSES, seed), random_batch(24, seed))
        rng = generator("noise", seed)
        noisy = observation.update.map(lambda t, rng=rng: t + strength * torch.randn(t.shape, generator=rng))
        assert sum(restored(COUNTING[name].reconstruct(replace(observation, update=noisy), generator(0)).labels)) == 24


@pytest.mark.parametrize("name", COUNTING)
def test_what_is_not_a_number_is_survived(name):
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(6))
    broken = observation.update.map(lambda t: torch.full_like(t, float("nan")))
    assert sum(restored(COUNTING[name].reconstruct(replace(observation, update=broken), generator(0)).labels)) == 6


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_delta_counts_as_its_gradient_does(name, momentum):
    """A delta points the other way than a gradient: a peer that forgets it restores other labels (D9)."""
    training = Training(shared="delta", batch_size=64, learning_rate=0.03, momentum=momentum)
    for seed in range(3):
        batch, model = random_batch(8, seed), LeNet(activation="relu", initial="default").build(SHAPE, CLASSES, seed)
        assert restored(COUNTING[name].reconstruct(observe(model, batch, training), generator(0)).labels) == counts(
            batch.labels
        )


# Auto


@pytest.mark.parametrize("bias", [True, False])
def test_auto_finds_one_label_with_and_without_a_bias(bias):
    for seed in range(5):
        batch = random_batch(1, seed)
        found = AutoLabels().reconstruct(observe(MLP(bias=bias).build(SHAPE, CLASSES, seed), batch), generator(0))
        assert restored(found.labels) == counts(batch.labels)


def test_auto_chooses_by_what_the_server_knows():
    public = random_batch(40, seed=9)
    granted = Granted(public=public.images, public_labels=public.labels)
    fresh, decided = (MLP().build(SHAPE, CLASSES, 0) for _ in range(2))
    with torch.no_grad():
        for parameter in decided.parameters():
            parameter.mul_(4)  # it answers every picture differently
    batch = random_batch(8)
    names = [
        type(AutoLabels().chosen(observe(model, batch, granted=given), generator(0))).__name__
        for model, given in [(fresh, None), (fresh, granted), (decided, None), (decided, granted)]
    ]
    assert names == ["RankOneLabels", "RankOneLabels", "GengLabels", "RLU"]
    several = Training(shared="delta", batch_size=4, epochs=2)
    played = [observe(fresh, batch, several, given) for given in (None, granted)]
    assert [type(AutoLabels().chosen(one, generator(0))) for one in played] == [RankOneLabels, RLU]
    unbiased = observe(MLP(bias=False).build(SHAPE, CLASSES, 0), batch)
    assert AutoLabels().chosen(unbiased, generator(0)) == GengLabels(form="weights")


@pytest.mark.parametrize("share", [0.3, 0.02])
@pytest.mark.parametrize("size", [4, 24])
def test_auto_undoes_clipping(share, size):
    for seed in range(5):
        batch = random_batch(size, seed, shape=(3, 32, 32))
        observation = observe(LeNet5().build((3, 32, 32), CLASSES, seed), batch)
        clipped = replace(observation, update=observation.update.map(lambda tensor: share * tensor))
        found = AutoLabels().reconstruct(clipped, generator(0))
        assert restored(found.labels) == counts(batch.labels)
        if restored(RankOneLabels().reconstruct(clipped, generator(0)).labels) != counts(batch.labels):
            assert "clipped to 0." in found.verdict


def test_no_other_change_is_taken_for_clipping():
    for seed in range(20):
        batch = random_batch(8, seed)
        observation = observe(MLP().build(SHAPE, CLASSES, seed), batch)
        share = share_by_counts(observation)  # near one, if it is not: nothing is lost by undoing it
        undone = observation.enlarged(share)
        assert restored(RankOneLabels().reconstruct(undone, generator(0)).labels) == counts(batch.labels)
        rng = generator("noise", seed)
        noisy = observation.update.map(lambda tensor, rng=rng: tensor + 0.01 * torch.randn(tensor.shape, generator=rng))
        pruned = observation.update.map(lambda tensor: tensor * (tensor.abs() > tensor.abs().mean()))
        for update in (noisy, pruned):
            assert share_by_counts(replace(observation, update=update)) == 1


def test_auto_asks_llg_where_rlu_finds_the_labels_gone():
    public, known = random_batch(100, seed=9), random_batch(60, seed=3)
    granted = Granted(public=public.images, public_labels=public.labels)
    model = MLP().build(SHAPE, CLASSES, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        functional.cross_entropy(model(known.images), known.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    observation = observe(model, Batch(known.images[:24], known.labels[:24]), granted=granted)
    assert isinstance(AutoLabels().chosen(observation, generator(0)), RLU)
    found = AutoLabels().reconstruct(observation, generator(0))
    assert found.identifiable is False
    assert "not identifiable here" in found.verdict
    assert found.counts_interval is None
    assert restored(found.labels) == restored(LLG(knowledge="public").reconstruct(observation, generator(0)).labels)
