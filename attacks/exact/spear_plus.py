"""SPEAR's goal (Dimitrov et al., NeurIPS 2024, arXiv 2403.03945) in polynomial time, from the last hidden layer backwards."""

import time

import torch

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.directions.inputs import fault_of, inputs_of, walked_back
from attacks.directions.layers import Tail, tail
from attacks.directions.low_rank import Split, split
from attacks.directions.search import Effort, searched_through
from attacks.directions.two_values import Found
from attacks.exact.alternation import Seen, alternated, reconstruction, taken_out, unfit
from attacks.exact.assembly import completed_labels
from attacks.exact.proof import proof_of
from learning.catalogue import Count, Positive, settings


@settings
class SpearPlus(Attack):
    """A batch's pictures and labels, exactly, from one update of a network that ends in linear layers with ReLU between.

    The last hidden layer is taken apart by the search of `two_values`; the layers before it follow by least squares, since
    a layer's input says where ReLU was open in the layer before. Where a picture stands at the beginning, the pictures are
    brought to the update's precision and certified; where convolutions do, the labels are all that is returned. If the search
    ends without all examples of one hidden layer, those whose inputs units tell are peeled off, and what they leave is a
    smaller update for `peeling` and for the search again. Clipping by norm is undone.

    `starts`: of the search, at once and for one class. `reflections`: of each in the first pass, and more in each later one.
    `rounds`: passes over the classes. `seconds`: after which the search gives up. Helpers search for other classes meanwhile.

    Examples whose share of the update is below its noise (a trained model is sure of them), or that were not found, have
    grey pictures that are not certified; their labels are what `auto` restores, less the labels that were found.
    `identifiable` and `verdict` are those of the certificate.
    Raises `NotApplicable` where no hidden linear layer feeds the last one through ReLU, or the batch is as large as a layer.
    """

    starts: Count = Effort.starts
    reflections: Count = Effort.reflections
    rounds: Count = Effort.rounds
    seconds: Positive = 300.0

    def effort(self) -> Effort:
        """What the search may cost, from now on."""
        return Effort(time.monotonic() + self.seconds, self.starts, self.reflections, self.rounds)

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        end = tail(observation)
        if len(end.layers) < 2:
            raise NotApplicable("no linear layer feeds the last one through ReLU")
        hidden, last = end.layers[-2:]
        seen, effort = Seen(observation, end, split(hidden.gradient, observation.examples)), self.effort()
        found = searched_through(observation, seen.parts, hidden, last, effort, rng)
        if found.directions.shape[1] < seen.parts.rank and not unfit(observation, end):
            larger, some = taken_out(seen, found)
            if len(some):
                return reconstruction(*alternated(larger, larger.peeled(some), effort, rng), rng)
        return assembled(observation, end, seen.parts, found, rng)


def assembled(observation: Observation, end: Tail, parts: Split, found: Found, rng: torch.Generator) -> Reconstruction:
    """The reconstruction that directions at the last hidden layer stand for."""
    too_many = found.directions.shape[1] > parts.rank
    labels = completed_labels(observation, found.classes[:0] if too_many else found.classes, rng)
    if fault := fault_of(found.directions):
        return Reconstruction(labels=labels, identifiable=False, verdict=fault)
    if end.slope is None:
        word = f"{parts.rank} of {observation.examples} labels are read off the update; the pictures stand behind other layers"
        return Reconstruction(labels=labels, identifiable=parts.rank == observation.examples, verdict=word)
    known = walked_back(end, len(end.layers) - 2, inputs_of(end.layers[-2], parts, found.directions))
    first = parts if len(end.layers) == 2 else split(end.layers[0].gradient, observation.examples)
    return proof_of(observation, end, first, known.inputs, found.classes).reconstruction(observation, labels)
