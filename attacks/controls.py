"""Controls: what is restored without looking at the update. An attack that does no better has found nothing."""

import torch

from attacks.attack import Attack, Observation, Reconstruction, label_rows
from learning.catalogue import settings


@settings
class Null(Attack):
    """Pictures and labels drawn at random: every pixel uniform in [0, 1], every class equally likely."""

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        images = torch.rand(observation.examples, *observation.image_shape, generator=rng)
        labels = torch.randint(observation.classes, (observation.examples,), generator=rng)
        return Reconstruction(images=images, labels=label_rows(labels, observation.classes))


@settings
class Mean(Attack):
    """The mean picture of the granted public pictures, for every example; labels by their public frequencies.

    Of all pictures drawn without looking, the mean has the least expected squared error: it is the line that a PSNR has to
    pass.
    """

    needs = ("public",)

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        public, labels = observation.granted.labelled_pictures("their mean is all that this control knows")
        drawn = labels[torch.randint(len(labels), (observation.examples,), generator=rng)]
        images = public.mean(0, keepdim=True).repeat(observation.examples, 1, 1, 1)
        return Reconstruction(images=images, labels=label_rows(drawn, observation.classes))
