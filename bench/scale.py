"""A thousand clients: rounds per second and memory, beside plain Flower FedAvg with the same clients; updates audited per hour.

    CURIOUS_DATA=.data python -m bench.scale

LeNet, MNIST, one gradient of 32 pictures a client, 20 of the 1,000 clients in a round, through Flower's simulation engine. Each
side is a process of its own, so that its memory is its own: Flower's FedAvg whose clients send weights, then the curious
strategy around the update strategy, which records every update. After its training the latter restores every update's labels
with iLRG, and inverts the pictures of one update in a hundred (100 iterations), in two workers. The memory is of the process
that holds the server, Ray's and the clients' left out. `--large --clients 10 --chosen 10 --rounds 5` is about memory.
"""

import argparse
import itertools
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.simulation import run_simulation

from attacks.workers import start_ray, stop_ray
from bench.overhead import weight_app
from learning.messages import record_of
from learning.tensors import buffers_of, parameters_of
from server.app import RoundLog, ask_clients, attack_all, inner_strategy
from server.strategy import CuriousStrategy, UpdateStrategy
from studies.config import make_plan
from studies.ledger import Ledger
from studies.preparation import initial_model, prepare

SAMPLE = 0.01  # of the updates, whose pictures are inverted


def measured(side: str, clients: int, chosen: int, rounds: int, large: bool) -> dict[str, Any]:
    """One side's seconds of each round, megabytes after each round and at most, and what its audit took."""
    study = {
        "name": "scale",
        "data": "cifar10" if large else "mnist",
        "model": {"name": "mlp", "width": 8000} if large else "lenet",
        "training": {"batch_size": 32},
        "federation": {"clients": clients, "clients_per_round": chosen, "rounds": rounds, "evaluate_every": rounds},
        "attacks": ["ilrg", {"name": "inverting-gradients", "iterations": 100, "sample": SAMPLE}],
        "resources": {"workers": 2},
    }
    plan = make_plan(study)
    prepare(plan)
    cell, found, ticks, megabytes = plan.cells[0], {}, [], []
    server, process = ServerApp(), psutil.Process()

    def tick() -> None:
        ticks.append(time.perf_counter())
        megabytes.append(process.memory_info().rss / 1e6)

    def train(grid: Grid, strategy: Strategy, log: RoundLog | None) -> None:
        def after_round(round: int, arrays: ArrayRecord) -> None:
            if log is not None:
                log.on_global_model(round, arrays)
            tick()

        model = initial_model(cell)
        asked = ConfigRecord({"study": plan.canonical(), "cell": 0, "weights": log is None})
        arrays = record_of(parameters_of(model) | buffers_of(model))
        strategy.start(grid, arrays, num_rounds=rounds, train_config=asked, evaluate_fn=after_round)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        with tempfile.TemporaryDirectory() as folder, Ledger.create(Path(folder), plan, "", {}) as ledger:
            begin = time.perf_counter()
            numbers = ask_clients(grid, clients, timeout=300)
            found["seconds of asking"] = time.perf_counter() - begin
            if side == "plain":
                train(grid, FedAvg(fraction_train=chosen / clients, fraction_evaluate=0.0), None)
            else:
                with RoundLog(ledger, cell) as log:
                    updates = UpdateStrategy(inner_strategy(cell), cell.study.training_in, numbers, cell.chosen)
                    train(grid, CuriousStrategy(updates, log, numbers), log)
                ticks[-1] = time.perf_counter()  # a round is over when the last write is done
                training_is_over, begin = threading.Event(), time.perf_counter()
                training_is_over.set()
                attack_all(ledger, plan.study.resources, training_is_over)
                statuses = [result.status for result in ledger.results() if result.attack == "ilrg"]
                found["audited"], found["seconds of audit"] = statuses.count("ok"), time.perf_counter() - begin
                assert len(statuses) == chosen * rounds
        found["most megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # it counts in KiB

    start_ray(cpus=2, workers=2)
    try:
        run_simulation(server, weight_app(), clients, backend_config={"client_resources": {"num_cpus": 1}, "init_args": {}})
    finally:
        stop_ray()
    seconds = [after - before for before, after in itertools.pairwise(ticks)]
    return found | {"seconds": seconds, "megabytes": megabytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--chosen", type=int, default=20, help="clients in a round")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--large", action="store_true", help="a model of 99 MB, an MLP on CIFAR-10, in place of LeNet")
    parser.add_argument("--side", choices=["plain", "curious"], help="one side alone, told as JSON")
    settings = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    if settings.side:
        print(json.dumps(measured(settings.side, settings.clients, settings.chosen, settings.rounds, settings.large)))
        return
    print(f"{settings.clients} clients, {settings.chosen} in a round, {settings.rounds} rounds")
    sides: dict[str, Any] = {}
    for side in ("plain", "curious"):
        command = [sys.executable, "-m", "bench.scale", *sys.argv[1:], "--side", side]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        sides[side] = found = json.loads(told.splitlines()[-1])
        after, memory = found["seconds"][1:], found["megabytes"]  # the first round starts the clients' processes
        print(f"{side:8} {len(after) / sum(after):6.2f} rounds/s (median {1 / statistics.median(after):.2f}); driver "
              f"{found['most megabytes']:.0f} MB at most, {memory[len(memory) // 2]:.0f} after half of the rounds, "
              f"{memory[-1]:.0f} after all; {found['seconds of asking']:.0f} s to ask all clients who they are")  # fmt: skip
    ratio = sum(sides["plain"]["seconds"][1:]) / sum(sides["curious"]["seconds"][1:])
    audited, seconds = sides["curious"]["audited"], sides["curious"]["seconds of audit"]
    print(f"curious over plain: {ratio:.3f}")
    print(f"audited  {audited} updates in {seconds:.1f} s, workers' start included: {audited / seconds * 3600:,.0f} an hour")


if __name__ == "__main__":
    main()
