"""What a client shares: behind every defense of the catalogue, for a gradient and for local epochs."""

from typing import Any

import pytest
import torch

from clients.app import share
from defenses import DEFENSES
from learning.data import client_batch, pictures_of
from learning.tensors import generator, parameters_of
from studies.config import Cell, make_plan
from tests.defenses.test_defenses import TABLE

CHAINS = {f"{name} {index}": [{"name": name, **row}] for name, rows in TABLE.items() for index, row in enumerate(rows)}
CHAINS["per example, then pruned"] = [
    {"name": "dp-sgd", "max_norm": 1.0, "noise_multiplier": 0.5},
    {"name": "magnitude-pruning", "keep": 0.5},
]
WORK: dict[str, dict[str, Any]] = {
    "gradient": {"shared": "gradient", "batch_size": 4},
    "delta": {"shared": "delta", "batch_size": 2, "epochs": 2, "learning_rate": 0.05},
}


def cells(chain: list[dict[str, Any]], work: dict[str, Any]) -> tuple[Cell, Cell]:
    """The same client without a defense, and with it."""
    raw: dict[str, Any] = {"name": "a", "data": "digits", "model": {"name": "mlp", "width": 8}, "training": work}
    raw |= {"federation": {"clients": 4, "examples_per_round": 4}, "defenses": ["none", {"as": "it", "chain": chain}]}
    bare, defended = make_plan(raw).cells
    return bare, defended


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_every_defense_stands_between_a_client_and_its_update(chain, work):
    bare, defended = cells([{**link, "layer": "network.3"} if "layer" in link else link for link in chain], work)
    pictures = pictures_of(bare.study.data)
    model = defended.study.model  # the bare federation's, unless the defense is a part of it
    sent = parameters_of(model.build(pictures.image_shape, pictures.classes, seed=1))
    batch = client_batch(bare.study.client_data, 0, 1, 0)
    shared, again = (share(defended, 1, sent, batch, generator("client")) for _ in range(2))
    assert shared.parameters.keys() == sent.keys()
    if model == bare.study.model:
        assert share(bare, 1, sent, batch, generator("client")).parameters.keys() == sent.keys()
    for name, tensor in shared.parameters.items():
        assert tensor.shape == sent[name].shape
        assert tensor.isfinite().all()
        assert torch.equal(tensor, again.parameters[name])


def test_every_defense_is_among_them():
    assert {link["name"] for chain in CHAINS.values() for link in chain} == DEFENSES.keys()


def test_a_chain_in_which_one_would_skip_another_is_refused_when_it_is_read():
    chain = [{"name": "label-smoothing", "smoothing": 0.1}, {"name": "dp-sgd", "max_norm": 1.0, "noise_multiplier": 0.5}]
    with pytest.raises(ValueError, match=r"defenses\[1\] \('it'\): .* put it first in the chain"):
        cells(chain, WORK["gradient"])
