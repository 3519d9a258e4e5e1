"""RLG: which labels are present, by singular vectors and linear programs (Dang et al., NeurIPS 2021, arXiv 2111.00556)."""

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.labels.last_layer import last_layer
from learning.catalogue import Positive, settings


@settings
class RLG(Attack):
    """The labels of a batch in which no label occurs twice, whatever the activation: only the last layer's errors are read.

    The weight gradient is the sum of each example's error p - y times its features, so its left singular vectors span the
    errors. An error is negative at its own label alone: a class is present if some combination of the singular vectors is
    negative there and nowhere else, which a linear program decides.

    `tolerance`: singular values below this share of the greatest are noise, and so are entries of that size in the program.

    Assumes fewer examples than classes and than features, one local step. Needs no bias. Finds the set and not how often
    each label occurs. Raises `NotApplicable` where there are too many examples, and where fewer classes are found than there
    are examples (then labels repeat).
    """

    tolerance: Positive = 1e-5

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        gradient, examples = last_layer(observation).weight_gradient.nan_to_num(0.0), observation.examples
        limit = min(gradient.shape)
        if examples >= limit:
            raise NotApplicable(
                f"{examples} examples are too many for singular vectors: fewer than {limit} are needed, the last layer's size"
            )
        scores = separable(gradient, self.tolerance, rank=examples)
        found = torch.nonzero(scores).flatten()
        if len(found) < examples:
            raise NotApplicable(
                f"labels repeat or hide ({examples} examples, {len(found)} classes found), and this method finds each once"
            )
        kept = found[gradient[found].sum(1).argsort(stable=True)[:examples]]
        return Reconstruction(labels=label_rows(kept.sort().values, observation.classes))


def separable(
    weight_gradient: Float[Tensor, "classes features"], tolerance: float, rank: int | None = None
) -> Bool[Tensor, " classes"]:
    """For which classes some combination of the gradient's left singular vectors is negative there and nowhere else.

    `rank`: at most so many singular vectors are used (no more than there are examples).
    """
    left, values, _ = torch.linalg.svd(weight_gradient, full_matrices=False)
    used = left[:, (values > tolerance * values[0]) & (values > 0)][:, :rank].cpu().numpy()
    return torch.tensor([_separated(used, index, tolerance) for index in range(len(used))], dtype=torch.bool)


def _separated(vectors: np.ndarray, index: int, tolerance: float) -> bool:
    """Whether a combination is at most -1 at the index and at least -tolerance everywhere else."""
    if not vectors.size:
        return False
    above = -np.delete(vectors, index, axis=0)
    rows, limits = np.vstack([vectors[index], above]), np.append(-1.0, np.full(len(above), tolerance))
    found = scipy.optimize.linprog(np.zeros(vectors.shape[1]), A_ub=rows, b_ub=limits, bounds=(None, None), method="highs")
    return found.status == 0
