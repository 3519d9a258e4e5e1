"""What is known of an update when its attacks are over: the examples behind it, and what the model was given of them."""

import pytest
import torch

from attacks.workers import InlinePool
from learning.tensors import Batch, generator
from learning.training import local_update
from studies.attacking import Interrogation, given, truth
from studies.config import Grants
from studies.ledger import Victim
from tests.federations import changed, run

FLIPS = {"name": "instahide", "pictures": 1}


@pytest.fixture
def flipped(tmp_path):
    """A finished run, attacked by `extreme-points`, whose clients train on pictures with flipped pixels."""
    raw = changed(
        defenses=[FLIPS], attacks=["extreme-points"], model={"width": 64}, record={"rounds": [1]}, federation={"rounds": 1}
    )
    return run(tmp_path / "run", raw)


def test_what_the_model_was_given_is_drawn_again_as_the_client_drew_it(flipped):
    for victim in flipped.observations():
        cell, observation = flipped.plan.cells[victim.cell], Interrogation(flipped, InlinePool()).observation(victim, Grants())
        true = truth(cell, victim)
        pictures = given(cell, victim, observation.model)
        assert pictures is not None
        same = pictures == true.images
        assert (same | (pictures == 1 - true.images)).all()
        assert 0.3 < same.float().mean() < 0.7
        again = local_update(observation.model, Batch(pictures, true.labels), cell.study.training, generator("any"))
        for name, tensor in observation.update.parameters.items():
            torch.testing.assert_close(again.parameters[name], tensor, rtol=1e-4, atol=1e-6)


def test_where_no_defense_changes_pictures_there_is_nothing_to_draw_again(tmp_path):
    ledger = run(tmp_path / "run", changed(attacks=["ilrg"]))
    for victim in ledger.observations():
        model = Interrogation(ledger, InlinePool()).observation(victim, Grants()).model
        assert given(ledger.plan.cells[victim.cell], victim, model) is None


def test_earlier_rounds_of_the_same_examples_come_with_an_update_where_they_are_granted(tmp_path):
    raw = changed(
        attacks=[
            {"name": "geng-images", "labels": "ilrg", "iterations": 2},
            {"name": "inverting-gradients", "iterations": 2, "continued": True, "knows_defense": True},
        ],
        defenses=[{"name": "gaussian-noise", "std": 1e-9}],
        federation={"clients_per_round": 5, "rounds": 3, "same_examples": True},
        granted={"earlier": 1},
    )
    ledger = run(tmp_path / "run", raw)
    results = list(ledger.results())
    assert {result.status for result in results} == {"ok"}
    later = [result for result in results if result.attack == "geng-images" and result.victim.round > 1]
    assert {result.reason for result in later} == {"matched at 2 models"}
    interrogation = Interrogation(ledger, InlinePool())
    for round, count, expected in ((1, 2, []), (3, 0, []), (3, 1, [2]), (3, 2, [1, 2])):
        seen = interrogation.observation(Victim(0, round, 4), Grants(earlier=count))
        assert [(one.round, one.client) for one in seen.earlier] == [(number, 4) for number in expected]
        for one in (*seen.earlier, seen):
            batch = truth(ledger.plan.cells[0], Victim(0, one.round, 4))
            assert torch.equal(batch.images, truth(ledger.plan.cells[0], Victim(0, 1, 4)).images)
            again = local_update(one.model, batch, ledger.plan.study.training, generator("any"))
            for name, tensor in one.update.parameters.items():
                torch.testing.assert_close(again.parameters[name], tensor, rtol=1e-4, atol=1e-6)


def test_certificates_are_held_against_what_the_model_was_given(flipped):
    results = list(flipped.results())
    assert {result.status for result in results} == {"ok"}
    assert sum(sum(result.scores["certified"]) for result in results) > 0
    assert sum(sum(result.scores["exact"]) for result in results) == 0
    assert sum(sum(result.scores["false_certificates"]) for result in results) == 0
