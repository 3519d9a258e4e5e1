"""BatchNorm's statistics as a prior: what the client's batch looked like to every normalising layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.attack import Observation
from attacks.matching.victim import Victim, layer_inputs
from learning.tensors import Tensors


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of every normalising layer's input, by the layer's name, and where they come from."""

    means: Tensors
    variances: Tensors
    source: str


def known_statistics(observation: Observation) -> Statistics | None:
    """What the server knows of the batch's statistics; None where it knows nothing.

    Where the client sends its running statistics after one step in train mode, those of its batch follow exactly: the
    running ones moved a known share towards them. After several steps they are means over the steps, of which the last
    counts most. Otherwise the model's own running statistics are all there is, and nothing where they are still as they
    were made.
    """
    before = dict(observation.model.named_buffers())
    layers = {n: m for n, m in observation.model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not layers:
        return None
    sent = observation.update.buffers
    if observation.training.batch_norm == "train" and all(f"{name}.running_mean" in sent for name in layers):
        found: list[Tensors] = []
        for kind in ("running_mean", "running_var"):
            found.append({})
            for name, layer in layers.items():
                share = 1 - (1 - (layer.momentum or 0.1)) ** observation.steps
                old, new = before[f"{name}.{kind}"], sent[f"{name}.{kind}"].to(before[f"{name}.{kind}"])
                found[-1][name] = (new - (1 - share) * old) / share
        return Statistics(found[0], found[1], "the running statistics that the client sent")
    means = {name: before[f"{name}.running_mean"] for name in layers}
    if not any(mean.any() for mean in means.values()):
        return None
    return Statistics(means, {n: before[f"{n}.running_var"] for n in layers}, "the model's own running statistics")


def statistics_distance(victim: Victim, known: Statistics) -> Callable[[Tensor], Tensor]:
    """How far a batch's statistics are from the known ones, a mean over all channels of all layers; zero where they agree.

    Means count in units of the known deviation, variances in units of the known variance. It leaves hooks on the victim's
    model, which is the attack's own.
    """
    inputs_for = layer_inputs(victim, known.means)

    def distance(images: Tensor) -> Tensor:
        inputs, away = inputs_for(images), []
        for name, mean in known.means.items():
            variance = known.variances[name].to(images).clamp_min(1e-5)
            over = [axis for axis in range(inputs[name].ndim) if axis != 1]
            away.append((inputs[name].mean(over) - mean.to(images)).square() / variance)
            away.append((inputs[name].var(over) / variance - 1).square())
        return torch.cat(away).mean()

    return distance
