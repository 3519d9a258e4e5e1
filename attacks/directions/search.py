"""The search for a batch's directions, class by class and pass by pass, at the last hidden layer."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.attack import Observation
from attacks.directions.completion import completed
from attacks.directions.layers import Rectified, common_input, dtype_of
from attacks.directions.low_rank import Split
from attacks.directions.two_values import Found, Search, joined, nothing, searched, typical_errors
from attacks.helpers import helpers

LONGEST = 6  # times the first pass's reflections are a later pass's at most
ROUNDINGS = 4  # in the precision of the update, of every slope
SEVERAL = 0.35  # relative residual of a direction after several local steps


@dataclass(frozen=True)
class Effort:
    """Of a search: `starts` at once for one class, `reflections` of each in the first pass, passes, and when it gives up.

    `deadline`: by the monotonic clock.
    """

    deadline: float
    starts: int = 64
    reflections: int = 200
    rounds: int = 24


def searched_through(
    observation: Observation, parts: Split, hidden: Rectified, last: Rectified, effort: Effort, rng: torch.Generator
) -> Found:
    """The directions found in as many passes as it takes to have as many as the rank, or until the effort is spent.

    `parts`: the split of the last hidden layer's gradient. Helpers search for other classes meanwhile.
    """
    # several steps change the slopes a little from one to the next: what is found is near, and refined afterwards
    tolerance = max(1e-8, 20 * parts.unsure, rounding(observation), SEVERAL if observation.steps > 1 else 0.0)
    outgoing, answer, classes = last.weight.T[parts.live], typical_answer(last), len(last.weight)
    counts = expected_counts(last, answer, observation.examples)
    found, given = nothing(parts, classes), (parts, hidden, outgoing, effort.starts, tolerance)
    for turn in range(effort.rounds):
        reflections = effort.reflections * min(1 + turn, LONGEST)
        if turn % 2:  # a trained model answers every example differently
            answer = torch.zeros(classes).exponential_(generator=rng).square().to(parts.left)
        every = [typical_errors(answer, own) for own in range(classes)]
        waiting = list(range(classes))
        while waiting and time.monotonic() < effort.deadline and found.directions.shape[1] < parts.rank:
            searches: list[Search] = []
            while waiting and len(searches) <= helpers().count:  # one class for everybody
                own = waiting.pop(0)
                if not (left := _left(counts[own], found, own, turn)):
                    continue
                seed = int(torch.randint(2**62, (1,), generator=rng))
                seconds = effort.deadline - time.monotonic()
                searches.append(Search(own, every[own], found, left + turn // 4, reflections, seed, seconds))
            for new in helpers().call(searched, given, searches):
                found = joined(found, new)
        if not waiting and found.directions.shape[1] < parts.rank:
            known = found.directions.shape[1] == parts.rank - 1  # the one that is missing, whatever its class is
            errors = {own: every[own] for own in range(classes) if known or _left(counts[own], found, own, turn)}
            found = completed(found, parts, hidden, last, errors, tolerance, effort.deadline, rng)
        if found.directions.shape[1] >= parts.rank or time.monotonic() > effort.deadline:
            break
    return found


def _left(count: float, found: Found, own: int, turn: int) -> int:
    """How many examples of a class are still to be found, by the label counts; where these say none, they may be wrong."""
    left = count - float((found.classes == own).sum())
    return 0 if left < 0.5 and turn % 4 < 2 else max(1, round(left))


def rounding(observation: Observation) -> float:
    """What a slope's own rounding may leave of it, which the gradient's rank does not show: the whole row has it."""
    return ROUNDINGS * torch.finfo(dtype_of(observation)).eps


def expected_counts(last: Rectified, answer: Tensor, examples: int) -> list[float]:
    """Examples of each class, by the last layer's bias gradient, if all are answered alike; as many of each without one."""
    if last.bias is None:
        return [examples / len(last.weight)] * len(last.weight)
    return (examples * (answer - last.gradient[:, -1])).tolist()


def typical_answer(last: Rectified) -> Tensor:
    """Class probabilities of the features that fit the last layer's gradient best, if all examples had the same."""
    if last.bias is None:
        return torch.full_like(last.weight[:, 0], 1 / len(last.weight))
    errors = last.gradient[:, -1]
    return torch.softmax(last.weight @ common_input(last.gradient[:, :-1], errors) + last.bias, 0)
