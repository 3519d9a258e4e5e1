"""The Flower server: trains every federation of a study, and attacks what it sees."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import flwr.serverapp.strategy as flower
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from attacks.workers import InlinePool, Pool, RayPool, start_ray
from learning.catalogue import SettingsError
from learning.data import Data, pictures_of
from learning.messages import CONFIG, record_of, tensors_of
from learning.tensors import Batch, Tensors, Update, buffers_of, generator, load_state, parameters_of
from learning.training import accuracy
from server.strategy import Around, CuriousStrategy, UpdateStrategy
from studies.attacking import Interrogation
from studies.config import Cell, Resources, read_plan
from studies.forecasting import forecast
from studies.ledger import Failure, Ledger, Round, Victim
from studies.preparation import initial_model, prepare
from studies.provenance import environment
from studies.report import write_report

STRATEGIES: dict[str, type[flower.FedAvg]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedadam": flower.FedAdam,
    "fedadagrad": flower.FedAdagrad,
    "fedyogi": flower.FedYogi,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "krum": flower.Krum,
}
STATEFUL = {"fedavgm", "fedadam", "fedadagrad", "fedyogi"}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """`flwr run`: the study, changes to it (as with `--set`, semicolons between them) and the run's folder are configured.

    Writes the report. Raises `RuntimeError` where a client or an attack failed, so that Flower calls the run failed.
    """
    name = str(context.run_config.get("study", "quick"))
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent.parent / "studies" / f"{name}.toml"
    folder = Path(str(context.run_config.get("out") or f"runs/{path.stem}"))
    plan = read_plan(path, [change for change in str(context.run_config.get("set", "")).split(";") if change.strip()])
    prepare(plan)
    if (folder / "ledger.sqlite").exists():
        ledger = Ledger(folder, write=True)
    else:
        ledger = Ledger.create(folder, plan, path.read_text(encoding="utf-8"), environment())
    with ledger:
        if different := ledger.plan.differs_from(plan):
            raise SettingsError(
                f"'{folder}' holds a run of another study (it differs in: {', '.join(different)}); give another `out`"
            )
        serve(grid, ledger, plan.study.resources)
        report, counts = write_report(ledger), ledger.counts()
        print(f"ledger {ledger.digest()[:16]}\nreport {report}", flush=True)
    if failed := {name: counts[name] for name in ("failed clients", "failed attacks") if counts[name]}:
        words = " and ".join(f"{number} {name}" for name, number in failed.items())
        raise RuntimeError(f"{words}; the report lists them with their reasons: {report}")


def serve(grid: Grid, ledger: Ledger, resources: Resources, address: str | None = None) -> None:
    """Trains what the ledger lacks of every federation and attacks every recorded update, while or after.

    `address`: of the Ray cluster that attacks, where Ray does not run yet.
    """
    plan, training_is_over = ledger.plan, threading.Event()
    # Clients come before attacks: under `flwr run` Flower starts Ray for them in this process, and two starts at once hang.
    federations = [cell.study.federation for cell in plan.cells]
    clients = ask_clients(grid, max(each.clients for each in federations), max(each.timeout for each in federations))
    with ThreadPoolExecutor(1) as executor:
        attacking = None
        if resources.when == "live":
            attacking = executor.submit(attack_all, ledger, resources, training_is_over, address)
        try:
            for cell in plan.cells:
                if not ledger.rounds(cell.index):
                    forecast(ledger, cell)
                train(grid, ledger, cell, clients)
        finally:
            training_is_over.set()
        (attacking or executor.submit(attack_all, ledger, resources, training_is_over, address)).result()


def attack_all(ledger: Ledger, resources: Resources, training_is_over: threading.Event, address: str | None = None) -> None:
    """Attacks recorded updates until none is left and no more will come."""
    pool = make_pool(resources, address)
    try:
        Interrogation(ledger, pool).run(training_is_over)
    finally:
        pool.close()


def make_pool(resources: Resources, address: str | None = None) -> Pool:
    """The workers that are asked for; Ray is started where it is not running yet."""
    if resources.engine == "inline":
        return InlinePool(resources.threads)
    start_ray(cpus=os.cpu_count() or 1, workers=resources.attackers, address=address)
    return RayPool(
        resources.workers, resources.threads, resources.worker_gpus, resources.queue, resources.timeout, resources.helpers
    )


def ask_clients(grid: Grid, expected: int, timeout: float) -> dict[int, int]:
    """Every node's id and the number of the client that it is.

    Raises `RuntimeError` if too few nodes come within `timeout` seconds, or one does not answer in as many.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) < expected:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(nodes)} nodes of {expected} are there after {timeout:g} seconds; start more nodes")
        time.sleep(0.05)
    questions = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
    replies = list(grid.send_and_receive(questions, timeout=timeout))
    if faults := [reply.error.reason for reply in replies if reply.has_error()]:
        raise RuntimeError(f"{len(faults)} nodes could not say which client they are: {faults[0]}")
    if silent := sorted(set(nodes) - {reply.metadata.src_node_id for reply in replies}):
        # Flower 1.41: a SuperNode whose run is stopped between a message and its receipt is one reply behind from then on.
        raise RuntimeError(
            f"{len(silent)} nodes did not say within {timeout:g} seconds (federation.timeout) which client they are: "
            f"{', '.join(map(str, silent))}; where a run was stopped before this one their SuperNodes may hold answers back: "
            "start them anew"
        )
    numbers = {r.metadata.src_node_id: r.content.config_records[CONFIG]["client"] for r in replies}
    return {node: number for node, number in numbers.items() if isinstance(number, int)}


def train(grid: Grid, ledger: Ledger, cell: Cell, clients: dict[int, int]) -> None:
    """Trains one federation from where the ledger ends to its last round."""
    federation = cell.study.federation
    done = max((row.round for row in ledger.rounds(cell.index)), default=-1)
    with RoundLog(ledger, cell) as log:
        log.tidy(range(1, done + 1))
        if done >= cell.study.rounds:
            return
        if federation.strategy in STATEFUL:
            done = -1  # its state is not kept: its rounds are repeated, and come out the same
        mine = {node: client for node, client in clients.items() if client < federation.clients}
        updates = UpdateStrategy(inner_strategy(cell), cell.study.training_in, mine, cell.chosen)
        strategy = _GoingOn(CuriousStrategy(updates, log, mine, federation.secure_aggregation), ledger, cell.index, done)
        model = initial_model(cell)
        strategy.start(
            grid,
            record_of(parameters_of(model) | buffers_of(model)),
            num_rounds=cell.study.rounds,
            timeout=federation.timeout,
            train_config=ConfigRecord({"study": ledger.plan.canonical(), "cell": cell.index}),
            evaluate_fn=lambda round, arrays: log.on_global_model(round, arrays) if round > done else None,
        )


def inner_strategy(cell: Cell) -> Strategy:
    """The Flower strategy that the study names; every client that it is shown takes part."""
    everyone = dict.fromkeys(("min_train_nodes", "min_available_nodes"), cell.study.federation.clients_per_round)
    return STRATEGIES[cell.study.federation.strategy](fraction_train=1.0, fraction_evaluate=0.0, **everyone)


WAITING_BYTES = 2**28  # of updates that wait for the disk


@dataclass(frozen=True)
class _Write:
    round: int
    size: int
    done: "Future[None]"


class RoundLog:
    """Writes what the curious strategy sees, and what each round made of the global model, into the ledger.

    One thread of its own does the work, in order, while the clients of the next round compute: a round does not wait for
    the disk, nor for its accuracy. The writes of a round are over before the round after the next begins, and updates that wait
    for theirs come to `WAITING_BYTES` at most, or to one update. A context: at its end everything is written.
    """

    def __init__(self, ledger: Ledger, cell: Cell):
        self._ledger, self._cell, self._study = ledger, cell.index, cell.study
        self._model = initial_model(cell)
        self._writer, self._broken = ThreadPoolExecutor(1), False
        self._writes: deque[_Write] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._settle(before=self._study.rounds + 1)
        finally:
            self._writer.shutdown()

    def on_sent(self, round: int, sent: Tensors) -> None:
        """The model was written when the round before it ended; what an earlier try of this round said is void."""
        self._settle(before=round - 1)
        self._later(round, self._ledger.forget_failures, self._cell, round)

    def on_update(self, round: int, client: int, update: Update, examples: int) -> None:
        if self._study.recorded(round, client):
            size = sum(tensor.nbytes for tensor in update.named().values())
            while self._writes and size + sum(write.size for write in self._writes) > WAITING_BYTES:
                self._writes.popleft().done.result()
            self._later(round, self._ledger.record_update, Victim(self._cell, round, client), update, examples, size=size)

    def on_failure(self, round: int, client: int, reason: str) -> None:
        self._later(round, self._ledger.record_failure, Failure(Victim(self._cell, round, client), reason))

    def on_global_model(self, round: int, arrays: ArrayRecord) -> None:
        """The round is over and made this of the global model."""
        self._later(round, self._finish_round, round, arrays)

    def tidy(self, rounds: Iterable[int]) -> None:
        """Lets go of the models that were sent in those rounds, where no update was to be recorded."""
        for round in rounds:
            if not any(self._study.recorded(round, client) for client in range(self._study.federation.clients)):
                self._ledger.forget_model(self._cell, round)

    def _finish_round(self, round: int, arrays: ArrayRecord) -> None:
        tensors = tensors_of(arrays)
        self._ledger.record_model(self._cell, round + 1, tensors)
        measured = (None, None)
        if round % self._study.federation.evaluate_every == 0 or round in (self._study.start.after_rounds, self._study.rounds):
            load_state(self._model, tensors)
            batch = examples_for_testing(self._study.data, self._study.federation.test_examples)
            torch.set_num_threads(1)  # the other processors belong to the clients
            measured = accuracy(self._model, batch.images, batch.labels, self._study.training_in(round))
        self._ledger.finish_round(Round(self._cell, round, *measured))
        self.tidy([round])

    def _later(self, round: int, write: Callable[..., None], *what: object, size: int = 0) -> None:
        def in_order() -> None:
            if self._broken:  # a round may not be called finished when one of its updates could not be written
                return
            try:
                write(*what)
            except BaseException:
                self._broken = True
                raise

        self._writes.append(_Write(round, size, self._writer.submit(in_order)))

    def _settle(self, before: int) -> None:
        while self._writes and self._writes[0].round < before:
            self._writes.popleft().done.result()


@lru_cache(maxsize=4)
def examples_for_testing(data: Data, number: int) -> Batch:
    """The test examples that measure the global accuracy (0: all): drawn at random, for sets in folders are sorted by class."""
    test = pictures_of(data).test
    order = torch.randperm(len(test), generator=generator("test examples"))
    return test.batch(order[: number or None])


class _GoingOn(Around):
    """Skips the rounds that the ledger holds already, and takes up the global model after the last of them."""

    def __init__(self, inner: Strategy, ledger: Ledger, cell: int, done: int):
        super().__init__(inner)
        self.ledger, self.cell, self.done = ledger, cell, done

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        return [] if server_round <= self.done else self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        if server_round < self.done:
            return None, None
        if server_round == self.done:
            return record_of(self.ledger.model(self.cell, server_round + 1)), None
        return self.inner.aggregate_train(server_round, replies)
