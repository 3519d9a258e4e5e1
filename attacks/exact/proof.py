"""What was restored of a batch and how far it is proven, and the reconstruction that says so."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.attack import Observation, Reconstruction, label_rows
from attacks.directions.layers import Tail, dtype_of
from attacks.directions.low_rank import Split
from attacks.exact.assembly import refined, unclipped
from attacks.exact.certificate import certify


@dataclass(frozen=True)
class Proof:
    """Pictures of examples found, which of them are certified, and a sentence that says how."""

    pictures: Float[Tensor, "found channels height width"]
    certified: Bool[Tensor, " found"]
    sentence: str

    def reconstruction(self, observation: Observation, labels: Float[Tensor, "examples classes"]) -> Reconstruction:
        """The pictures first, and grey ones that are not certified for the examples that were not found."""
        missing = observation.examples - len(self.pictures)
        grey = self.pictures.new_full((missing, *observation.image_shape), 0.5)
        return Reconstruction(
            images=torch.cat([self.pictures.nan_to_num(0.5).clamp(0, 1), grey]).cpu().to(dtype_of(observation)),
            labels=labels,
            certified=torch.cat([self.certified.cpu(), torch.zeros(missing, dtype=torch.bool)]),
            identifiable=bool(self.certified.any()),
            verdict=self.sentence,
        )


def proof_of(
    observation: Observation, end: Tail, first: Split, inputs: Float[Tensor, "batch pixels"], classes: Tensor
) -> Proof:
    """Of a whole batch, brought to the update's precision: run through the model, it gives the update, clipped or not.

    `first`: the split of the first layer's gradient.
    """
    rows = label_rows(classes.cpu(), observation.classes).to(inputs)
    observation, end, first = unclipped(observation, end, first, inputs, rows)
    pictures = refined(observation, end, inputs, rows)
    certificate = certify(observation, end, first, pictures, rows)
    return Proof(pictures, certificate.certified, certificate.sentence)
