"""Splits of the training examples over clients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.partitions import IID, PARTITIONS, Dirichlet, Partition, QuantitySkew, Shards

ALPHAS = st.floats(0, 1e6, exclude_min=True)
RULES = {
    "iid": st.just(IID()),
    "dirichlet": st.builds(Dirichlet, alpha=ALPHAS),
    "shards": st.builds(Shards, per_client=st.integers(1, 5)),
    "quantity-skew": st.builds(QuantitySkew, alpha=ALPHAS),
}


def balanced(examples: int, classes: int = 10) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(examples) % classes)


def class_counts(part: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels[part], minlength=labels.max() + 1)


def splits(rule: Partition, labels: np.ndarray, clients: int, draws: int) -> list[list[np.ndarray]]:
    return [rule.split(labels, clients, np.random.default_rng(seed)) for seed in range(draws)]


def test_every_partition_is_tested():
    assert RULES.keys() == PARTITIONS.keys()


@pytest.mark.parametrize("name", PARTITIONS)
@given(data=st.data(), clients=st.integers(1, 40), labels=st.lists(st.integers(0, 6), max_size=120), seed=st.integers(0, 99))
def test_each_example_is_on_one_client_at_most_and_no_client_is_empty(name, data, clients, labels, seed):
    rule, labels = data.draw(RULES[name]), np.array(labels, dtype=int)
    needed = clients * (rule.per_client if isinstance(rule, Shards) else 1)
    if needed > len(labels):
        with pytest.raises(ValueError, match="lower"):
            rule.split(labels, clients, np.random.default_rng(seed))
        return
    parts = rule.split(labels, clients, np.random.default_rng(seed))
    everything = np.concatenate(parts)
    assert len(parts) == clients
    assert min(len(part) for part in parts) >= 1
    assert len(np.unique(everything)) == len(everything)
    assert everything.min() >= 0
    assert everything.max() < len(labels)
    assert all((np.diff(part) > 0).all() for part in parts), "sorted"


@pytest.mark.parametrize("name", PARTITIONS)
@given(data=st.data(), clients=st.integers(1, 10), seed=st.integers(0, 2**31))
def test_the_same_seed_gives_the_same_split(name, data, clients, seed):
    rule, labels = data.draw(RULES[name]), balanced(60)
    one, again = (rule.split(labels, clients, np.random.default_rng(seed)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))


@pytest.mark.parametrize("name", PARTITIONS)
def test_another_seed_gives_another_split(name):
    one, other = splits(PARTITIONS[name](), balanced(200), 4, draws=2)
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", PARTITIONS)
def test_labels_are_left_as_they_were(name):
    labels = balanced(100)
    PARTITIONS[name]().split(labels, 5, np.random.default_rng(0))
    assert np.array_equal(labels, balanced(100))


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("clients", [11, 2**31 - 1])
def test_more_clients_than_examples_are_refused_at_once(name, clients):
    with pytest.raises(ValueError, match=rf"{clients} clients cannot share 10 training examples: lower federation\.clients"):
        PARTITIONS[name]().split(balanced(10), clients, np.random.default_rng(0))


def test_as_many_clients_as_examples_get_one_each():
    for rule in (IID(), Dirichlet(alpha=0.01), Shards(per_client=1), QuantitySkew(alpha=0.01)):
        assert [len(part) for part in rule.split(balanced(10), 10, np.random.default_rng(0))] == [1] * 10


@pytest.mark.parametrize("name", ["iid", "dirichlet", "shards"])
@given(clients=st.integers(1, 30), examples=st.integers(60, 150))
def test_no_example_is_lost(name, clients, examples):
    parts = PARTITIONS[name]().split(balanced(examples), clients, np.random.default_rng(0))
    assert sum(len(part) for part in parts) == examples


@given(st.integers(1, 50), st.integers(50, 300))
def test_iid_is_even_to_one_example(clients, examples):
    sizes = [len(part) for part in IID().split(balanced(examples), clients, np.random.default_rng(0))]
    assert max(sizes) - min(sizes) <= 1


def test_iid_keeps_the_mix_of_classes():
    labels = balanced(20_000)
    for part in IID().split(labels, 5, np.random.default_rng(0)):
        counts = class_counts(part, labels)
        assert (np.abs(counts - 400) < 5 * np.sqrt(400 * 0.9)).all(), "five standard deviations of a binomial"


@pytest.mark.parametrize("per_client", [1, 2, 3])
def test_shards_give_few_classes_a_client(per_client):
    labels = balanced(1000)
    for parts in splits(Shards(per_client=per_client), labels, 10, draws=5):
        held = [np.count_nonzero(class_counts(part, labels)) for part in parts]
        assert max(held) <= 2 * per_client, "a shard of 1000 / 10 / per_client examples touches two classes at most"
        assert min(held) < 10


def test_shards_hold_whole_runs_of_the_sorted_labels():
    labels = np.repeat(np.arange(10), 20)  # with one shard a class, a shard is a class
    for part in Shards(per_client=2).split(labels, 5, np.random.default_rng(0)):
        assert sorted(class_counts(part, labels).tolist()) == [0] * 8 + [20] * 2


def test_shards_draw_from_all_of_a_class():
    """Which of a class's examples share a shard depends on the seed, not on the order of the data set."""
    labels = np.zeros(100, dtype=int)
    assert any(np.ptp(part) > 60 for part in Shards(per_client=1).split(labels, 4, np.random.default_rng(0)))


def test_more_shards_than_examples_are_refused():
    with pytest.raises(
        ValueError, match="per_client = 200 shards each need more than 1000 training examples: lower per_client"
    ):
        Shards(per_client=200).split(balanced(1000), 10, np.random.default_rng(0))


def largest_share(rule: Partition, draws: int) -> float:
    """Mean over clients and draws of the largest class's share of a client's examples."""
    labels = balanced(2000)
    counts = [class_counts(part, labels) for parts in splits(rule, labels, 10, draws) for part in parts]
    return float(np.mean([count.max() / count.sum() for count in counts]))


def test_a_small_alpha_is_skewed_and_a_large_one_even():
    small, middle, large = (largest_share(Dirichlet(alpha=alpha), draws=5) for alpha in (0.05, 1, 1e6))
    assert small > 0.6
    assert 0.2 < middle < 0.5
    assert large < 0.11


def test_dirichlets_shares_have_their_variance():
    """Var = (1/k)(1 - 1/k) / (k alpha + 1) of each of k clients' share of a class."""
    labels, clients, alpha = np.zeros(5000, dtype=int), 5, 0.5
    shares = np.array([[len(part) / 5000 for part in parts] for parts in splits(Dirichlet(alpha=alpha), labels, clients, 600)])
    expected = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert shares.mean() == pytest.approx(1 / clients)
    assert shares.var() == pytest.approx(expected, rel=0.1)  # 600 draws: about four standard errors


def test_quantity_skews_amounts_have_their_variance():
    labels, clients, alpha = balanced(5000), 5, 0.5
    parts = splits(QuantitySkew(alpha=alpha), labels, clients, 600)
    shares = np.array([[len(part) / 5000 for part in split] for split in parts])
    assert shares.var() == pytest.approx((1 / clients) * (1 - 1 / clients) / (clients * alpha + 1), rel=0.1)


def test_quantity_skew_keeps_the_mix_of_classes():
    labels = balanced(20_000)
    sizes = []
    for part in QuantitySkew(alpha=0.5).split(labels, 6, np.random.default_rng(1)):
        sizes.append(len(part))
        deviation = np.sqrt(len(part) * 0.1 * 0.9) + 1
        assert (np.abs(class_counts(part, labels) - len(part) / 10) < 5 * deviation).all()
    assert max(sizes) > 3 * min(sizes), "amounts are skewed"


@pytest.mark.parametrize("rule", [Dirichlet, QuantitySkew])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf"), 1e7])
def test_an_alpha_without_a_distribution_is_refused(rule, alpha):
    with pytest.raises(ValueError, match="alpha"):
        rule(alpha=alpha)
