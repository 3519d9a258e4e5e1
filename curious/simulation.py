"""The one adapter around Flower's simulation engine: a study's clients in Ray actors, or in this process.

Whatever Flower does not export is used here and nowhere else.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn
from uuid import uuid4

import torch
from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.supercore.task_identity import TaskIdentity

import clients.app
from attacks.workers import start_ray, stop_ray
from server.app import serve
from studies.config import Resources
from studies.ledger import Ledger


def simulate(
    ledger: Ledger,
    resources: Resources,
    address: str | None = None,
    client_app: ClientApp = clients.app.app,
    on_loss: Callable[[str], NoReturn] | None = None,
) -> None:
    """Trains and attacks what the ledger lacks. Raises what the server raises; clients' errors are in the ledger.

    `address`: of a running Ray cluster; otherwise Ray is started on this machine and goes down again at the end.
    `on_loss`: is called where a client was lost with the machine or process that it ran on, which is no fault of the client's.
    Flower's pool has no use for what remains (it hands the dead actor the next message too, and waits for ever for one that
    finds no place), so that the call must end this process; another one goes on with the ledger. Without it what is lost
    counts as failed.
    """
    nodes = max(cell.study.federation.clients for cell in ledger.plan.cells)
    if resources.engine != "ray":
        torch.set_num_threads(resources.threads)  # sums round differently on another number of threads
        try:
            serve(InlineGrid(client_app, nodes), ledger, resources, address)
        finally:
            if resources.engine == "ray-attacks":
                stop_ray()
        return
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid if on_loss is None else _Watched(grid, on_loss), ledger, resources)

    start_ray(cpus=max(os.cpu_count() or 1, resources.client_cpus), workers=resources.attackers, address=address)
    try:
        run_simulation(
            server_app=server,
            client_app=client_app,
            num_supernodes=nodes,
            backend_config={
                "client_resources": {"num_cpus": resources.client_cpus, "num_gpus": resources.client_gpus},
                "init_args": {},
            },
        )
    finally:
        stop_ray()


class _Watched(Grid):
    """Flower's grid, and tells of clients that were lost: its engine reports its own faults, not the apps', as unknown ones.

    A question (which client are you?) that nobody answers in time was put to an actor that found no place.
    """

    def __init__(self, inner: Grid, on_loss: Callable[[str], NoReturn]):
        self._inner, self._on_loss = inner, on_loss

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        replies = list(self._inner.send_and_receive(messages, timeout=timeout))
        lost = [reply.error.reason for reply in replies if reply.has_error() and reply.error.code == ErrorCode.UNKNOWN]
        if messages and messages[0].metadata.message_type == MessageType.QUERY:
            lost += ["no answer"] * (len(messages) - len(replies))
        if lost:
            self._on_loss(f"{len(lost)} clients were lost with what they ran on ({lost[0]})")
        return replies

    def set_run(self, run: Any) -> None:
        self._inner.set_run(run)

    @property
    def run(self) -> Any:
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._inner.pull_messages(message_ids)


class InlineGrid(Grid):
    """A grid whose nodes answer in this process, one after the other: real messages, no Ray."""

    def __init__(self, client_app: ClientApp, nodes: int, run_config: dict[str, Any] | None = None):
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self._app = client_app
        self._replies: dict[str, Message] = {}
        self._contexts = {
            client + 1: Context(
                run_id=1,
                node_id=client + 1,
                node_config={"partition-id": client, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for client in range(nodes)
        }

    def set_run(self, run: Any) -> None:
        """An inline grid has one run."""

    @property
    def run(self) -> Any:
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = name = str(uuid4())
            self._replies[name] = self._answer(message)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # a client's exception is a reply, as it is in Flower's own grids
            reply = Message(
                Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=f"{type(error).__name__}: {error}"), reply_to=message
            )
        reply.metadata.__dict__["_message_id"] = f"{time.monotonic_ns()}"
        return reply
