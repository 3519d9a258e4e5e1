"""Whom a federation waits for, and what waits for the disk while it trains."""

import threading
import time
import weakref

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import server.app
from curious.simulation import InlineGrid
from learning.messages import CONFIG, record_of
from learning.tensors import Update
from server.app import RoundLog, ask_clients
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


class Silent(InlineGrid):
    """Node 1 answers nothing."""

    def send_and_receive(self, messages, *, timeout=None):
        return [reply for reply in super().send_and_receive(messages, timeout=timeout) if reply.metadata.src_node_id != 1]


def test_a_node_that_does_not_say_which_client_it_is_is_named_with_the_remedy():
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return Message(RecordDict({CONFIG: ConfigRecord({"client": context.node_id + 10})}), reply_to=message)

    assert ask_clients(InlineGrid(app, 3), 3, timeout=1) == {1: 11, 2: 12, 3: 13}
    said = r"1 nodes did not say within 1 seconds \(federation.timeout\) .*: 1; .*start them anew"
    with pytest.raises(RuntimeError, match=said):
        ask_clients(Silent(app, 3), 3, timeout=1)


def test_a_node_that_fails_to_say_which_client_it_is_is_not_called_silent():
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        raise ValueError("no partition-id")

    with pytest.raises(RuntimeError, match=r"3 nodes could not say which client they are: .*no partition-id"):
        ask_clients(InlineGrid(app, 3), 3, timeout=1)


def test_nodes_that_are_too_few_are_waited_for_so_long_and_counted():
    with pytest.raises(RuntimeError, match=r"3 nodes of 4 are there after 0.1 seconds"):
        ask_clients(InlineGrid(ClientApp(), 3), 4, timeout=0.1)
