"""One table for all defenses, and the laws of chains."""

import math
import pickle

import pytest
import torch

from defenses import (
    DEFENSES,
    DPSGD,
    Defense,
    GaussianNoise,
    InstaHide,
    LabelSmoothing,
    LaplacianNoise,
    MagnitudePruning,
    Mixup,
    NormClipping,
    Outpost,
    Precode,
    RandomPruning,
    Soteria,
    TransformedPictures,
    around,
    defended,
    defended_update,
)
from defenses.transformations import Transform
from learning.catalogue import build
from learning.models import MLP
from learning.tensors import generator
from learning.training import local_update
from tests.defenses.behind import WORK, changed, honest, kinds, network, norm, pictures, same, shared

TABLE: dict[str, list[dict]] = {
    "gaussian-noise": [{"std": 0.1}],
    "laplacian-noise": [{"std": 0.1}],
    "norm-clipping": [{"max_norm": 0.05}],
    "magnitude-pruning": [{"keep": 0.3}, {"keep": 0.3, "scope": "whole"}],
    "random-pruning": [{"keep": 0.3}, {"keep": 0.3, "scope": "whole", "unbiased": True}],
    "quantization": [{"bits": 3}, {"bits": 8, "rounding": "nearest"}],
    "ternary": [{}, {"clip": 0.0}],
    "sign": [{}, {"scale": "one"}],
    "dp-sgd": [{"max_norm": 0.5, "noise_multiplier": 0.1}],
    "label-smoothing": [{"smoothing": 0.1}],
    "mixup": [{"alpha": 1.0}],
    "instahide": [{}, {"pictures": 1}, {"pictures": 2, "largest": 0.8, "flips": False}],
    "transformed-pictures": [{}, {"policy": ["invert", {"name": "rotate", "strength": 0.3}]}],
    "soteria": [{"layer": "4", "prune": 0.2}],
    "outpost": [{"noise": 0.5}],
    "precode": [{}],
}
EVERY = [build(DEFENSES, {"name": name, **fields}) for name, rows in TABLE.items() for fields in rows]
WRAPPING = [defense for defense in EVERY if not defense.computes]
CHANGING = [defense for defense in EVERY if not isinstance(defense, Precode)]  # which is in the model: see its own tests
# Those of the step move running statistics otherwise than an undefended client, or want none at all.
AT_WORK = [(d, work) for d in CHANGING for work in WORK if d.wraps == "round" or "eval" in work]
NO_STRENGTH = [
    GaussianNoise(std=0),
    LaplacianNoise(std=0),
    NormClipping(max_norm=1e9),
    MagnitudePruning(keep=1),
    MagnitudePruning(keep=1, scope="whole"),
    RandomPruning(keep=1, unbiased=True),
    RandomPruning(keep=1, scope="whole", unbiased=True),
    LabelSmoothing(smoothing=0),
    Mixup(alpha=0),
    InstaHide(pictures=1, flips=False),
    TransformedPictures(policy=()),
    Soteria(layer="4", prune=0),
    Outpost(noise=0, prune=0),
    TransformedPictures(policy=(Transform(name="rotate", strength=0),)),
]


def test_every_defense_is_in_the_table():
    assert TABLE.keys() == DEFENSES.keys()


@pytest.mark.parametrize(("defense", "work"), AT_WORK, ids=repr)
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
        defended_update([defense], WORK[work])(model, batch, generator(0))
        plain = network()
        local_update(plain, pictures(), WORK[work], generator(0))  # moves running statistics, as any training does
        assert same(dict(model.state_dict()), dict(plain.state_dict()))
        assert torch.equal(batch.images, pictures().images)
        assert torch.equal(batch.labels, pictures().labels)


@pytest.mark.parametrize("defense", WRAPPING, ids=repr)
def test_what_was_computed_is_left_as_it_was(defense):
    computed = shared([], "gradient in eval mode")
    before = {name: tensor.clone() for name, tensor in computed.parameters.items()}
    changed([defense], computed.parameters, buffers=computed.buffers)
    assert same(computed.parameters, before)


@pytest.mark.parametrize("defense", WRAPPING, ids=repr)
def test_double_precision_is_kept(defense):
    doubled = {name: tensor.double() for name, tensor in shared([], "gradient in eval mode").parameters.items()}
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

    around(WRAPPING, compute)(network(), pictures(), generator(0))
    assert calls == [1]


def test_a_model_without_biases_is_defended_too():
    model = MLP(width=4, bias=False).build((1, 8, 8), 10, 0)
    others = [defense for defense in EVERY if not isinstance(defense, Soteria)]  # which names a layer of another model
    for defense in [*others, Soteria(layer="network.3", prune=0.5)]:
        update = defended_update([defense], WORK["gradient in eval mode"])(model, pictures(), generator(0))
        assert kinds(update.parameters) == kinds({name: p.detach() for name, p in model.named_parameters()})


def test_a_round_has_no_place_for_defenses_of_the_step():
    with pytest.raises(ValueError, match=r"Mixup.*defended_update"):
        defended([GaussianNoise(std=1), Mixup(alpha=1)], honest("gradient"))


def test_nothing_of_the_step_stands_before_one_that_computes_on_its_own():
    private, smooth = DPSGD(max_norm=1, noise_multiplier=0), LabelSmoothing(smoothing=0.5)
    with pytest.raises(ValueError, match="put it first in the chain"):
        defended_update([smooth, private], WORK["gradient in eval mode"])
    found = shared([GaussianNoise(std=0), private, smooth], "gradient in eval mode")
    alone = shared([private], "gradient in eval mode")
    assert not torch.allclose(found.flat(), alone.flat()), "after it, smoothing changes the labels of every example"


@pytest.mark.parametrize("work", ["delta", "delta in eval mode"])
def test_defenses_of_the_step_are_put_around_every_local_step(work):
    sizes: list[int] = []

    class Counts(Defense):
        wraps = "step"

        def share(self, compute, model, batch, rng):
            sizes.append(len(batch))
            return compute(model, batch, rng)

    assert same(shared([Counts()], work).parameters, shared([], work).parameters)
    assert sizes == [2, 2, 1, 2, 2, 1], "two epochs of five examples, two a step"


def test_draws_of_the_step_leave_the_mini_batches_as_they_are():
    seen: dict[str, list] = {"alone": [], "beside noise": []}

    class Sees(Defense):
        wraps = "step"

        def __init__(self, name: str, draws: bool):
            self.name, self.draws = name, draws

        def share(self, compute, model, batch, rng):
            seen[self.name].append(batch.labels.tolist())
            if self.draws:
                torch.rand(3, generator=rng)
            return compute(model, batch, rng)

    shared([Sees("alone", False)], "delta")
    shared([Sees("beside noise", True)], "delta")
    assert seen["alone"] == seen["beside noise"]
