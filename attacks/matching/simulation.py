"""What the client would have returned after its local steps, had it held these pictures and labels."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.matching.victim import Victim
from learning.tensors import Tensors
from learning.training import Training

Simulation: TypeAlias = Callable[[Tensor, Tensor], Tensors]

MOST_STEPS = 10  # that are simulated where nothing else is set: time and memory grow with each


def simulation(victim: Victim, training: Training, examples: int) -> Simulation:
    """The local work that the server ordered, as a function that can be differentiated through all of its steps.

    Of pictures and rows of class probabilities, in the order in which the client takes them: `examples` of them, taken in
    that order again in every epoch, or as many for each epoch, one after the other. The result has the sign and scale of a
    mean gradient, as `Observation.gradient` has; at the client's own examples in the client's own order it is the same.

    The client draws its order, and nobody tells it to the server: whoever calls this assumes one. Where every step takes all
    examples the order means nothing.
    """
    steps = training.local_steps(examples)
    passes = -(-examples // training.batch_size)  # steps of an epoch

    def simulate(images: Float[Tensor, "all channels height width"], labels: Float[Tensor, "all classes"]) -> Tensors:
        weights = victim.weights
        velocity = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        total, share, weight = velocity, 0.0, 0.0
        for step in range(steps):
            epoch, turn = divmod(step, passes)
            first, last = turn * training.batch_size, min((turn + 1) * training.batch_size, examples)
            before = epoch * examples if len(images) > examples else 0
            taken = slice(before + first, before + last)
            found = victim.gradient_at(weights, images[taken], labels[taken])
            if training.momentum:
                found = {name: torch.add(found[name], velocity[name], alpha=training.momentum) for name in weights}
            velocity = found
            weights = {n: torch.sub(tensor, velocity[n], alpha=training.learning_rate) for n, tensor in weights.items()}
            total = {name: tensor + velocity[name] for name, tensor in total.items()}
            weight = training.momentum * weight + 1
            share += weight
        return {name: tensor / share for name, tensor in total.items()}

    return simulate


def orders(examples: int, restarts: int, rng: torch.Generator) -> Tensor:
    """An order of the examples for each restart, drawn evenly, the first as it is: (restarts, examples)."""
    drawn = [torch.arange(examples), *(torch.randperm(examples, generator=rng) for _ in range(restarts - 1))]
    return torch.stack(drawn)
