"""What a client computes from its batch: one gradient, or the weights' change after local steps of SGD."""

import copy
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from learning.catalogue import Count, Index, Positive, settings
from learning.models import divergence, without_noise
from learning.tensors import Batch, Tensors, Update, buffers_of, generator, parameters_of, seeded

Step: TypeAlias = Callable[[nn.Module, Batch, torch.Generator], Update]


@settings
class Training:
    """What the server orders: a client's local work, known to the attacker because the server is the attacker.

    `shared`: "gradient" is one step on the whole batch (FedSGD); "delta" is returned minus sent weights (FedAvg).
    `batch_size`: of a local step. `epochs`: passes over the round's examples ("delta").
    `steps`: local steps in a round instead of whole epochs, where not 0 ("delta").
    `learning_rate`, `momentum`: of SGD, the momentum starting at zero in every round.
    `batch_norm`: "train" normalises by the batch and updates running statistics, "eval" uses the running statistics;
    dropout follows the same switch. `buffers`: whether the running statistics are sent with the update or kept.
    """

    shared: Literal["gradient", "delta"] = "gradient"
    batch_size: Count = 1
    epochs: Count = 1
    steps: Index = 0
    learning_rate: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_norm: Literal["train", "eval"] = "eval"
    buffers: Literal["kept", "sent"] = "kept"

    def local_steps(self, examples: int) -> int:
        """Number of SGD steps in a round of that many examples; 1 for a gradient."""
        if self.shared == "gradient":
            return 1
        return self.steps or self.epochs * -(-examples // self.batch_size)

    def mini_batches(self, examples: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Indices of each local step's examples. Each epoch is shuffled anew; the last batch of an epoch may be smaller."""
        done = 0
        while done < self.local_steps(examples):
            for batch in torch.randperm(examples, generator=rng).split(self.batch_size):
                if done < self.local_steps(examples):
                    yield batch
                    done += 1


def gradient(model: nn.Module, batch: Batch) -> Tensors:
    """Gradient of the batch's mean cross-entropy, and of what a bottleneck adds; the model is as `set_mode` left it."""
    parameters = dict(model.named_parameters())
    loss = functional.cross_entropy(model(batch.images), batch.labels) + divergence(model)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}


def plain_step(model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
    """What an undefended client computes in a local step: the mini-batch's gradient."""
    return Update(gradient(model, batch))


def set_mode(model: nn.Module, training: Training) -> nn.Module:
    """Puts BatchNorm and dropout into the mode that the server ordered."""
    return model.train(training.batch_norm == "train")


def local_update(model: nn.Module, batch: Batch, training: Training, rng: torch.Generator, step: Step = plain_step) -> Update:
    """What a client computes in a round, the undefended update by default. The model's parameters are left as they were.

    `step` stands in for the gradient of every local step's mini-batch; it gets a generator of its own, so that the
    mini-batches are those of the undefended client.

    In train mode its BatchNorm buffers move on, as they do in any training, and are part of the update where
    `training.buffers` is "sent".

    A delta is summed step by step beside the weights, not subtracted from them at the end: the difference of two float32
    weights would lose the digits on which the exact attacks live.
    """
    set_mode(model, training)
    seed = int(torch.randint(2**62, (1,), generator=rng))
    of_steps = generator("steps", seed)
    with seeded(seed, batch.images.device):  # dropout draws from it
        if training.shared == "gradient":
            shared = step(model, batch, of_steps).parameters
        else:
            shared = _delta(model, batch, training, rng, lambda part: step(model, part, of_steps).parameters)
    return Update(shared, {n: b.clone() for n, b in buffers_of(model).items()} if training.buffers == "sent" else {})


@torch.no_grad()
def _delta(
    model: nn.Module, batch: Batch, training: Training, rng: torch.Generator, gradient: Callable[[Batch], Tensors]
) -> Tensors:
    weights = parameters_of(model)
    sent = {name: tensor.clone() for name, tensor in weights.items()}
    delta = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    velocity = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for indices in training.mini_batches(len(batch), rng):
        with torch.enable_grad():
            step = gradient(Batch(batch.images[indices], batch.labels[indices]))
        for name, weight in weights.items():
            velocity[name].mul_(training.momentum).add_(step[name])
            delta[name].sub_(velocity[name], alpha=training.learning_rate)
            weight.copy_(sent[name] + delta[name])
    for name, weight in weights.items():
        weight.copy_(sent[name])
    return delta


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, training: Training) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean cross-entropy on test examples; the model is left as it was.

    Where clients normalise by their batch and keep their running statistics, the global model has none worth using, so the
    test examples are normalised by their own batch too.
    """
    own_statistics = training.batch_norm == "train" and training.buffers == "kept"
    model = without_noise(copy.deepcopy(model)).eval()  # a forward pass in train mode moves running statistics
    for module in model.modules():
        if own_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    right, loss = 0, 0.0
    with torch.no_grad():
        batches = -(-len(labels) // 256)  # of equal size: what is left over could be a single picture, with no statistics
        for pictures, answers in zip(images.tensor_split(batches), labels.tensor_split(batches), strict=True):
            scores = model(pictures)
            right += int((scores.argmax(1) == answers).sum())
            loss += float(functional.cross_entropy(scores, answers, reduction="sum"))
    return right / len(labels), loss / len(labels)
