"""GradInversion's labels: the smallest entry of every class's row (Yin et al., CVPR 2021, arXiv 2104.07586, equation 6)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.labels.last_layer import last_layer
from learning.catalogue import settings


@settings
class GradInversionLabels(Attack):
    """The labels of a batch in which no label occurs twice: the classes whose rows hold the most negative entries.

    An example pulls the row of its own class by (p - 1) times its features, and every other row by p times them: where
    features are not negative, a class has a negative entry if and only if it is present.

    Assumes features that are not negative (ReLU, sigmoid), every label once, one local step. Needs no bias. Raises
    `NotApplicable` where labels repeat, as far as that shows: more examples than classes, or than rows with a negative
    entry. Features of both signs hide it.
    """

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        gradient, examples = last_layer(observation).weight_gradient, observation.examples
        if examples > observation.classes:
            raise NotApplicable(
                f"labels repeat ({examples} examples of {observation.classes} classes), and this rule finds every label once"
            )
        found = int(has_negative_entry(gradient).sum())
        if found < examples:
            raise NotApplicable(
                f"labels repeat ({examples} examples, {found} classes in the gradient), and this rule finds every label once"
            )
        classes = gradient.nan_to_num(0.0).min(1).values.argsort(stable=True)[:examples]
        return Reconstruction(labels=label_rows(classes.sort().values, observation.classes))


def has_negative_entry(weight_gradient: Float[Tensor, "classes features"]) -> Bool[Tensor, " classes"]:
    """Which classes the rule finds present: the first half of it, and all that is left of it where labels repeat."""
    return weight_gradient.min(1).values < 0
