"""The curious strategy changes nothing; the update strategy makes updates into the weights that they stand for."""

import random
from unittest import mock

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedTrimmedAvg, Krum, Strategy

import clients.app
from curious.simulation import InlineGrid
from learning.data import client_batch
from learning.messages import ARRAYS, EXAMPLES, METRICS, record_of, tensors_of
from learning.models import MLP
from learning.tensors import Tensors, Update, generator, load_state, parameters_of
from learning.training import local_update
from server.app import STRATEGIES, inner_strategy
from server.strategy import BadReply, CuriousStrategy, UpdateStrategy, read_reply
from studies.config import make_plan
from tests.federations import SMALL, changed

MODEL = MLP(width=8)
NODES = {node: node - 1 for node in range(1, 7)}  # as the inline grid numbers them


class Watcher:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.sent: dict[int, Tensors] = {}
        self.updates: dict[tuple[int, int], Update] = {}
        self.failures: dict[tuple[int, int], str] = {}

    def on_sent(self, round: int, sent: Tensors) -> None:
        self.sent[round] = sent

    def on_update(self, round: int, client: int, update: Update, examples: int) -> None:
        self.updates[round, client] = update

    def on_failure(self, round: int, client: int, reason: str) -> None:
        self.failures[round, client] = reason


def weight_app() -> ClientApp:
    """A client that sends new weights, as Flower's examples do."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        sent = tensors_of(message.content.array_records[ARRAYS])
        client = int(context.node_config["partition-id"])
        rng = generator("weights", client)
        moved = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=rng) for name, tensor in sent.items()}
        metrics = MetricRecord({EXAMPLES: 3 + client})
        return Message(RecordDict({ARRAYS: record_of(moved), METRICS: metrics}), reply_to=message)

    return app


def trained(strategy: Strategy, app: ClientApp, rounds: int = 3, config=None) -> Tensors:
    model = MODEL.build((1, 8, 8), 10, seed=1)
    own = random.Random(0)  # Flower draws nodes from the global one, from which the tests' type checks draw too
    with mock.patch("flwr.serverapp.strategy.strategy_utils.random", own):
        result = strategy.start(
            InlineGrid(app, len(NODES)), record_of(parameters_of(model)), num_rounds=rounds, train_config=config
        )
    return tensors_of(result.arrays)


@pytest.mark.parametrize("kind", [FedAvg, FedAdam, FedMedian, FedTrimmedAvg, Krum])
def test_a_wrapped_strategy_of_weights_trains_the_same_bits(kind):
    watcher = Watcher()
    alone = trained(kind(fraction_train=0.5, fraction_evaluate=0.0), weight_app())
    wrapped = trained(CuriousStrategy(kind(fraction_train=0.5, fraction_evaluate=0.0), watcher, NODES), weight_app())
    assert alone.keys() == wrapped.keys()
    assert all(torch.equal(alone[name], wrapped[name]) for name in alone)
    assert len(watcher.updates) == 9


@pytest.mark.parametrize("shared", ["gradient", "delta"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_wrapped_strategy_of_updates_trains_the_same_bits(name, shared):
    raw = changed(model={"width": 8}, training={"shared": shared}, federation={"strategy": name, "clients": 6})
    raw = changed(**{**raw, "federation": {**raw["federation"], "examples_per_round": 0 if shared == "gradient" else 6}})
    plan = make_plan(raw)
    cell, watcher = plan.cells[0], Watcher()

    def updates() -> Strategy:
        return UpdateStrategy(inner_strategy(cell), cell.study.training_in, NODES, cell.chosen)

    def config() -> ConfigRecord:
        return ConfigRecord({"study": plan.canonical(), "cell": 0})

    alone = trained(updates(), clients.app.app, config=config())
    wrapped = trained(CuriousStrategy(updates(), watcher, NODES), clients.app.app, config=config())
    assert all(torch.equal(alone[name], wrapped[name]) for name in alone)
    assert {round for round, _ in watcher.updates} == {1, 2, 3}
    assert not watcher.failures


def test_fedsgd_moves_by_the_mean_gradient_and_fedavg_by_the_mean_delta():
    for shared in ("gradient", "delta"):
        plan = make_plan(changed(training={"shared": shared, "learning_rate": 0.3}, model={"width": 8}))
        cell = plan.cells[0]
        strategy = UpdateStrategy(inner_strategy(cell), cell.study.training_in, NODES, lambda round: [1, 3, 4])
        sent = {"w": torch.tensor([1.0, 2.0])}
        strategy._sent = sent
        shares = {1: torch.tensor([0.5, 1.0]), 3: torch.tensor([-1.0, 0.0]), 4: torch.tensor([2.0, 2.0])}
        grid = InlineGrid(ClientApp(), len(NODES))
        replies = [reply_from(grid, client + 1, {"w": share}) for client, share in shares.items()]
        arrays, _ = strategy.aggregate_train(1, replies)
        assert arrays is not None
        mean = torch.stack(list(shares.values())).mean(0)
        step = -0.3 if shared == "gradient" else 1.0
        torch.testing.assert_close(tensors_of(arrays)["w"], sent["w"] + step * mean)


def test_the_order_of_replies_does_not_matter():
    cell = make_plan(SMALL).cells[0]
    grid = InlineGrid(ClientApp(), len(NODES))
    shares = {client: torch.randn(50, generator=generator(client)) for client in range(6)}
    outcomes = []
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 4, 0, 5, 1, 3]):
        strategy = UpdateStrategy(inner_strategy(cell), cell.study.training_in, NODES, lambda round: list(range(6)))
        strategy._sent = {"w": torch.zeros(50)}
        arrays, _ = strategy.aggregate_train(1, [reply_from(grid, client + 1, {"w": shares[client]}) for client in order])
        assert arrays is not None
        outcomes.append(tensors_of(arrays)["w"])
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2])


def reply_from(grid: InlineGrid, node: int, tensors: Tensors, examples: object = 3) -> Message:
    question = grid.create_message(RecordDict(), "train", node, "")
    metrics = MetricRecord({EXAMPLES: examples} if examples is not None else {})  # pyright: ignore
    return Message(RecordDict({ARRAYS: record_of(tensors), METRICS: metrics}), reply_to=question)


@pytest.mark.parametrize(
    ("tensors", "examples", "said"),
    [
        ({"w": torch.tensor([1.0, float("nan")])}, 3, "'w' holds 1 numbers that are not finite"),
        ({"w": torch.tensor([float("inf"), float("inf")])}, 3, "'w' holds 2 numbers that are not finite"),
        ({"w": torch.ones(3)}, 3, r"'w' has shape \(3,\) in place of \(2,\)"),
        ({"v": torch.ones(2)}, 3, "'v' is not a name of the model"),
        ({"w": torch.ones(2)}, 0, "num-examples = 0"),
        ({"w": torch.ones(2)}, float("nan"), "num-examples = nan"),
        ({"w": torch.ones(2)}, None, "num-examples = None"),
        ({}, 3, "the reply holds no parameter"),
    ],
)
def test_an_unusable_reply_is_refused_in_words(tensors, examples, said):
    grid = InlineGrid(ClientApp(), 2)
    with pytest.raises(BadReply, match=said):
        read_reply(reply_from(grid, 1, tensors, examples), {"w": torch.zeros(2)})


@pytest.mark.parametrize("shared", ["gradient", "delta"])
def test_the_update_that_the_server_sees_is_the_clients_to_the_last_bit(shared):
    plan = make_plan(changed(training={"shared": shared}, federation={"examples_per_round": 3 if shared == "delta" else 0}))
    cell, watcher = plan.cells[0], Watcher()
    strategy = UpdateStrategy(inner_strategy(cell), cell.study.training_in, NODES, cell.chosen)
    model = cell.study.model.build((1, 8, 8), 10, seed=3)
    config = ConfigRecord({"study": plan.canonical(), "cell": 0})
    CuriousStrategy(strategy, watcher, NODES).start(
        InlineGrid(clients.app.app, len(NODES)), record_of(parameters_of(model)), num_rounds=1, train_config=config
    )
    for (round, client), seen in watcher.updates.items():
        load_state(model, watcher.sent[round])
        batch = client_batch(cell.study.client_data, client, round, cell.seed)
        own = local_update(model, batch, cell.study.training, generator(cell.seed, "client", client, round))
        assert all(torch.equal(seen.parameters[name], own.parameters[name]) for name in own.parameters)
