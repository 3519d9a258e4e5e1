"""What a client computes: gradients, deltas, and the accuracy of what comes of them."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from learning.models import MLP, LeNet
from learning.tensors import Batch, Tensors, buffers_of, generator, parameters_of
from learning.training import Training, accuracy, gradient, local_update, set_mode


def pictures(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    rng = generator("pictures", seed)
    return Batch(torch.rand(count, 1, 8, 8, generator=rng).to(dtype), torch.randint(10, (count,), generator=rng))


def mlp(dtype: torch.dtype = torch.float32) -> nn.Module:
    return MLP(width=16).build((1, 8, 8), 10, seed=3).to(dtype)


def with_batch_norm() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))


def with_dropout() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))


def copied(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def everything(model: nn.Module) -> Tensors:
    return copied(dict(model.state_dict()))


MODELS = {"mlp": mlp, "batch norm": with_batch_norm, "dropout": with_dropout}
WORK = {
    "gradient": Training(),
    "delta": Training(shared="delta", batch_size=3, epochs=2, momentum=0.5),
    "gradient in train mode": Training(batch_norm="train", buffers="sent"),
    "delta in train mode": Training(shared="delta", batch_size=3, epochs=2, batch_norm="train", buffers="sent"),
}


def test_a_gradient_is_autograds():
    model, batch = mlp(torch.float64), pictures(5, dtype=torch.float64)
    by_hand = copy.deepcopy(model)
    total = torch.zeros((), dtype=torch.float64)
    for image, label in zip(batch.images, batch.labels, strict=True):  # the mean over examples, one by one
        total = total - functional.log_softmax(by_hand(image[None]), dim=1)[0, int(label)] / 5
    total.backward()
    found = gradient(model, batch)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for name, parameter in by_hand.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, rtol=1e-12, atol=1e-15)


def test_a_gradient_leaves_the_model_as_it_was():
    model = mlp()
    before = everything(model)
    gradient(model, pictures(4))
    assert same(everything(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_parameter_that_is_not_used_has_a_zero_gradient():
    model = mlp()
    model.register_parameter("idle", nn.Parameter(torch.ones(3)))
    assert gradient(model, pictures(2))["idle"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("work", WORK)
def test_an_update_leaves_the_parameters_as_they_were(model, work):
    model = MODELS[model]()
    before = copied(parameters_of(model))
    update = local_update(model, pictures(7), WORK[work], generator(0))
    assert same(parameters_of(model), before)
    assert {n: (t.shape, t.dtype) for n, t in update.parameters.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}
    assert not any(tensor.requires_grad for tensor in update.parameters.values())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("work", WORK)
def test_the_same_generator_gives_the_same_update(model, work, untouched_random_state):
    one, again = (local_update(MODELS[model](), pictures(7), WORK[work], generator(5)) for _ in range(2))
    assert same(one.parameters, again.parameters)
    assert same(one.buffers, again.buffers)


@pytest.mark.parametrize("work", WORK)
def test_the_batch_is_left_as_it_was(work):
    batch = pictures(7)
    local_update(mlp(), batch, WORK[work], generator(0))
    assert torch.equal(batch.images, pictures(7).images)
    assert torch.equal(batch.labels, pictures(7).labels)


def test_a_shared_gradient_is_the_gradient_to_the_last_bit():
    assert same(local_update(mlp(), pictures(6), Training(), generator(0)).parameters, gradient(mlp(), pictures(6)))


@pytest.fixture
def in_order(monkeypatch):
    """Local steps take the examples in their order: a sum in another order has other roundings."""
    monkeypatch.setattr(
        Training, "mini_batches", lambda self, examples, rng: iter(torch.arange(examples).split(self.batch_size))
    )


@pytest.mark.parametrize("rate", [0.1, 0.01, 1e-4])
def test_the_delta_of_one_step_is_the_gradient_times_the_learning_rate(rate, in_order):
    """Up to two roundings of float32: of the learning rate, and of the product."""
    training = Training(shared="delta", batch_size=6, learning_rate=rate)
    delta = local_update(mlp(), pictures(6), training, generator(0)).parameters
    found = gradient(mlp(), pictures(6))
    for name, tensor in found.items():
        exact = -rate * tensor.double()
        assert ((delta[name].double() - exact).abs() <= 2 * 2**-24 * exact.abs()).all(), name


@pytest.mark.parametrize("rate", [0.01, 1e-4])
def test_a_delta_keeps_digits_that_subtracting_weights_would_lose(rate, in_order):
    training = Training(shared="delta", batch_size=6, learning_rate=rate)
    model = LeNet().build((1, 8, 8), 10, seed=0)  # weights up to a half, small gradients
    delta = local_update(model, pictures(6), training, generator(0)).parameters
    found = gradient(model, pictures(6))

    def worst(gradients: Tensors) -> float:
        return max(float((gradients[n].double() - g.double()).norm() / g.double().norm()) for n, g in found.items())

    ours = worst({name: tensor.double() / -rate for name, tensor in delta.items()})
    usual = worst({name: ((w - rate * found[name]) - w).double() / -rate for name, w in parameters_of(model).items()})
    assert ours < 1e-7
    assert usual > 100 * ours


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("work", [{"epochs": 3}, {"steps": 5}])
@pytest.mark.parametrize("batch_size", [4, 10, 100])
def test_a_delta_is_what_pytorchs_sgd_does(momentum, work, batch_size, monkeypatch):
    model, batch = mlp(torch.float64), pictures(10, dtype=torch.float64)
    training = Training(shared="delta", batch_size=batch_size, learning_rate=0.5, momentum=momentum, **work)
    drawn: list[torch.Tensor] = []
    mini_batches = Training.mini_batches

    def recorded(self, examples, rng):
        for indices in mini_batches(self, examples, rng):
            drawn.append(indices)
            yield indices

    monkeypatch.setattr(Training, "mini_batches", recorded)
    delta = local_update(model, batch, training, generator(1)).parameters
    theirs = copy.deepcopy(model)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=momentum)
    for indices in drawn:
        optimizer.zero_grad()
        functional.cross_entropy(theirs(batch.images[indices]), batch.labels[indices]).backward()
        optimizer.step()
    assert len(drawn) == training.local_steps(10)
    for name, parameter in theirs.named_parameters():
        expected = parameter.detach() - parameters_of(model)[name]
        assert torch.allclose(delta[name], expected, rtol=1e-9, atol=1e-13), name


def test_momentum_begins_at_zero_in_every_round():
    model, training = mlp(), Training(shared="delta", batch_size=3, epochs=2, momentum=0.9)
    one = local_update(model, pictures(6), training, generator(0))
    again = local_update(model, pictures(6), training, generator(0))
    assert same(one.parameters, again.parameters)


@given(examples=st.integers(1, 30), batch_size=st.integers(1, 40), epochs=st.integers(1, 4), seed=st.integers(0, 50))
def test_mini_batches_hold_every_example_once_an_epoch(examples, batch_size, epochs, seed):
    training = Training(shared="delta", batch_size=batch_size, epochs=epochs)
    batches = list(training.mini_batches(examples, generator(seed)))
    assert len(batches) == training.local_steps(examples)
    per_epoch = len(batches) // epochs
    for epoch in range(epochs):
        own = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(torch.cat(own).tolist()) == list(range(examples))
        assert [len(batch) for batch in own[:-1]] == [batch_size] * (per_epoch - 1)
        assert len(own[-1]) == (examples - 1) % batch_size + 1, "the last is what is left over"


@given(examples=st.integers(1, 20), batch_size=st.integers(1, 25), steps=st.integers(1, 30))
def test_steps_cut_the_epochs_short_and_go_on_into_the_next(examples, batch_size, steps):
    cut = Training(shared="delta", batch_size=batch_size, steps=steps)
    batches = list(cut.mini_batches(examples, generator(0)))
    whole = Training(shared="delta", batch_size=batch_size, epochs=steps).mini_batches(examples, generator(0))
    assert len(batches) == steps == cut.local_steps(examples)
    assert all(torch.equal(a, b) for a, b in zip(batches, whole, strict=False))


def test_every_epoch_is_shuffled_anew():
    one, other = Training(shared="delta", batch_size=50, epochs=2).mini_batches(50, generator(0))
    assert not torch.equal(one, other)
    assert not torch.equal(one, torch.arange(50))


def test_a_gradient_is_one_step_of_the_whole_batch():
    assert Training(batch_size=1).local_steps(100) == 1


@pytest.mark.parametrize("work", ["gradient", "delta"])
@pytest.mark.parametrize("buffers", ["kept", "sent"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_running_statistics_move_in_train_mode_and_are_sent_if_told(work, buffers, mode):
    training = Training(shared=work, batch_size=4, batch_norm=mode, buffers=buffers)
    model = with_batch_norm()
    before = copied(buffers_of(model))
    update = local_update(model, pictures(8), training, generator(0))
    assert same(buffers_of(model), before) == (mode == "eval")
    assert list(update.buffers) == (list(before) if buffers == "sent" else [])
    assert buffers == "kept" or same(update.buffers, buffers_of(model))


def test_statistics_that_were_sent_stay_as_they_were_sent():
    model, training = with_batch_norm(), WORK["gradient in train mode"]
    update = local_update(model, pictures(8), training, generator(0))
    sent = copied(update.buffers)
    local_update(model, pictures(8, seed=1), training, generator(1))
    assert same(update.buffers, sent)


def test_running_statistics_move_by_the_batchs_own():
    model = with_batch_norm()
    features = model[0](pictures(8).images).detach()
    local_update(model, pictures(8), WORK["gradient in train mode"], generator(0))
    assert torch.allclose(buffers_of(model)["1.running_mean"], 0.1 * features.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(buffers_of(model)["1.running_var"], 0.9 + 0.1 * features.var((0, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_mode_is_the_one_that_was_ordered(mode):
    model = set_mode(with_batch_norm(), Training(batch_norm=mode))
    assert all(module.training == (mode == "train") for module in model.modules())


@pytest.mark.parametrize("work", ["gradient", "delta"])
def test_dropout_draws_from_the_generator_only(work, untouched_random_state):
    training = Training(shared=work, batch_size=7, batch_norm="train")
    one = local_update(with_dropout(), pictures(7), training, generator(0)).parameters
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = local_update(with_dropout(), pictures(7), training, generator(0)).parameters
    other = local_update(with_dropout(), pictures(7), training, generator(1)).parameters
    assert same(one, again)
    assert not same(one, other), "another generator drops other units"


def test_dropout_drops_nothing_in_eval_mode():
    model = with_dropout()
    found = local_update(model, pictures(7), Training(), generator(0)).parameters
    plain = nn.Sequential(model[0], model[1], nn.Identity(), model[3])
    assert same(found, gradient(plain, pictures(7)))


class Reads(nn.Module):
    """Says the class that stands in the first pixel, surely."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1000.0 * functional.one_hot((images[:, 0, 0, 0] * 10).round().long(), 10)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_accuracy_is_the_share_of_right_answers(count):
    labels = torch.arange(count) % 10
    images = (labels / 10).reshape(-1, 1, 1, 1)
    assert accuracy(Reads(), images, labels, Training()) == (1.0, 0.0)
    wrong = labels.clone()
    wrong[: (count + 1) // 2] = (wrong[: (count + 1) // 2] + 1) % 10
    right, loss = accuracy(Reads(), images, wrong, Training())
    assert right == pytest.approx(1 - ((count + 1) // 2) / count)
    assert loss == pytest.approx(1000 * (1 - right))


def test_accuracys_loss_is_the_mean_cross_entropy():
    model, batch = mlp(), pictures(300)
    with torch.no_grad():
        scores = model(batch.images)
    right, loss = accuracy(model, batch.images, batch.labels, Training())
    assert right == pytest.approx(float((scores.argmax(1) == batch.labels).float().mean()))
    assert loss == pytest.approx(float(functional.cross_entropy(scores, batch.labels)), rel=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("buffers", ["kept", "sent"])
@pytest.mark.parametrize("training_mode", [True, False])
def test_measuring_leaves_the_model_as_it_was(mode, buffers, training_mode, untouched_random_state):
    model = with_batch_norm().train(training_mode)
    before = everything(model)
    accuracy(model, pictures(300).images, pictures(300).labels, Training(batch_norm=mode, buffers=buffers))
    assert same(everything(model), before)
    assert all(module.training == training_mode for module in model.modules())


def test_only_kept_statistics_of_train_mode_make_the_test_batch_its_own_norm():
    model, batch = with_batch_norm(), pictures(100)
    buffers_of(model)["1.running_mean"].fill_(50.0)  # statistics of no use

    def loss(**mode) -> float:
        return accuracy(model, batch.images, batch.labels, Training(**mode))[1]

    with torch.no_grad():
        by_batch = float(functional.cross_entropy(copy.deepcopy(model).train()(batch.images), batch.labels))
        by_running = float(functional.cross_entropy(copy.deepcopy(model).eval()(batch.images), batch.labels))
    assert by_batch != pytest.approx(by_running, rel=0.01)
    assert loss(batch_norm="train", buffers="kept") == pytest.approx(by_batch, rel=1e-5)
    for mode in ({"batch_norm": "train", "buffers": "sent"}, {"batch_norm": "eval"}, {"batch_norm": "eval", "buffers": "sent"}):
        assert loss(**mode) == pytest.approx(by_running, rel=1e-5)


def test_dropout_drops_nothing_while_measuring():
    model, batch = with_dropout().train(), pictures(50)
    training = Training(batch_norm="train")
    assert accuracy(model, batch.images, batch.labels, training) == accuracy(model, batch.images, batch.labels, training)
    with torch.no_grad():
        scores = copy.deepcopy(model).eval()(batch.images)
    assert accuracy(model, batch.images, batch.labels, training)[1] == pytest.approx(
        float(functional.cross_entropy(scores, batch.labels)), rel=1e-5
    )


def test_a_picture_left_over_is_not_normalised_by_itself():
    """257 pictures in batches of 256 would leave one alone, and BatchNorm1d refuses a batch of one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    batch = pictures(257)
    accuracy(model, batch.images, batch.labels, Training(batch_norm="train"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shared": "weights"}, {"batch_size": 0}, {"batch_size": True}, {"epochs": 0}, {"steps": -1}, {"learning_rate": 0.0},
        {"learning_rate": float("nan")}, {"momentum": 1.0}, {"momentum": -0.1}, {"batch_norm": "off"}, {"buffers": True},
    ],
)  # fmt: skip
def test_wrong_work_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)
