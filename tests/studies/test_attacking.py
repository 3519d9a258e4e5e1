"""What is known of an update when its attacks are over: the examples behind it, and what the model was given of them."""

import threading
import time

import pytest
import torch

from attacks.workers import InlinePool, Job
from learning.tensors import Batch, generator
from learning.training import local_update
from studies.attacking import Interrogation, given, truth
from studies.config import Grants, named_attack
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


class Remembers(InlinePool):
    """Two workers' pool that remembers what was handed over together."""

    capacity, workers = 2, 2

    def __init__(self) -> None:
        super().__init__()
        self.handed: list[tuple[str, list[int]]] = []

    def submit(self, *jobs: Job) -> None:
        self.handed.append((jobs[0].key[1], [job.key[0].client for job in jobs]))
        super().submit(*jobs)


def test_victims_of_one_round_are_attacked_at_once_when_the_round_is_over(tmp_path):
    """Shared among the workers, whatever has a result already: the same again, and so the same bits."""
    matching = {"name": "inverting-gradients", "iterations": 2}
    raw = changed(attacks=["null", matching], defenses=["none"], federation={"clients_per_round": 5, "rounds": 1})
    ledger = run(tmp_path / "run", raw)
    assert {result.status for result in ledger.results()} == {"ok"}
    of_each = sorted(("null", [client]) for client in range(5))
    in_two = [("again", [0, 1, 2]), ("again", [3, 4])]
    ledger.add_attacks([named_attack(matching | {"as": "again"})], Grants())
    for left in (range(5), [1], [1, 4]):
        pool = Remembers()
        for client in left:
            ledger._write("DELETE FROM results WHERE attack = 'again' AND client = ?", client)
        Interrogation(ledger, pool).run(over())
        assert pool.handed == [group for group in in_two if set(group[1]) & set(left)]
    assert not ledger.pending(1)
    ledger._write("DELETE FROM rounds")
    ledger._write("DELETE FROM results")
    unfinished, pool = threading.Event(), Remembers()
    attacking = threading.Thread(target=Interrogation(ledger, pool).run, args=[unfinished])
    attacking.start()
    time.sleep(1)
    assert sorted(pool.handed) == of_each, "more updates of the round may come; what is done one by one does not wait"
    unfinished.set()
    attacking.join()
    groups = [("inverting-gradients", [0, 1, 2]), ("again", [0, 1, 2]), ("inverting-gradients", [3, 4]), ("again", [3, 4])]
    assert pool.handed[5:] == groups


def over() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_certificates_are_held_against_what_the_model_was_given(flipped):
    results = list(flipped.results())
    assert {result.status for result in results} == {"ok"}
    assert sum(sum(result.scores["certified"]) for result in results) > 0
    assert sum(sum(result.scores["exact"]) for result in results) == 0
    assert sum(sum(result.scores["false_certificates"]) for result in results) == 0
