"""Peeling (Geiping et al., NeurIPS 2020, proposition 3.1, unit by unit; see `isolation`), and the search for the rest."""

import torch

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.directions.layers import tail
from attacks.directions.low_rank import split
from attacks.exact.alternation import Seen, alone, alternated, reconstruction, unfit
from attacks.exact.spear_plus import SpearPlus
from learning.catalogue import Positive, settings


@settings
class Peeling(Attack):
    """The pictures and labels of a batch from a network with one hidden layer of ReLU, peeled off unit by unit.

    What a unit says of an example is believed if the known model, given it, answers with a slope that the gradient holds, in
    the right amount (see `believed`). What no unit sees alone is left to `spear-plus`, as an update of fewer examples; if it
    finds some of them, what they leave is peeled again, and so on. Clipping by norm is undone.

    `finish`: whether it is left to `spear-plus`; without it this is peeling alone. `seconds`: after which that gives up.

    Where all examples are found, the certificate is that of the whole batch; else peeled pictures are certified one by one.
    Pictures not found are grey and not certified, and their labels are what `auto` restores.
    Raises `NotApplicable` for several local steps, for another network, and where the batch is as large as the layer.
    """

    finish: bool = True
    seconds: Positive = 300.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        end = tail(observation)
        if reason := unfit(observation, end):
            raise NotApplicable(reason)
        effort = SpearPlus(seconds=self.seconds).effort()
        seen, certain = alone(Seen(observation, end, split(end.layers[0].gradient, observation.examples)))
        found = certain
        if self.finish:
            seen, certain, found = alternated(seen, certain, effort, rng)
        return reconstruction(seen, certain, found, rng)
