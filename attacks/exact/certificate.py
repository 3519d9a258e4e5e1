"""Proof without the truth: the pictures that were restored, run through the known model, must give the update that was seen."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from attacks.attack import Observation
from attacks.directions.layers import Tail, victim
from attacks.directions.low_rank import Split
from learning.tensors import Tensors

SLACK = 5.0  # how many times the update's noise the remainder may be
LARGEST_NOISE = 0.02  # share of a gradient that noise may explain: what agrees within more than that proves nothing
DEVIATIONS = 2.0  # standard deviations that noise gives to a pixel: units that it opens or shuts wrongly add to them
LARGEST_ERROR = 0.01  # error of a pixel, in units of the range, up to which a picture is called restored
FARTHEST = 2.5  # times the error, by which a pixel may miss its range
FLOOR = {torch.float64: 1e-10, torch.float32: 1e-6}  # relative remainder that rounding on the client's side explains


@dataclass(frozen=True)
class Certificate:
    """Which pictures are proven, how large a share of the update they leave unexplained, and each one's expected error.

    `remainder`: the greatest over the parameters, relative to the parameter's own gradient. `allowed`: what the noise of the
    update explains, for that parameter. `noise`: the greatest share of any gradient that it explains. `error`: of a pixel, as
    many standard deviations as `DEVIATIONS`, in units of the pixel range.
    """

    certified: Bool[Tensor, " batch"]
    remainder: float
    allowed: float
    noise: float
    error: Float[Tensor, " batch"]

    @property
    def sentence(self) -> str:
        """The certificate in words."""
        proven = int(self.certified.sum())
        if not proven and self.noise > LARGEST_NOISE:
            return (
                f"no picture is certified: the update's noise explains up to {self.noise:.1g} of a gradient, and what agrees "
                f"within more than {LARGEST_NOISE:g} proves nothing"
            )
        if not proven:
            return (
                f"no picture is certified: run through the model, they leave {self.remainder:.1g} of a gradient unexplained, "
                f"and the update's noise explains {self.allowed:.1g}"
            )
        word = "exact" if self.error[self.certified].max() < 1e-6 else f"within {float(self.error[self.certified].max()):.1g}"
        return (
            f"{proven} of {len(self.certified)} pictures are certified {word}: run through the model, the batch leaves "
            f"{self.remainder:.1g} of a gradient unexplained, within the update's precision ({self.allowed:.1g})"
        )


def certify(
    observation: Observation,
    end: Tail,
    first: Split,
    pictures: Float[Tensor, "batch channels height width"],
    labels: Float[Tensor, "batch classes"],
) -> Certificate:
    """Holds what the pictures and labels explain of the update against the noise that the split found in it.

    The noise comes from the update alone: it is what lies outside the split's directions, whatever was restored. The search
    never sees most of what is checked here (its own layer's fit aside): the pictures must reproduce every layer's gradient.
    A picture is certified if the whole batch's remainder is noise, which is at most `LARGEST_NOISE` of every gradient, its
    pixels lie in [0, 1], and noise moves it by less than `LARGEST_ERROR`. `pictures` without an example stand for one whose
    contribution is below the noise.
    """
    model = victim(observation)
    slopes, explained = slopes_at_first(model, end, pictures, labels, observation)
    wanted = observation.gradient()
    share = first.noise / float(first.values.square().sum().div(len(first.live) * first.right.shape[1]).sqrt())
    floor = FLOOR.get(next(iter(observation.update.parameters.values())).dtype, 1e-6) / SLACK
    worst, at, most = -1.0, (0.0, 0.0), 0.0
    for name, gradient in explained.items():
        if name not in wanted:
            continue
        size = float(wanted[name].double().square().mean().sqrt())
        rest = float((wanted[name].double() - gradient).square().mean().sqrt())
        allowed = SLACK * max(first.noise, share * size, floor * size)
        most = max(most, allowed / max(size, 1e-300))
        if allowed > 0 and rest / allowed > worst:
            worst, at = rest / allowed, (rest / max(size, 1e-300), allowed / max(size, 1e-300))
    assert end.slope is not None
    spread = torch.linalg.pinv(slopes).norm(dim=1) * max(first.noise, 1e-16 * float(first.values[0]))
    error = DEVIATIONS * spread / float(end.slope.abs().min())
    beyond = 0.5 / 255 + FARTHEST * error[:, None, None, None]
    inside = (pictures > -beyond) & (pictures < 1 + beyond)
    certified = inside.flatten(1).all(1) & (error < LARGEST_ERROR) & (worst <= 1) & (most <= LARGEST_NOISE)
    return Certificate(certified, at[0], at[1], most, error)


def slopes_at_first(
    model: nn.Module, end: Tail, pictures: Tensor, labels: Tensor, observation: Observation
) -> tuple[Float[Tensor, "units batch"], Tensors]:
    """Every example's slope of the loss at the first layer's output (one a column), and the update that the batch explains.

    The loss is the mean over as many examples as the client reports. Several local steps on the whole batch are made as the
    client makes them; the slopes are then their average.
    """
    training, names = observation.training, [name for name, _ in model.named_parameters()]
    seen: list[Tensor] = []

    def remember(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    hook = model.get_submodule(end.layers[0].name).register_forward_hook(remember)
    share = len(pictures) / observation.examples
    total: Tensors = {}
    slopes = torch.zeros(0)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    try:
        for _ in range(observation.steps):
            seen.clear()
            leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
            loss = functional.cross_entropy(torch.func.functional_call(model, leaves, (pictures,)), labels) * share
            found = torch.autograd.grad(loss, [*leaves.values(), seen[0]], materialize_grads=True)
            slope = found[-1].T
            slopes = slope if not len(slopes) else slopes + slope
            for name, gradient in zip(names, found[:-1], strict=True):
                velocity[name] = training.momentum * velocity[name] + gradient
                total[name] = total.get(name, torch.zeros_like(gradient)) + velocity[name]
                parameters[name] = parameters[name] - training.learning_rate * velocity[name]
    finally:
        hook.remove()
    momentum, weight, weights = training.momentum, 0.0, 0.0
    for _ in range(observation.steps):
        weight = momentum * weight + 1
        weights += weight
    return slopes / observation.steps, {name: tensor / weights for name, tensor in total.items()}
