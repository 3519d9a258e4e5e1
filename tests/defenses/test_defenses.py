"""One table for all defenses, and the laws of each."""

import math
import pickle
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from defenses import DEFENSES, Defense, GaussianNoise, LaplacianNoise, MagnitudePruning, NormClipping, defended
from learning.catalogue import build
from learning.models import MLP
from learning.tensors import Batch, Tensors, Update, generator
from learning.training import Training, local_update

TABLE: dict[str, list[dict]] = {
    "gaussian-noise": [{"std": 0.1}],
    "laplacian-noise": [{"std": 0.1}],
    "norm-clipping": [{"max_norm": 0.5}],
    "magnitude-pruning": [{"keep": 0.3}, {"keep": 0.3, "scope": "whole"}],
}
EVERY = [build(DEFENSES, {"name": name, **fields}) for name, rows in TABLE.items() for fields in rows]
NO_STRENGTH = [
    GaussianNoise(std=0),
    LaplacianNoise(std=0),
    NormClipping(max_norm=1e9),
    MagnitudePruning(keep=1),
    MagnitudePruning(keep=1, scope="whole"),
]
WORK = {
    "gradient": Training(batch_norm="train", buffers="sent"),
    "delta": Training(shared="delta", batch_size=2, epochs=2, batch_norm="train", buffers="sent"),
}


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))


def pictures() -> Batch:
    rng = generator("pictures")
    return Batch(torch.rand(5, 1, 8, 8, generator=rng), torch.randint(10, (5,), generator=rng))


def honest(work: str):
    return lambda model, batch, rng: local_update(model, batch, WORK[work], rng)


def shared(chain: list[Defense], work: str = "gradient", seed: int = 0) -> Update:
    """What a client behind the chain shares."""
    return defended(chain, honest(work))(network(), pictures(), generator(seed))


def changed(chain: list[Defense], parameters: Tensors, seed: int = 0, buffers: Tensors | None = None) -> Update:
    """What the chain makes of a given update."""
    given = Update(parameters, buffers or {})
    return defended(chain, lambda model, batch, rng: given)(network(), pictures(), generator(seed))


def same(one: Tensors, other: Tensors) -> bool:
    """Equal to the last bit, the sign of zero included."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype
        and torch.equal(tensor.signbit(), other[name].signbit())
        and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )


def kinds(tensors: Tensors) -> dict:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def norm(update: Update) -> float:
    return float(update.flat().double().norm())


def test_every_defense_is_in_the_table():
    assert TABLE.keys() == DEFENSES.keys()


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("defense", EVERY, ids=repr)
class TestEveryDefense:
    def test_the_same_generator_gives_the_same_update(self, defense, work, untouched_random_state):
        one, again = shared([defense], work), shared([defense], work)
        assert same(one.parameters, again.parameters)
        assert same(one.buffers, again.buffers)

    def test_it_changes_the_update(self, defense, work):
        assert not same(shared([defense], work).parameters, shared([], work).parameters)

    def test_names_shapes_and_types_are_kept(self, defense, work):
        assert list(shared([defense], work).parameters) == list(shared([], work).parameters)
        assert kinds(shared([defense], work).parameters) == kinds(shared([], work).parameters)

    def test_buffers_are_kept(self, defense, work):
        assert shared([defense], work).buffers
        assert same(shared([defense], work).buffers, shared([], work).buffers)

    def test_the_model_and_the_batch_are_left_as_they_were(self, defense, work):
        model, batch = network(), pictures()
        defended([defense], honest(work))(model, batch, generator(0))
        plain = network()
        local_update(plain, pictures(), WORK[work], generator(0))  # moves running statistics, as any training does
        assert same(dict(model.state_dict()), dict(plain.state_dict()))
        assert torch.equal(batch.images, pictures().images)
        assert torch.equal(batch.labels, pictures().labels)

    def test_what_was_computed_is_left_as_it_was(self, defense, work):
        computed = shared([], work)
        before = {name: tensor.clone() for name, tensor in computed.parameters.items()}
        changed([defense], computed.parameters, buffers=computed.buffers)
        assert same(computed.parameters, before)

    def test_double_precision_is_kept(self, defense, work):
        doubled = {name: tensor.double() for name, tensor in shared([], work).parameters.items()}
        assert kinds(changed([defense], doubled).parameters) == kinds(doubled)


@pytest.mark.parametrize("defense", EVERY, ids=repr)
def test_defenses_are_picklable_and_hashable(defense):
    assert pickle.loads(pickle.dumps(defense)) == defense
    assert hash(pickle.loads(pickle.dumps(defense))) == hash(defense)


SPECIAL = {"a": torch.tensor([[0.0, -0.0], [1e-38, -3.0]]), "b": torch.tensor([5e-324, -0.0], dtype=torch.float64)}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("defense", NO_STRENGTH, ids=repr)
def test_strength_zero_is_the_plain_update_to_the_last_bit(defense, work):
    assert same(shared([defense], work).parameters, shared([], work).parameters)
    assert same(changed([defense], SPECIAL).parameters, SPECIAL)


@pytest.mark.parametrize("work", WORK)
def test_an_empty_chain_is_the_identity(work):
    plain = local_update(network(), pictures(), WORK[work], generator(0))
    assert same(shared([], work).parameters, plain.parameters)
    compute = honest(work)
    assert defended([], compute) is compute


# Clipping

NUMBERS = st.floats(-1e6, 1e6, width=32)
VECTORS = st.lists(NUMBERS, min_size=1, max_size=20)


@given(first=VECTORS, second=VECTORS, max_norm=st.floats(1e-6, 1e6))
def test_clipping_bounds_the_norm_and_keeps_the_direction(first, second, max_norm):
    given = {"first": torch.tensor(first), "second": torch.tensor(second)}
    before, after = Update(given), changed([NormClipping(max_norm=max_norm)], given)
    assert norm(after) <= max_norm * (1 + 1e-6), "up to the roundings of float32"
    if norm(before) <= max_norm:
        assert same(after.parameters, given)
    else:
        assert norm(after) == pytest.approx(max_norm, rel=1e-6)
        assert torch.allclose(after.flat().double() / max_norm, before.flat().double() / norm(before), rtol=1e-5, atol=1e-30)


def test_clipping_takes_the_norm_over_all_parameters():
    after = changed([NormClipping(max_norm=1.0)], {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])})
    assert torch.allclose(after.flat(), torch.tensor([0.6, 0.8]))


def test_clipping_does_not_overflow_in_half_the_range():
    """The norm of these float32 entries is beyond float32's largest number."""
    after = changed([NormClipping(max_norm=1.0)], {"a": torch.full((4,), 3e38)})
    assert torch.allclose(after.flat(), torch.full((4,), 0.5))


def test_clipping_a_zero_update_leaves_it_zero():
    assert changed([NormClipping(max_norm=1e-9)], {"a": torch.zeros(3)}).flat().tolist() == [0, 0, 0]


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("inf"), float("nan"), True])
def test_a_norm_that_bounds_nothing_is_refused(max_norm):
    with pytest.raises(ValueError, match="max_norm"):
        NormClipping(max_norm=max_norm)


# Noise

ENTRIES = 200_000


def noise(defense: Defense, seed: int = 0) -> torch.Tensor:
    """What is added to zeros, in two tensors of a hundred thousand entries."""
    zeros = {"a": torch.zeros(100, ENTRIES // 200, dtype=torch.float64), "b": torch.zeros(ENTRIES // 2, dtype=torch.float64)}
    return changed([defense], zeros, seed).flat()


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


@pytest.mark.parametrize("std", [1e-4, 0.5, 30])
@pytest.mark.parametrize(
    ("defense", "kurtosis", "error"),
    [
        (GaussianNoise, 3.0, math.sqrt(24 / ENTRIES)),
        (LaplacianNoise, 6.0, math.sqrt(1188 / ENTRIES)),  # mu8 - 4 mu4 mu6 + 4 mu4^3 - mu4^2, with moments 6, 90, 2520
    ],
)
def test_noise_has_its_mean_deviation_and_kurtosis(defense, kurtosis, error, std):
    """Within five standard errors."""
    drawn = noise(defense(std=std)) / std
    assert abs(float(drawn.mean())) < 5 / math.sqrt(ENTRIES)
    assert abs(float(drawn.std()) - 1) < 5 * math.sqrt((kurtosis - 1) / (4 * ENTRIES))
    assert abs(float((drawn**4).mean() / (drawn**2).mean() ** 2) - kurtosis) < 5 * error
    assert abs(float((drawn**3).mean())) < 5 * math.sqrt((15 if kurtosis == 3 else 90) / ENTRIES), "symmetric"


@pytest.mark.parametrize("defense", [GaussianNoise(std=2), LaplacianNoise(std=2)], ids=repr)
def test_noise_is_independent_across_entries_parameters_and_rounds(defense):
    drawn, other = noise(defense), noise(defense, seed=1)
    bound = 5 / math.sqrt(ENTRIES // 2)
    first, second = drawn.chunk(2)
    assert abs(correlation(first, second)) < bound, "two parameters"
    assert abs(correlation(drawn[:-1], drawn[1:])) < bound, "neighbours"
    assert abs(correlation(drawn, other)) < bound, "two generators"
    assert abs(correlation(drawn[:-1].abs(), drawn[1:].abs())) < bound, "their sizes"
    assert len(torch.unique(drawn)) == ENTRIES


@pytest.mark.parametrize("defense", [GaussianNoise, LaplacianNoise])
def test_noise_is_added_to_the_update_whatever_it_is(defense):
    zeros, values = {"a": torch.zeros(50)}, {"a": torch.linspace(-3, 3, 50)}
    assert torch.allclose(
        changed([defense(std=0.5)], values).flat() - values["a"], changed([defense(std=0.5)], zeros).flat(), atol=1e-6
    )


@pytest.mark.parametrize("defense", [GaussianNoise, LaplacianNoise])
def test_twice_the_deviation_is_twice_the_noise(defense):
    assert torch.allclose(noise(defense(std=2.0)), 2 * noise(defense(std=1.0)))


@pytest.mark.parametrize("defense", [GaussianNoise, LaplacianNoise])
@pytest.mark.parametrize("std", [-0.1, float("inf"), float("nan"), "0.1", True])
def test_a_deviation_that_is_none_is_refused(defense, std):
    with pytest.raises(ValueError, match="std"):
        defense(std=std)


# Pruning


def kept_of(keep: float, entries: int) -> int:
    """ceil(keep n) of the decimal fraction as it is written: 0.07 of 100 is 7."""
    return math.ceil(Fraction(str(keep)) * entries)


def check_pruned(before: torch.Tensor, after: torch.Tensor, count: int) -> None:
    """At most `count` entries stay, to the last bit, and they are the largest."""
    stays = after != 0
    zero = int((before == 0).sum())
    assert int(stays.sum()) == min(count, before.numel() - zero)
    assert torch.equal(after[stays], before[stays])
    if 0 < int(stays.sum()) < before.numel():
        assert before[stays].abs().min() >= before[~stays].abs().max()


ARRAYS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=60)  # with many ties and zeros


@given(first=ARRAYS, second=ARRAYS, percent=st.integers(1, 100))
def test_pruning_keeps_exactly_the_largest_of_every_layer(first, second, percent):
    given, keep = {"a": torch.tensor(first), "b": torch.tensor(second)}, percent / 100
    after = changed([MagnitudePruning(keep=keep)], given).parameters
    for name, before in given.items():
        check_pruned(before, after[name], kept_of(keep, before.numel()))


@given(first=ARRAYS, second=ARRAYS, percent=st.integers(1, 100))
def test_pruning_the_whole_keeps_exactly_the_largest_of_all(first, second, percent):
    given, keep = {"a": torch.tensor(first), "b": torch.tensor(second)}, percent / 100
    after = changed([MagnitudePruning(keep=keep, scope="whole")], given)
    check_pruned(Update(given).flat(), after.flat(), kept_of(keep, len(first) + len(second)))


@given(percent=st.integers(1, 100), entries=st.integers(1, 1000))
def test_among_equals_exactly_so_many_are_kept(percent, entries):
    after = changed([MagnitudePruning(keep=percent / 100)], {"a": torch.ones(entries)})
    assert int(after.flat().sum()) == kept_of(percent / 100, entries)


def test_pruning_keeps_one_entry_at_least():
    assert changed([MagnitudePruning(keep=1e-12)], {"a": torch.tensor([1.0, -3.0, 2.0])}).flat().tolist() == [0, -3, 0]


def test_the_scope_decides_which_entries_compete():
    given = {"small": torch.tensor([1.0, 2.0]), "large": torch.tensor([[30.0, -40.0]])}
    assert changed([MagnitudePruning(keep=0.5)], given).flat().tolist() == [0, 2, 0, -40]
    assert changed([MagnitudePruning(keep=0.5, scope="whole")], given).flat().tolist() == [0, 0, 30, -40]


def test_pruned_infinities_are_zero():
    given = {"a": torch.tensor([float("inf"), -float("inf"), 1.0])}
    assert sorted(changed([MagnitudePruning(keep=0.3)], given).flat().abs().tolist()) == [0, 0, float("inf")]


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, float("nan"), True])
def test_a_fraction_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="keep"):
        MagnitudePruning(keep=keep)


# Chains


def test_a_chain_applies_in_order():
    clip, noisy = NormClipping(max_norm=0.01), GaussianNoise(std=1.0)
    clipped_last, clipped_first = shared([noisy, clip]), shared([clip, noisy])
    assert norm(clipped_last) == pytest.approx(0.01, rel=1e-5)
    entries = clipped_first.flat().numel()
    assert norm(clipped_first) == pytest.approx(math.sqrt(entries), rel=5 / math.sqrt(2 * entries)), "noise has the last word"


@pytest.mark.parametrize("work", WORK)
def test_a_chain_is_its_links_one_after_the_other(work):
    links: list[Defense] = [NormClipping(max_norm=0.5), MagnitudePruning(keep=0.4), GaussianNoise(std=0.01)]
    compute = honest(work)
    by_hand = links[2].share(
        lambda m, b, r: links[1].share(lambda m, b, r: links[0].share(compute, m, b, r), m, b, r),
        network(),
        pictures(),
        generator(0),
    )
    assert same(shared(links, work).parameters, by_hand.parameters)


def test_the_first_link_is_closest_to_the_data():
    order: list[str] = []

    class Marks(Defense):
        def __init__(self, name: str):
            self.name = name

        def share(self, compute, model, batch, rng):
            order.append(f"before {self.name}")
            update = compute(model, batch, rng)
            order.append(f"after {self.name}")
            return update

    shared([Marks("first"), Marks("last")])
    assert order == ["before last", "before first", "after first", "after last"]


def test_a_chain_computes_once():
    calls: list[int] = []

    def compute(model, batch, rng):
        calls.append(1)
        return local_update(model, batch, WORK["gradient"], rng)

    defended(EVERY, compute)(network(), pictures(), generator(0))
    assert calls == [1]


def test_two_equal_noises_in_a_chain_are_independent():
    alone, twice = noise(GaussianNoise(std=1)), changed([GaussianNoise(std=1)] * 2, {"a": torch.zeros(ENTRIES)}).flat()
    assert float(twice.var()) == pytest.approx(2 * float(alone.var()), rel=0.02)


def test_a_model_without_biases_is_defended_too():
    model = MLP(width=4, bias=False).build((1, 8, 8), 10, 0)
    for defense in EVERY:
        update = defended([defense], honest("gradient"))(model, pictures(), generator(0))
        assert kinds(update.parameters) == kinds({name: p.detach() for name, p in model.named_parameters()})
