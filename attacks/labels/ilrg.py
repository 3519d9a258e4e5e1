"""iLRG: instance-wise batch label restoration (Ma et al., ICLR 2023)."""

from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.labels.counts import counts_by_least_squares, rows_of, whole_counts
from attacks.labels.last_layer import last_layer_with_bias
from learning.catalogue import settings

LARGEST_EMBEDDING = 1e10
SINGULAR = 1e-10  # the least pivot, as a share of the greatest, with which a system is solved without the pseudo-inverse


@settings
class ILRG(Attack):
    """How many examples of each class the batch holds, from the gradient of the last layer's weight and bias.

    Every class's embedding is its row of the weight gradient divided by its entry of the bias gradient; the model's last
    layer turns it into that class's probabilities; the counts are the least-squares solution of the linear system that
    the bias gradient and the batch size give. On untrained models nearly always right, and exact for one example; a
    shallow network with few classes and repeated labels costs it a count now and then. On trained models its
    approximations (one embedding a class, rows that only see their own class) break down.

    Departs from the authors' code in three places, all for the better: the ratio is clipped at once and not digit by digit,
    and the system is solved by its structure (the same result, two orders of magnitude faster); and counts are rounded so
    that they sum to the batch size.
    `solver`: "pseudo-inverse" is the paper's and may find negative counts, which are then moved to the nearest possible ones;
    "non-negative" looks only among counts that are not negative and have the right total, which loses less on trained models.

    Assumes a last linear layer with a bias. Raises `NotApplicable` otherwise.
    """

    solver: Literal["pseudo-inverse", "non-negative"] = "pseudo-inverse"

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        weight, bias, weight_gradient, bias_gradient = last_layer_with_bias(observation)
        total = observation.examples
        probabilities = _class_probabilities(weight, bias, weight_gradient, bias_gradient)
        solve = _by_pseudo_inverse if self.solver == "pseudo-inverse" else _without_negatives
        estimate = solve(probabilities, total * bias_gradient, total)
        return Reconstruction(labels=rows_of(whole_counts(estimate, total)))


def _class_probabilities(weight: Tensor, bias: Tensor, weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """Row i: the probabilities that the last layer gives to class i's embedding, `(classes, classes)`.

    Where no ratio needs clipping, the last layer is asked before the division: classes and not features are divided. A row's
    Euclidean norm is no less than its largest entry, and is found ten times sooner.
    """
    logits = weight_gradient @ weight.T
    logits.div_(bias_gradient[:, None])
    plain = torch.linalg.vector_norm(weight_gradient, dim=1) < LARGEST_EMBEDDING * bias_gradient.abs()  # not NaN or 0 / 0
    if not plain.all():
        rest = (weight_gradient[~plain] / bias_gradient[~plain, None]).nan_to_num(0.0, LARGEST_EMBEDDING, -LARGEST_EMBEDDING)
        logits[~plain] = rest.clamp(-LARGEST_EMBEDDING, LARGEST_EMBEDDING) @ weight.T
    return torch.softmax(logits.add_(bias), dim=1)


def _without_negatives(probabilities: Tensor, summed_gradient: Tensor, total: int) -> Tensor:
    """The same counts as `_by_pseudo_inverse`, none negative and their total exact."""
    summed_gradient = summed_gradient.nan_to_num(0.0, LARGEST_EMBEDDING, -LARGEST_EMBEDDING)
    return counts_by_least_squares(probabilities.T - torch.eye(len(probabilities)).to(probabilities), summed_gradient, total)


def _by_pseudo_inverse(probabilities: Tensor, summed_gradient: Tensor, total: int) -> Tensor:
    """Counts n with sum(n) = total and sum_j n_j p_ji - n_i = K * gradient_i, by least squares over all C + 1 equations.

    Probabilities sum to one, so the C equations sum to zero whatever n is: what the right side sums to (noise) is no
    misfit that n could mend, and the sum of n does not meddle with the others. The least-squares solution is therefore the
    solution of C equations, to each of which the total is added; the pseudo-inverse is left for singular systems.
    """
    system = probabilities.T + 1
    system.diagonal().sub_(1)
    factors, pivots, info = torch.linalg.lu_factor_ex(system)
    least, greatest = torch.aminmax(factors.diagonal().abs())
    if int(info) == 0 and least > SINGULAR * greatest:
        right = summed_gradient + (total - summed_gradient.mean())
        return torch.linalg.lu_solve(factors, pivots, right[:, None])[:, 0]
    right = torch.cat([torch.tensor([float(total)]).to(summed_gradient), summed_gradient])
    return torch.linalg.pinv(torch.cat([torch.ones_like(system[:1]), system - 1])) @ right
