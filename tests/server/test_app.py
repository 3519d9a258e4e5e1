"""What waits for the disk while a federation trains."""

import threading
import time
import weakref

import torch

import server.app
from learning.messages import record_of
from learning.tensors import Update
from server.app import RoundLog
from studies.config import make_plan
from studies.ledger import Ledger
from tests.federations import SMALL, changed


def test_updates_that_wait_for_the_disk_are_bounded_whatever_a_round_shares(tmp_path, monkeypatch):
    plan = make_plan(SMALL)
    update = Update({"w": torch.zeros(1000)})
    monkeypatch.setattr(server.app, "WAITING_BYTES", 3 * 4000)
    alive, most, written = [], [], []

    def slowly(self: Ledger, *what: object) -> None:
        time.sleep(0.02)
        most.append(sum(one() is not None for one in alive))
        written.append(what[0])

    monkeypatch.setattr(Ledger, "record_update", slowly)
    with Ledger.create(tmp_path, plan, "", {}) as ledger, RoundLog(ledger, plan.cells[0]) as log:
        for client in range(12):
            shared = Update({"w": update.parameters["w"] + client})
            alive.append(weakref.ref(shared))
            log.on_update(1, client, shared, 3)
            del shared
    assert [victim.client for victim in written] == list(range(12))
    assert max(most) <= 3 + 1  # those that wait, and the one that asks to


def test_one_update_larger_than_all_that_may_wait_is_written_all_the_same(tmp_path, monkeypatch):
    plan, begun = make_plan(SMALL), threading.Event()
    monkeypatch.setattr(server.app, "WAITING_BYTES", 1)
    monkeypatch.setattr(Ledger, "record_update", lambda *what: begun.set())
    with Ledger.create(tmp_path, plan, "", {}) as ledger, RoundLog(ledger, plan.cells[0]) as log:
        log.on_update(1, 0, Update({"w": torch.zeros(1000)}), 3)
    assert begun.is_set()


def test_the_model_that_is_attacked_first_is_measured_however_seldom_others_are(tmp_path):
    tables = {"federation": {"rounds": 3, "evaluate_every": 100, "test_examples": 20}, "start": {"after_rounds": 4}}
    plan = make_plan(changed(**tables))
    with Ledger.create(tmp_path, plan, "", {}) as ledger:
        model = plan.study.model.build((1, 8, 8), 10, seed=0)
        with RoundLog(ledger, plan.cells[0]) as log:
            for round in range(8):
                log.on_global_model(round, record_of(model.state_dict()))
        assert [row.round for row in ledger.rounds() if row.accuracy is not None] == [0, 4, 7]
