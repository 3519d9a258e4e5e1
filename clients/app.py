"""The Flower client: draws its batch, computes behind its defenses, and sends the update itself."""

from functools import lru_cache

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from defenses import defended_update
from learning.data import pictures_of
from learning.messages import ARRAYS, CONFIG, EXAMPLES, METRICS, record_of, tensors_of
from learning.models import Architecture, ImageShape
from learning.tensors import Batch, Tensors, Update, load_state
from studies.config import Cell, plan_from_json

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Tells the server which client this node is, so that it can choose clients by their number."""
    record = ConfigRecord({"client": int(context.node_config["partition-id"])})
    return Message(RecordDict({CONFIG: record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers the global model with this client's update for the round."""
    config = message.content[CONFIG]
    cell = plan_from_json(str(config["study"])).cells[int(config["cell"])]  # pyright: ignore[reportArgumentType]
    client, round = int(context.node_config["partition-id"]), int(config["server-round"])  # pyright: ignore[reportArgumentType]
    batch, sent = cell.batch(round, client), tensors_of(message.content.array_records[ARRAYS])
    update = share(cell, round, sent, batch, cell.draws(round, client))
    metrics = MetricRecord({EXAMPLES: len(batch)})
    return Message(RecordDict({ARRAYS: record_of(update.named()), METRICS: metrics}), reply_to=message)


@lru_cache(maxsize=1)
def _network(model: Architecture, image_shape: ImageShape, classes: int) -> nn.Module:
    """The network, whose every tensor the server's then take the place of: to build it costs more than many a step on it."""
    return model.build(image_shape, classes, seed=0)


def share(cell: Cell, round: int, sent: Tensors, batch: Batch, rng: torch.Generator) -> Update:
    """What a client of that federation shares for the batch in that round, given the global model's tensors."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pictures = pictures_of(cell.study.data)
    model = _network(cell.study.model, pictures.image_shape, pictures.classes)
    load_state(model, sent)
    compute = defended_update(cell.defense.chain, cell.study.training_in(round))
    update = compute(model.to(device), Batch(batch.images.to(device), batch.labels.to(device)), rng)
    return Update.of({name: tensor.cpu() for name, tensor in update.named().items()})
