"""Adam (Kingma and Ba 2015) for a stack of restarts at once, each with its own history and its own best point."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.matching.slopes import Slope
from learning.tensors import Tensors

FIRST, SECOND, LEAST = 0.9, 0.999, 1e-8
PATIENCE, LEAST_FALL = 0.4, 1e-3  # the losses stand still if this share of the iterations takes off less than that share
LOOKS = 20  # in that time at whether they do
REMEMBERED = 0.8  # of the losses' running mean in a step: of some five; one of twenty misses where a descent passes by


@dataclass(frozen=True)
class Run:
    """Where a descent came to: the variables where the running mean of the losses was least, their loss, and that mean.

    `history`: the losses at the start and after every step. Those of a ReLU network jump by a tenth from step to step, and
    the least of them is often an early lucky one.
    """

    variables: Tensors
    loss: float
    mean: float
    history: tuple[float, ...]


@dataclass
class _Course:
    """A restart's losses so far, and the mean up to each, in which every one counts a fifth less than the next."""

    losses: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    least: float = math.inf  # mean
    there: float = math.inf  # the loss

    @property
    def lost(self) -> bool:
        return self.losses[-1] == math.inf

    def falls(self, loss: float) -> bool:
        """Takes the next loss, and says whether the mean has never been as low. After one that is not finite there is none."""
        if self.losses and self.lost:
            return False
        self.losses.append(loss if math.isfinite(loss) else math.inf)
        weight = (1 - REMEMBERED ** len(self.losses)) / (1 - REMEMBERED)
        before = self.means[-1] if self.means else 0.0
        self.means.append(before + (self.losses[-1] - before) / weight)
        if self.means[-1] >= self.least:
            return False
        self.least, self.there = self.means[-1], loss
        return True

    def still(self, patience: int) -> bool:
        """Whether the mean has not fallen by a thousandth in so many iterations, after as many."""
        if len(self.means) <= 2 * patience:
            return self.lost
        return min(self.means[-patience:]) > (1 - LEAST_FALL) * min(self.means[:-patience])

    def run(self, variables: Tensors) -> Run:
        return Run(variables, self.there, self.least, tuple(self.losses))


def best_of(runs: Iterable[Run]) -> Run:
    """The run of the least mean loss."""
    return min(runs, key=lambda run: run.mean)


@torch.no_grad()
def descend(
    slope: Slope,
    starts: Tensors,
    iterations: int,
    rate: Callable[[int], float],
    signed: Sequence[bool] | bool = False,
    scales: dict[str, float] | None = None,
    bounded: tuple[str, ...] = ("images",),
    before: Callable[[int, Tensors], None] | None = None,
    sign: Callable[[Tensor], Tensor] = torch.sign,
    decay: float = 0.0,
) -> list[Run]:
    """Moves every restart downhill and returns one run for each, in the order of the starts, which it leaves alone.

    `starts`: variables by name, the first axis being the restarts. `rate`: the step of that iteration, `scales` what it is
    multiplied by for a variable: one of nought is given back as it is at the end. `signed`: Adam sees the `sign` of the slope
    only, in all restarts or in those that are marked. What is `bounded` is put back into [0, 1] after every step, and goes
    back to the middle by the share `decay` of the step's length first (AdamW, Loshchilov and Hutter 2019). `before` is called
    with every iteration and the variables before they are looked at, and may change them.

    A restart whose loss is not finite stays where it is; the descent ends when all do, or when no mean loss has fallen by a
    thousandth in two fifths of the iterations: less, and a rate that still falls would have had its turn.
    """
    scales = scales or {}
    now = {name: tensor.detach().clone() for name, tensor in starts.items()}
    moved = [name for name in now if scales.get(name) != 0]
    first = {name: torch.zeros_like(now[name]) for name in moved}
    second = {name: torch.zeros_like(now[name]) for name in moved}
    best = now | {name: now[name].clone() for name in moved}
    restarts = len(next(iter(now.values())))
    marks = torch.tensor([signed] * restarts if isinstance(signed, bool) else list(signed))
    signs = {name: marks.to(now[name].device).view(-1, *[1] * (now[name].ndim - 1)) for name in moved}
    courses = [_Course() for _ in range(restarts)]
    patience = max(1, round(PATIENCE * iterations))
    for iteration in range(iterations + 1):
        if before is not None:
            before(iteration, now)
        sloped, losses = slope(now)
        fallen = [restart for restart, loss in enumerate(losses.tolist()) if courses[restart].falls(loss)]
        stopped = [course.lost for course in courses]
        for name in moved:
            if len(fallen) == restarts:
                best[name].copy_(now[name])
            elif fallen:
                best[name][fallen] = now[name][fallen]
        look = iteration % max(1, patience // LOOKS) == 0
        if iteration == iterations or all(stopped) or (look and all(course.still(patience) for course in courses)):
            break
        halted = torch.tensor(stopped) if any(stopped) else None
        for name in moved:
            tensor, seen = now[name], sloped[name]
            held = None if halted is None else tensor[halted]
            if held is not None:
                seen = seen.nan_to_num(0.0, 0.0, 0.0)
            if marks.all():
                seen = sign(seen)
            elif marks.any():
                seen = torch.where(signs[name], sign(seen), seen)
            first[name].lerp_(seen, 1 - FIRST)
            second[name].mul_(SECOND).addcmul_(seen, seen, value=1 - SECOND)
            root = (second[name] / (1 - SECOND ** (iteration + 1))).sqrt_().add_(LEAST)
            length = rate(iteration) * scales.get(name, 1.0)
            if decay and name in bounded:
                tensor.sub_(tensor - 0.5, alpha=length * decay)
            tensor.addcdiv_(first[name], root, value=-length / (1 - FIRST ** (iteration + 1)))
            if name in bounded:
                tensor.clamp_(0, 1)
            if held is not None:
                tensor[halted] = held
    return [course.run({name: tensor[i] for name, tensor in best.items()}) for i, course in enumerate(courses)]


def soft_sign(slopes: Tensor) -> Tensor:
    """A stack's slopes as signs, but near zero as they are: the hyperbolic tangent in units of each one's mean size."""
    size = slopes.flatten(1).abs().mean(1).clamp_min(torch.finfo(slopes.dtype).tiny)
    return (slopes / size.view(-1, *[1] * (slopes.ndim - 1))).tanh()


def falling(schedule: str, iterations: int, warm_up: int = 0) -> Callable[[int], float]:
    """What is left of the learning rate in an iteration, after `warm_up` iterations in which it rises.

    "cosine" falls to zero along half a cosine; "steps" divides by ten after 3/8, 5/8 and 7/8; "constant" stays.
    """

    def share(iteration: int) -> float:
        if iteration < warm_up:
            return (iteration + 1) / (warm_up + 1)
        if schedule == "cosine":
            return (1 + math.cos(math.pi * (iteration - warm_up) / max(iterations - warm_up, 1))) / 2
        if schedule == "steps":
            return 0.1 ** sum(iteration >= iterations * eighths // 8 for eighths in (3, 5, 7))
        return 1.0

    return share
