"""Two Flower strategies, each around another: one that speaks updates, one that is curious.

`UpdateStrategy` lets any strategy of Flower's work on updates in place of weights, with clients chosen by seed and round and
replies in a fixed order. `CuriousStrategy` copies what was sent and what came back, and changes nothing.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from learning.messages import ARRAYS, EXAMPLES, late_record, tensor_of, tensors_of
from learning.tensors import BUFFER, Tensors, Update
from learning.training import Training


class BadReply(ValueError):
    """A client's reply cannot be used; the message says why."""


class Observer(Protocol):
    """Who is told what the curious server sees."""

    def on_sent(self, round: int, sent: Tensors) -> None:
        """The global model goes out in that round; the tensors may be kept."""
        ...

    def on_update(self, round: int, client: int, update: Update, examples: int) -> None:
        """A client shared an update; the tensors may be kept."""
        ...

    def on_failure(self, round: int, client: int, reason: str) -> None:
        """A client's reply is an error or cannot be used."""
        ...


class Around(Strategy):
    """A strategy around another one, which sees to everything but training."""

    def __init__(self, inner: Strategy):
        self.inner = inner

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.inner.summary()


class CuriousStrategy(Around):
    """Goes around any Flower strategy, and tells an observer of everything that is sent and returned.

    The wrapped strategy gets the very messages and replies that it would get alone, and trains the same global model to the
    last bit. `clients`: the number by which the observer knows a node; nodes that it does not hold go by their node id.
    `only_sums`: the observer is told what a server behind secure aggregation sees: the mean of a round's updates, weighed by
    their examples, under the least of the clients' numbers; and no update of a round in which a client failed.
    """

    def __init__(self, inner: Strategy, observer: Observer, clients: Mapping[int, int] | None = None, only_sums: bool = False):
        super().__init__(inner)
        self.observer, self.clients, self.only_sums = observer, clients or {}, only_sums
        self._sent: Tensors = {}
        self._asked: list[int] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        self._asked = [message.metadata.dst_node_id for message in messages]
        if messages:
            self._sent = tensors_of(arrays)
            self.observer.on_sent(server_round, self._sent)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        answered = {reply.metadata.src_node_id: reply for reply in replies}
        shared: list[tuple[int, Update, int]] = []
        nodes = sorted(set(self._asked) | set(answered), key=self._client)
        for node in nodes:
            try:
                if node not in answered:
                    raise BadReply("the client did not reply in time")
                update, examples = read_reply(answered[node], self._sent)
            except BadReply as fault:
                self.observer.on_failure(server_round, self._client(node), str(fault))
                continue
            if self.only_sums:
                shared.append((self._client(node), update, examples))
            else:  # at once: a round's updates are not held together
                self.observer.on_update(server_round, self._client(node), update, examples)
        if shared and len(shared) == len(nodes):
            self.observer.on_update(server_round, *_together(shared))
        return self.inner.aggregate_train(server_round, replies)

    def _client(self, node: int) -> int:
        return self.clients.get(node, node)


def _together(shared: list[tuple[int, Update, int]]) -> tuple[int, Update, int]:
    """The mean of clients' updates by their examples, under the first client's number, with all their examples."""
    total, mean = sum(examples for *_, examples in shared), {}
    for _, update, examples in shared:
        for name, tensor in update.named().items():
            part = examples / total * tensor
            mean[name] = mean[name] + part if name in mean else part
    return shared[0][0], Update.of(mean), total


class UpdateStrategy(Around):
    """Lets a strategy that averages weights work with clients that share updates.

    `training` gives what was ordered in a round, `choose` the numbers of the clients that train in it. Each reply becomes
    the weights that the client would have sent: sent plus delta, or sent minus learning rate times gradient; buffers that
    the client kept stay as sent. Replies go on in the order of the clients' numbers; one that is an error, not finite or of
    a wrong shape does not go on. `clients`: node id to the client's number.
    """

    def __init__(
        self,
        inner: Strategy,
        training: Callable[[int], Training],
        clients: Mapping[int, int],
        choose: Callable[[int], list[int]],
    ):
        super().__init__(inner)
        self.training, self.clients, self.choose = training, clients, choose
        self._sent: Tensors = {}

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        self._sent = tensors_of(arrays)
        node_of = {client: node for node, client in self.clients.items()}
        chosen = [node_of[client] for client in self.choose(server_round)]
        messages = list(self.inner.configure_train(server_round, arrays, config, cast(Grid, _Chosen(chosen))))
        return sorted(messages, key=lambda message: self.clients[message.metadata.dst_node_id])

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        usable = []
        for reply in sorted(replies, key=lambda reply: self.clients[reply.metadata.src_node_id]):
            try:
                read_reply(reply, self._sent)
            except BadReply:
                continue
            usable.append(self._as_weights(reply, self.training(server_round)))
        if not usable:
            return None, None
        arrays, metrics = self.inner.aggregate_train(server_round, usable)
        return None if arrays is None else ArrayRecord(dict(arrays.items())), metrics

    def _as_weights(self, reply: Message, training: Training) -> Message:
        step = -training.learning_rate if training.shared == "gradient" else 1.0
        shared, sent = next(iter(reply.content.array_records.values())), self._sent

        def weights(name: str) -> Tensor:
            if name in shared:
                return (sent[name] + step * tensor_of(shared[name])).to(sent[name].dtype)
            if BUFFER + name in shared:
                return tensor_of(shared[BUFFER + name]).to(sent[name].dtype)
            return sent[name].clone()

        converted = copy.copy(reply)  # shallow: the reply itself keeps what the client shared
        converted.content = RecordDict({ARRAYS: late_record(sent, weights), **reply.content.metric_records})
        return converted


class _Chosen:
    """What a strategy sees of a grid when it configures a round: the nodes that were chosen, and no other."""

    def __init__(self, nodes: list[int]):
        self._nodes = nodes

    def get_node_ids(self) -> list[int]:
        return self._nodes


def read_reply(reply: Message, sent: Tensors) -> tuple[Update, int]:
    """What a client shared and how many examples it used.

    A parameter that is not in the reply was not shared, which is the client's right. Raises `BadReply` if the reply is an
    error, lacks a record, has a name or a shape that the model does not have, or a number that is not finite.
    """
    if reply.has_error():
        raise BadReply(f"the client raised an error: {_last_line(reply.error.reason or '')}")
    arrays, metrics = reply.content.array_records, reply.content.metric_records
    if len(arrays) != 1 or len(metrics) != 1:
        raise BadReply(f"the reply holds {len(arrays)} array records and {len(metrics)} metric records in place of one of each")
    examples = next(iter(metrics.values())).get(EXAMPLES)
    if not isinstance(examples, int | float) or not math.isfinite(examples) or examples < 1:
        raise BadReply(f"the reply says {EXAMPLES} = {examples}, which should be at least 1")
    try:
        update = Update.of(tensors_of(next(iter(arrays.values()))))
    except ValueError as fault:
        raise BadReply(str(fault)) from None
    if not update.parameters:
        raise BadReply("the reply holds no parameter")
    for name, tensor in [*update.parameters.items(), *update.buffers.items()]:
        if name not in sent:
            raise BadReply(f"'{name}' is not a name of the model")
        if tensor.shape != sent[name].shape:
            raise BadReply(f"'{name}' has shape {tuple(tensor.shape)} in place of {tuple(sent[name].shape)}")
        # a sum that is finite has only finite terms, and is many times faster to check
        if not math.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise BadReply(f"'{name}' holds {int((~torch.isfinite(tensor)).sum())} numbers that are not finite")
    return update, int(examples)


def _last_line(reason: str) -> str:
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
