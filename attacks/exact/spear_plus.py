"""SPEAR's goal (Dimitrov et al., NeurIPS 2024, arXiv 2403.03945) in polynomial time, from the last hidden layer backwards."""

import time

import torch
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.exact.assembly import inputs_of, refined, unclipped, walked_back
from attacks.exact.certificate import certify
from attacks.exact.completion import completed
from attacks.exact.layers import Rectified, Tail, dtype_of, tail
from attacks.exact.low_rank import Split, split
from attacks.exact.two_values import Found, Search, joined, nothing, searched, typical_errors
from attacks.helpers import helpers
from attacks.labels.auto import AutoLabels
from attacks.labels.counts import whole_counts
from attacks.labels.last_layer import common_input
from learning.catalogue import Count, Positive, settings

LONGEST = 6  # times the first pass's reflections are a later pass's at most
ROUNDINGS = 4  # in the precision of the update, of every slope
SEVERAL = 0.35  # relative residual of a direction after several local steps


@settings
class SpearPlus(Attack):
    """A batch's pictures and labels, exactly, from one update of a network that ends in linear layers with ReLU between.

    The last hidden layer is taken apart by the search of `two_values`; the layers before it follow by least squares, since
    a layer's input says where ReLU was open in the layer before. Where a picture stands at the beginning, the pictures are
    brought to the update's precision and certified; where convolutions do, the labels are all that is returned.

    `starts`: of the search, at once and for one class. `reflections`: of each in the first pass, and more in each later one.
    `rounds`: passes over the classes. `seconds`: after which the search gives up. Helpers search for other classes meanwhile.

    Examples whose share of the update is below its noise (a trained model is sure of them), or that were not found, have
    grey pictures that are not certified; their labels are what `auto` restores, less the labels that were found.
    `identifiable` and `verdict` are those of the certificate.
    Raises `NotApplicable` where no hidden linear layer feeds the last one through ReLU, or the batch is as large as a layer.
    """

    starts: Count = 64
    reflections: Count = 200
    rounds: Count = 24
    seconds: Positive = 300.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        end = tail(observation)
        if len(end.layers) < 2:
            raise NotApplicable("no linear layer feeds the last one through ReLU")
        hidden, last = end.layers[-2:]
        parts = split(hidden.gradient, observation.examples)
        return assembled(observation, end, parts, self.directions(observation, parts, hidden, last, rng), rng)

    def directions(
        self, observation: Observation, parts: Split, hidden: Rectified, last: Rectified, rng: torch.Generator
    ) -> Found:
        """Directions at the last hidden layer, until there are as many as the rank, or all passes are over."""
        # several steps change the slopes a little from one to the next: what is found is near, and refined afterwards
        tolerance = max(1e-8, 20 * parts.unsure, rounding(observation), SEVERAL if observation.steps > 1 else 0.0)
        outgoing, answer, classes = last.weight.T[parts.live], typical_answer(last), len(last.weight)
        counts = expected_counts(last, answer, observation.examples)
        found, deadline = nothing(parts, classes), time.monotonic() + self.seconds
        given = parts, hidden, outgoing, self.starts, tolerance
        for turn in range(self.rounds):
            reflections = self.reflections * min(1 + turn, LONGEST)
            if turn % 2:  # a trained model answers every example differently
                answer = torch.zeros(classes).exponential_(generator=rng).square().to(parts.left)
            every = [typical_errors(answer, own) for own in range(classes)]
            waiting = list(range(classes))
            while waiting:
                if time.monotonic() > deadline:
                    return found
                searches: list[Search] = []
                while waiting and len(searches) <= helpers().count:  # one class for everybody
                    own = waiting.pop(0)
                    if not (left := _left(counts[own], found, own, turn)):
                        continue
                    seed = int(torch.randint(2**62, (1,), generator=rng))
                    searches.append(Search(own, every[own], found, left + turn // 4, reflections, seed))
                for new in helpers().call(searched, given, searches):
                    found = joined(found, new)
                if found.directions.shape[1] >= parts.rank:
                    return found
            known = found.directions.shape[1] == parts.rank - 1  # the one that is missing, whatever its class is
            errors = {own: every[own] for own in range(classes) if known or _left(counts[own], found, own, turn)}
            found = completed(found, parts, hidden, outgoing, errors, tolerance, deadline, rng)
            if found.directions.shape[1] >= parts.rank:
                return found
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


def assembled(observation: Observation, end: Tail, parts: Split, found: Found, rng: torch.Generator) -> Reconstruction:
    """The reconstruction that directions at the last hidden layer stand for."""
    if (count := found.directions.shape[1]) > parts.rank:
        none = torch.empty(0, dtype=torch.long)
        word = f"{count} directions fit {parts.rank} examples within the update's noise: which are true cannot be told"
        return Reconstruction(labels=completed_labels(observation, none, rng), identifiable=False, verdict=word)
    labels = completed_labels(observation, found.classes, rng)
    missing = parts.rank - found.directions.shape[1]
    if missing:
        return Reconstruction(
            labels=labels, identifiable=False,
            verdict=f"{found.directions.shape[1]} of {parts.rank} examples were taken apart, and pictures need all of them",
        )  # fmt: skip
    if end.slope is None:
        word = f"{parts.rank} of {observation.examples} labels are read off the update; the pictures stand behind other layers"
        return Reconstruction(labels=labels, identifiable=parts.rank == observation.examples, verdict=word)
    known = walked_back(end, len(end.layers) - 2, inputs_of(end.layers[-2], parts, found.directions))
    rows = label_rows(found.classes, observation.classes).to(known.inputs)
    first = parts if len(end.layers) == 2 else split(end.layers[0].gradient, observation.examples)
    observation, end, first = unclipped(observation, end, first, known.inputs, rows)
    pictures = refined(observation, end, known.inputs, rows)
    certificate = certify(observation, end, first, pictures, rows)
    grey = pictures.new_full((observation.examples - len(pictures), *observation.image_shape), 0.5)
    certified = torch.cat([certificate.certified.cpu(), torch.zeros(len(grey), dtype=torch.bool)])
    return Reconstruction(
        images=torch.cat([pictures.nan_to_num(0.5).clamp(0, 1), grey]).cpu().to(dtype_of(observation)),
        labels=labels,
        certified=certified,
        identifiable=bool(certified.any()),
        verdict=certificate.sentence,
    )


def completed_labels(observation: Observation, classes: Tensor, rng: torch.Generator) -> Tensor:
    """The found labels first, then as many more as there are examples, from what `auto` restores less what was found."""
    rows = label_rows(classes.cpu(), observation.classes)
    missing = observation.examples - len(rows)
    if missing <= 0:
        return rows[: observation.examples]
    try:
        guessed = AutoLabels().reconstruct(observation, rng).labels
    except NotApplicable:
        guessed = None
    left = torch.ones(observation.classes) if guessed is None else (guessed.sum(0) - rows.sum(0)).clamp_min(0)
    left = left if left.sum() > 0 else torch.ones(observation.classes)
    counts = whole_counts(left / left.sum() * missing, missing)
    return torch.cat([rows, label_rows(torch.arange(observation.classes).repeat_interleave(counts), observation.classes)])
