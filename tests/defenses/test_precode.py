"""PRECODE changes the model that is trained, and nothing beside it."""

import torch

from defenses import Precode, defended_update
from learning.models import MLP, bottlenecks, without_noise
from learning.models import Precode as Bottlenecked
from learning.tensors import generator
from learning.training import Training, accuracy, gradient
from studies.config import make_plan
from tests.defenses.behind import pictures, same
from tests.federations import SMALL, changed, run

DEFENSE, WORK = Precode(width=8), Training()


def built() -> torch.nn.Module:
    return DEFENSE.architecture(MLP(width=16)).build((1, 8, 8), 10, 0)


def test_the_model_of_its_cells_is_another_and_that_of_the_others_is_not():
    plan = make_plan(changed(defenses=["none", {"name": "precode", "width": 8}]))
    assert [cell.study.model for cell in plan.cells] == [MLP(width=16), Bottlenecked(network=MLP(width=16), width=8)]


def test_the_update_holds_the_bottleneck_s_parameters_and_depends_on_what_was_drawn():
    one, other = (defended_update([DEFENSE], WORK)(built(), pictures(), generator(seed)).parameters for seed in (0, 1))
    again = defended_update([DEFENSE], WORK)(built(), pictures(), generator(0)).parameters
    assert same(one, again)
    assert {"network.3.0.encoder.weight", "network.3.0.decoder.bias", "network.3.1.weight"} <= one.keys()
    assert not any(torch.allclose(one[name], other[name]) for name in one)


def test_without_the_noise_the_gradient_is_always_the_same():
    model = without_noise(built())
    assert same(gradient(model, pictures()), gradient(model, pictures()))


def test_accuracy_is_measured_without_the_noise():
    model, batch = built(), pictures()
    assert accuracy(model, batch.images, batch.labels, WORK) == accuracy(model, batch.images, batch.labels, WORK)
    assert bottlenecks(model)["network.3.0"].noisy, "and the model still draws"


def test_a_federation_trains_behind_it(tmp_path):
    ledger = run(tmp_path, {**SMALL, "defenses": [{"name": "precode", "width": 8}]})
    statuses = {result.status for result in ledger.results()}
    assert statuses == {"ok"}
