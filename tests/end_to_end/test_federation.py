"""A whole study in this process: what arrives, what fails, and what a kill at any point leaves."""

import random

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from PIL import Image

import clients.app
from attacks.matching.distances import squared_distance
from learning.data import client_batch, pictures_of
from learning.messages import ARRAYS, CONFIG, EXAMPLES, METRICS, record_of, tensors_of
from learning.tensors import generator, load_state, parameters_of
from learning.training import gradient, set_mode
from studies.attacking import Interrogation, truth
from studies.config import Grants, make_plan
from studies.ledger import Ledger, Victim
from studies.preparation import initial_model
from tests.federations import SMALL, changed, run

MODELS = {
    "mlp": {},
    "lenet": {},
    "lenet relu": {"activation": "relu"},
    "convnet": {"width": 8},
    "vgg16": {"hidden": 32, "dropout": 0.0},
    "resnet18": {},
    "resnet50": {},
}


@pytest.fixture(scope="module")
def colour_folder(tmp_path_factory):
    """Three classes of four small colour pictures."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in "abc":
        (root / name).mkdir()
        for index in range(4):
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(root / name / f"{index}.png")
    return root


def over_the_wire(app: ClientApp) -> ClientApp:
    """The client app behind messages that really are turned into bytes and back, both ways."""

    def carried(message: Message) -> Message:
        read = ProtoMessage()
        read.ParseFromString(message_to_proto(message).SerializeToString())
        return message_from_proto(read)

    def call(message: Message, context) -> Message:
        message.metadata.__dict__.setdefault("_message_id", "1")
        return carried(app(carried(message), context))

    return call  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_that_reaches_an_attack_is_the_clients(tmp_path, colour_folder, name, batch_norm):
    raw = changed(
        data={"name": "image-folder", "root": str(colour_folder), "size": 12},
        model={"name": name.split()[0], **MODELS[name]},
        training={"batch_size": 2, "batch_norm": batch_norm, "buffers": "sent"},
        federation={"clients": 2, "clients_per_round": 1, "rounds": 1},
        granted={"public": 0},
        defenses=["none"],
        attacks=["null"],
    )
    with run(tmp_path / "run", raw, over_the_wire(clients.app.app)) as ledger:
        assert not ledger.failures()
        (victim,) = ledger.observations()
        seen = Interrogation(ledger, pool=None).observation(victim, Grants())  # pyright: ignore[reportArgumentType]
        cell = ledger.plan.cells[0]
        model = cell.study.model.build(seen.image_shape, seen.classes, seed=5)
        load_state(model, ledger.model(0, 1))
        own = gradient(set_mode(model, cell.study.training), truth(cell, victim))
        shared = seen.gradient()
        assert shared.keys() == own.keys() == dict(model.named_parameters()).keys()
        for parameter, tensor in own.items():
            bound = 1e-5 * tensor.abs().max().item()  # the client has its own machine and threads: rounding may differ
            torch.testing.assert_close(shared[parameter], tensor, rtol=0, atol=bound)
        assert squared_distance(shared, own) < 1e-10 * squared_distance(own, {n: torch.zeros_like(t) for n, t in own.items()})
        assert seen.examples == 2
        assert seen.model.training == (batch_norm == "train")


def faulty(fault: str) -> ClientApp:
    """A client app whose client 1 always does the same wrong thing."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        record = ConfigRecord({"client": int(context.node_config["partition-id"])})
        return Message(RecordDict({CONFIG: record}), reply_to=message)

    @app.train()
    def train(message: Message, context) -> Message:
        reply = clients.app.train(message, context)
        if int(context.node_config["partition-id"]) != 1:
            return reply
        if fault == "raises":
            raise RuntimeError("the disk is full")
        tensors = tensors_of(reply.content.array_records[ARRAYS])
        first = next(iter(tensors))
        if fault == "nan":
            tensors[first].view(-1)[3] = float("nan")
        elif fault == "shape":
            tensors[first] = tensors[first][:-1]
        elif fault == "name":
            tensors["no such parameter"] = tensors.pop(first)
        content = RecordDict({ARRAYS: record_of(tensors), METRICS: MetricRecord({EXAMPLES: 0 if fault == "examples" else 3})})
        return Message(content, reply_to=message)

    return app


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "the disk is full"),
        ("nan", "not finite"),
        ("shape", "shape"),
        ("name", "no such parameter"),
        ("examples", "num-examples = 0"),
    ],
)
def test_a_faulty_client_is_recorded_and_the_rest_goes_on(tmp_path, fault, said):
    raw = changed(federation={"clients": 4, "clients_per_round": 4}, attacks=["ilrg"], defenses=["none"])
    with run(tmp_path / "faulty", raw, faulty(fault)) as ledger:
        failures = ledger.failures()
        assert [failure.victim for failure in failures] == [Victim(0, 1, 1), Victim(0, 2, 1)]
        assert all(said in failure.reason for failure in failures)
        assert len(ledger.observations()) == len(ledger.results()) == 6
        assert ledger.counts()["failed clients"] == 2
        final = ledger.model(0, 3)
    assert all(torch.isfinite(tensor).all() for tensor in final.values())


def test_a_round_in_which_every_client_fails_leaves_the_model_as_it_was(tmp_path):
    raw = changed(federation={"clients": 2, "clients_per_round": 1, "rounds": 6}, attacks=["null"], defenses=["none"])
    with run(tmp_path / "run", raw, faulty("raises")) as ledger:
        for failure in ledger.failures():
            before, after = ledger.model(0, failure.victim.round), ledger.model(0, failure.victim.round + 1)
            assert all(torch.equal(before[name], after[name]) for name in before)
        assert 0 < len(ledger.failures()) < 6


def test_two_runs_have_the_same_ledger(tmp_path):
    with run(tmp_path / "a", SMALL) as first, run(tmp_path / "b", SMALL) as second:
        assert first.digest() == second.digest()
        assert first.counts() == second.counts()
        assert first.counts()["results"] == 2 * 2 * 3 * 4


def test_another_seed_has_another_ledger(tmp_path):
    with run(tmp_path / "a", SMALL) as first, run(tmp_path / "b", changed(seeds=[1])) as second:
        assert first.digest() != second.digest()


def test_every_defense_has_the_same_victims(tmp_path):
    with run(tmp_path / "run", SMALL) as ledger:
        victims = {cell: [(v.round, v.client) for v in ledger.observations() if v.cell == cell] for cell in (0, 1)}
        assert victims[0] == victims[1]
        assert len(victims[0]) == 6
        recorded = [(round, client) for round, client in ledger.plan.cells[0].recorded()]
        assert victims[0] == recorded


def test_clients_of_a_round_differ_between_rounds_and_seeds():
    plan = make_plan(changed(federation={"clients": 50, "clients_per_round": 5}, seeds=[0, 1]))
    chosen = {(cell.seed, round): tuple(cell.chosen(round)) for cell in plan.cells for round in range(1, 10)}
    assert len(set(chosen.values())) == len(chosen)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the project catches it."""


WRITES = ["record_model", "record_update", "record_failure", "finish_round", "record_result", "forget_model"]


@pytest.mark.parametrize(("strategy", "most"), [("fedavg", 100), ("fedadam", 5)])  # fedadam begins a cell anew each time
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_at_any_write_goes_on_to_the_same_ledger(tmp_path, monkeypatch, seed, strategy, most):
    raw = changed(
        federation={"strategy": strategy, "rounds": 3},
        record={"rounds": [2]},
        attacks=["ilrg", "null"],
    )
    with run(tmp_path / "whole", raw) as whole:
        expected, counts = whole.digest(), whole.counts()
    draw, kills = random.Random(seed), 0
    for _ in range(100):
        with monkeypatch.context() as patch:
            left = [draw.randrange(1, 12) if kills < most else 0]

            def killing(method, left=left):
                def write(*arguments, **named):
                    left[0] -= 1
                    before = draw.random() < 0.5
                    if left[0] == 0 and before:
                        raise Killed
                    method(*arguments, **named)
                    if left[0] == 0:
                        raise Killed

                return write

            for name in WRITES:
                patch.setattr(Ledger, name, killing(getattr(Ledger, name)))
            try:
                run(tmp_path / "killed", raw).close()
                break
            except Killed:
                kills += 1
                for ledger in list(OPEN):
                    ledger.close()
    with Ledger(tmp_path / "killed", write=False) as resumed:
        assert resumed.counts() == counts
        assert resumed.digest() == expected
    assert kills >= 2


OPEN: list[Ledger] = []


@pytest.fixture(autouse=True)
def _remember_open_ledgers(monkeypatch):
    """A killed process lets go of its locks; a test's process has to do it itself."""
    OPEN.clear()
    opened = Ledger.__init__

    def remember(self, *arguments, **named):
        opened(self, *arguments, **named)
        OPEN.append(self)

    monkeypatch.setattr(Ledger, "__init__", remember)


def test_rounds_before_the_start_are_trained_and_not_recorded(tmp_path):
    raw = changed(start={"after_rounds": 3}, record={"rounds": [1]}, attacks=["null"], defenses=["none"])
    with run(tmp_path / "run", raw) as ledger:
        assert {victim.round for victim in ledger.observations()} == {4}
        assert [row.round for row in ledger.rounds()] == [0, 1, 2, 3, 4, 5]


def test_only_the_clients_that_the_study_names_are_recorded(tmp_path):
    raw = changed(record={"clients": [0, 2]}, federation={"clients_per_round": 5}, attacks=["null"])
    with run(tmp_path / "run", raw) as ledger:
        assert {victim.client for victim in ledger.observations()} == {0, 2}


@pytest.mark.parametrize("shared", ["gradient", "delta"])
def test_behind_secure_aggregation_an_attack_gets_the_sum_and_the_model_is_trained_alike(tmp_path, shared):
    training = {"batch_size": 3, "shared": shared}
    federation = {"clients_per_round": 3, "rounds": 2, "examples_per_round": 0 if shared == "gradient" else 6}
    raw = changed(training=training, federation=federation, attacks=["ilrg", "mean"], defenses=["none"])
    secure = changed(
        training=training, federation={**federation, "secure_aggregation": True}, attacks=["ilrg", "mean"], defenses=["none"]
    )
    with run(tmp_path / "seen", raw) as seen, run(tmp_path / "summed", secure) as summed:
        for round in (1, 2, 3):
            mine, other = seen.model(0, round), summed.model(0, round)
            assert all(torch.equal(mine[name], other[name]) for name in mine)
        cell = summed.plan.cells[0]
        each = 3 if shared == "gradient" else 6
        first = [Victim(0, 1, client) for client in cell.chosen(1)]
        assert [victim.client for victim in summed.observations()] == [cell.chosen(round)[0] for round in (1, 2)]
        assert summed.examples(first[0]) == 3 * each
        updates = [seen.update(victim).parameters for victim in first]
        for name, tensor in summed.update(first[0]).parameters.items():
            torch.testing.assert_close(tensor, sum(update[name] for update in updates) / 3)
        batch = truth(cell, first[0])
        assert len(batch) == 3 * each
        assert torch.equal(batch.images[each : 2 * each], truth(seen.plan.cells[0], first[1]).images)
        observation = Interrogation(summed, pool=None).observation(first[0], Grants())  # pyright: ignore[reportArgumentType]
        if shared == "gradient":
            model = cell.study.model.build(observation.image_shape, observation.classes, seed=5)
            load_state(model, summed.model(0, 1))
            own = gradient(set_mode(model, cell.study.training), batch)
            assert squared_distance(observation.gradient(), own) < 1e-10 * squared_distance(
                own, {n: 0 * t for n, t in own.items()}
            )
        assert observation.steps == (1 if shared == "gradient" else 2)
        assert len(summed.results()) == 4


def test_behind_secure_aggregation_nothing_is_seen_of_a_round_in_which_a_client_fails(tmp_path):
    federation = {"clients": 4, "clients_per_round": 3, "rounds": 6, "secure_aggregation": True}
    with run(tmp_path / "run", changed(federation=federation, attacks=["null"], defenses=["none"]), faulty("nan")) as ledger:
        failed = {failure.victim.round for failure in ledger.failures()}
        assert 0 < len(failed) < 6
        assert {victim.round for victim in ledger.observations()} == set(range(1, 7)) - failed


def test_a_federation_learns(tmp_path):
    raw = changed(
        model={"width": 32},
        training={"shared": "delta", "batch_size": 16, "epochs": 2, "learning_rate": 0.1},
        federation={"clients": 5, "clients_per_round": 5, "rounds": 8},
        attacks=[],
        defenses=["none"],
    )
    with run(tmp_path / "run", raw) as ledger:
        accuracy = [row.accuracy for row in ledger.rounds()]
        assert accuracy[0] < 0.3
        assert accuracy[-1] > 0.8


def test_batch_statistics_that_are_sent_are_aggregated_and_kept_ones_stay(tmp_path, colour_folder):
    for buffers in ("sent", "kept"):
        raw = changed(
            data={"name": "image-folder", "root": str(colour_folder), "size": 12},
            model={"name": "convnet", "width": 4},
            training={"batch_size": 2, "batch_norm": "train", "buffers": buffers},
            federation={"clients": 2, "clients_per_round": 2, "rounds": 1},
            granted={"public": 0},
            attacks=["null"],
            defenses=["none"],
        )
        with run(tmp_path / buffers, raw) as ledger:
            before, after = ledger.model(0, 1), ledger.model(0, 2)
            means = [name for name in before if name.endswith("running_mean")]
            assert means
            same = [torch.equal(before[name], after[name]) for name in means]
            assert all(same) if buffers == "kept" else not any(same)
            victim = next(iter(ledger.observations()))
            assert (len(ledger.update(victim).buffers) > 0) == (buffers == "sent")


def test_the_rounds_before_the_start_are_trained_as_its_own_table_says(tmp_path, colour_folder):
    """In train mode and with statistics that move, although the attacked rounds are in eval mode and leave them."""
    first = {"after_rounds": 1, "training": {"batch_size": 4, "learning_rate": 0.02, "batch_norm": "train", "buffers": "sent"}}
    raw = changed(
        data={"name": "image-folder", "root": str(colour_folder), "size": 12},
        model={"name": "convnet", "width": 4},
        training={"batch_size": 2, "learning_rate": 0.3},
        federation={"clients": 2, "clients_per_round": 2, "rounds": 1},
        start=first,
        granted={"public": 0},
        attacks=["null"],
        defenses=["none"],
    )
    with run(tmp_path / "run", raw) as ledger:
        cell = ledger.plan.cells[0]
        assert [len(cell.batch(round, 0)) for round in (1, 2)] == [4, 2]
        assert [ledger.examples(victim) for victim in ledger.observations()] == [2, 2]
        # the first round is one step of 4 pictures a client at the rate .02, with the statistics of those pictures
        model = initial_model(cell).train()
        sent = parameters_of(model)
        steps = [gradient(model, cell.batch(1, client)) for client in range(2)]
        reached = ledger.model(0, 2)
        for name, weight in sent.items():
            assert torch.allclose(reached[name], weight - 0.02 * (steps[0][name] + steps[1][name]) / 2, atol=1e-6)
        means = [name for name in reached if name.endswith("running_mean")]
        assert all(reached[name].abs().max() > 0 for name in means)
        # and the second leaves the statistics where they were
        assert all(torch.equal(reached[name], ledger.model(0, 3)[name]) for name in means)


def test_the_batch_is_the_one_that_the_client_drew(tmp_path):
    with run(tmp_path / "run", changed(attacks=["null"])) as ledger:
        for victim in ledger.observations():
            cell = ledger.plan.cells[victim.cell]
            again = client_batch(cell.study.client_data, victim.client, victim.round, cell.seed)
            assert torch.equal(truth(cell, victim).images, again.images)
            assert len(again) == ledger.examples(victim)
            assert again.images.shape[1:] == pictures_of(cell.study.data).image_shape
    assert generator("a").initial_seed() != generator("b").initial_seed()
