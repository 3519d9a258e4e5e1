"""What the curious server costs: rounds per second of plain FedAvg, and of the same federation wrapped and recorded.

    CURIOUS_DATA=.data python -m bench.overhead

20 clients, LeNet, MNIST, one gradient of 32 pictures a client, through Flower's simulation engine. One simulation runs both
by turns, in blocks of rounds, so that the machine's load falls on both: plain Flower FedAvg whose clients send weights, and
the curious strategy around the update strategy, writing every update and model into a ledger. Attacks are not part of it:
they run beside training, on workers of their own.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.simulation import run_simulation

import clients.app
from attacks.workers import start_ray, stop_ray
from learning.messages import ARRAYS, CONFIG, EXAMPLES, METRICS, record_of, tensors_of
from learning.tensors import buffers_of, load_state, parameters_of
from learning.training import accuracy
from server.app import RoundLog, ask_clients, examples_for_testing, inner_strategy
from server.strategy import CuriousStrategy, UpdateStrategy
from studies.config import make_plan, plan_from_json
from studies.ledger import Ledger
from studies.preparation import initial_model, prepare

STUDY = {
    "name": "overhead",
    "data": "mnist",
    "model": "lenet",
    "training": {"batch_size": 32},
    "federation": {"clients": 20, "clients_per_round": 20, "rounds": 1_000_000},
}


def weight_app() -> ClientApp:
    """The same clients, sending their new weights as Flower's own examples do."""
    app = ClientApp()
    app.query()(clients.app.describe)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = message.content.config_records[CONFIG]
        if not config.get("weights"):
            return clients.app.train(message, context)
        cell = plan_from_json(str(config["study"])).cells[0]
        client, round = int(context.node_config["partition-id"]), int(config["server-round"])  # pyright: ignore
        batch = cell.batch(round, client)
        sent = tensors_of(message.content.array_records[ARRAYS])
        update = clients.app.share(cell, round, sent, batch, cell.draws(round, client))
        rate = cell.study.training_in(round).learning_rate
        weights = sent | {name: sent[name] - rate * tensor for name, tensor in update.parameters.items()}
        metrics = MetricRecord({EXAMPLES: len(batch)})
        return Message(RecordDict({ARRAYS: record_of(weights), METRICS: metrics}), reply_to=message)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12, help="blocks of each kind")
    parser.add_argument("--rounds", type=int, default=10, help="rounds a block")
    settings = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    plan = make_plan(STUDY)
    prepare(plan)
    seconds: dict[str, list[float]] = {"plain": [], "wrapped": []}
    server = ServerApp()

    @server.main()
    def measure(grid: Grid, context: Context) -> None:
        with tempfile.TemporaryDirectory() as folder, Ledger.create(Path(folder), plan, "", {}) as ledger:
            numbers = ask_clients(grid, 20, timeout=300)
            cell = plan.cells[0]
            model = initial_model(cell)

            def evaluate(round: int, arrays: ArrayRecord) -> None:  # both measure accuracy, as every federation does
                batch = examples_for_testing(cell.study.data, cell.study.federation.test_examples)
                load_state(model, tensors_of(arrays))
                accuracy(model, batch.images, batch.labels, cell.study.training)

            def block(strategy: Strategy, weights: bool, evaluate: Callable[[int, ArrayRecord], None]) -> float:
                arrays = record_of(parameters_of(model) | buffers_of(model))
                begin = time.perf_counter()
                strategy.start(
                    grid,
                    arrays,
                    num_rounds=settings.rounds,
                    train_config=ConfigRecord({"study": plan.canonical(), "cell": 0, "weights": weights}),
                    evaluate_fn=evaluate,
                )
                return (time.perf_counter() - begin) / settings.rounds

            def plain() -> float:
                return block(FedAvg(fraction_evaluate=0.0), weights=True, evaluate=evaluate)

            def wrapped() -> float:
                begin = time.perf_counter()
                with RoundLog(ledger, cell) as log:
                    updates = UpdateStrategy(inner_strategy(cell), cell.study.training_in, numbers, cell.chosen)
                    block(CuriousStrategy(updates, log, numbers), weights=False, evaluate=log.on_global_model)
                return (time.perf_counter() - begin) / settings.rounds  # until the last write is done

            plain()  # imports, caches and Flower's actors
            wrapped()
            for turn in range(settings.blocks):
                for kind in ("plain", "wrapped") if turn % 2 else ("wrapped", "plain"):
                    seconds[kind].append({"plain": plain, "wrapped": wrapped}[kind]())
            print(f"updates recorded: {len(ledger.observations())}")

    start_ray(cpus=2, workers=1)
    try:
        run_simulation(server, weight_app(), 20, backend_config={"client_resources": {"num_cpus": 1}, "init_args": {}})
    finally:
        stop_ray()
    for kind, values in seconds.items():
        print(f"{kind:8} {1 / statistics.median(values):6.2f} rounds/s (median of {len(values)} blocks), "
              f"{min(1 / v for v in values):.2f} to {max(1 / v for v in values):.2f}")  # fmt: skip
    ratios = [plain / wrapped for plain, wrapped in zip(seconds["plain"], seconds["wrapped"], strict=True)]
    print(f"wrapped over plain: {statistics.median(seconds['plain']) / statistics.median(seconds['wrapped']):.3f} by medians, "
          f"{statistics.fmean(ratios):.3f} +- {statistics.stdev(ratios) / len(ratios) ** 0.5:.3f} by blocks")  # fmt: skip


if __name__ == "__main__":
    main()
