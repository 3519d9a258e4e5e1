"""What the benches of label restoration share: updates of last layers, and the field's scores.

Only the last layer's gradient is computed where only that is read: the same numbers, far sooner.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks import Granted, NotApplicable, Observation
from attacks.attack import Attack, Reconstruction
from attacks.labels.last_layer import answers, last_layer
from learning.data import Examples, Pictures
from learning.models import Architecture
from learning.tensors import Batch, Update, generator, parameters_of
from learning.training import Training, accuracy, local_update, set_mode


@dataclass(frozen=True)
class Counted:
    """Scores of restored counts, each in [0, 1]: presence bits, counts, recalled examples, and whether all counts are right."""

    presence: float
    classes: float
    recall: float
    exact: float


def observed(
    model: nn.Module,
    batch: Batch,
    classes: int,
    training: Training | None = None,
    granted: Granted | None = None,
    seed: int = 0,
    whole: bool = False,
) -> Observation:
    """What the server sees of a client without a defense that holds the batch; of a gradient the last layer's, or the whole."""
    training = training or Training()
    channels, height, width = batch.images.shape[1:]
    empty = Update({name: torch.zeros_like(p) for name, p in parameters_of(model).items()})
    model = set_mode(model, training)
    observation = Observation(
        round=0, client=0, model=model, update=empty, training=training, examples=len(batch),
        image_shape=(channels, height, width), classes=classes, granted=granted or Granted(),
    )  # fmt: skip
    if training.shared == "gradient" and not whole:
        update = _last_layers_gradient(observation, batch, seed)
    else:
        update = local_update(copy.deepcopy(model), batch, training, generator("client", seed))
    return Observation(**{**vars(observation), "update": update})


def _last_layers_gradient(observation: Observation, batch: Batch, seed: int) -> Update:
    """The gradient of the mean cross-entropy for the last layer alone, in float32 as a client computes it."""
    layer = last_layer(observation)
    features, probabilities = answers(observation, batch.images, generator("client", seed))
    errors = (probabilities - functional.one_hot(batch.labels, observation.classes)).float() / len(batch)
    gradient = {f"{layer.name}.weight": errors.T @ features.float()}
    if layer.bias is not None:
        gradient[f"{layer.name}.bias"] = errors.sum(0)
    return Update(gradient)


def drawn(examples: Examples, size: int, *seed: int | str) -> Batch:
    """Examples drawn at random: without replacement, or with it where there are too few."""
    rng = generator("bench", *seed)
    if size > len(examples):
        return examples.batch(torch.randint(len(examples), (size,), generator=rng))
    return examples.batch(torch.randperm(len(examples), generator=rng)[:size])


def scored(found: Reconstruction | None, truth: Tensor, classes: int) -> Counted:
    """Scores of a reconstruction; of none at all (the method refused) they are those of an empty batch."""
    rows = None if found is None else found.labels
    restored = torch.zeros(classes) if rows is None else torch.bincount(rows.argmax(1), minlength=classes)
    true = torch.bincount(truth, minlength=classes)
    return Counted(
        float(((restored > 0) == (true > 0)).double().mean()),
        float((restored == true).double().mean()),
        float(torch.minimum(restored, true).sum() / len(truth)),
        float(torch.equal(restored.long(), true)),
    )


def attempted(attack: Attack, observation: Observation, *seed: int | str) -> Reconstruction | None:
    """What the attack restores, or None where it refuses."""
    try:
        return attack.reconstruct(observation, generator("attack", *seed))
    except NotApplicable:
        return None


def mean_of(scores: list[Counted]) -> str:
    """Means as `LeAcc LnAcc IRec exact`."""
    fields = ("presence", "classes", "recall", "exact")
    return " ".join(f"{sum(getattr(s, name) for s in scores) / len(scores):.3f}" for name in fields)


def trained_states(
    architecture: Architecture, pictures: Pictures, iterations: tuple[int, ...], seed: int, learning_rate: float
) -> Iterator[tuple[int, float, float, nn.Module]]:
    """One model along its training: the iteration, accuracy on 1,000 training and 1,000 test pictures, and the model.

    SGD with momentum .9 on batches of 64, each drawn from all training pictures. The model goes on after each is used.
    """
    model = architecture.build(pictures.image_shape, pictures.classes, seed)
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
    known, held = drawn(pictures.train, 1000, "train accuracy"), drawn(pictures.test, 1000, "test accuracy")
    for iteration in range(max(iterations) + 1):
        if iteration in iterations:
            found = [accuracy(model, batch.images, batch.labels, Training())[0] for batch in (known, held)]
            yield iteration, found[0], found[1], model.eval()
        batch = drawn(pictures.train, 64, "training", seed, iteration)
        optimizer.zero_grad()
        functional.cross_entropy(model.train()(batch.images), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def public_of(pictures: Pictures, count: int, *seed: int | str) -> Granted:
    """Pictures of the test set, for the attacker."""
    batch = drawn(pictures.test, count, "public", *seed)
    return Granted(public=batch.images, public_labels=batch.labels)
