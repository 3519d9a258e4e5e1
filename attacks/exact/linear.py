"""One example, solved for: a first linear layer with a bias, or a whole ReLU network without any.

The first is folklore (Phong et al. 2017; Geiping et al., NeurIPS 2020, proposition 3.1); the second is the FCN of Wang et
al., ICLR 2024, whose label and features come from one equation in one unknown.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.directions.inputs import Inputs, walked_back
from attacks.directions.layers import Rectified, Tail, common_input, entry, tail, victim
from attacks.directions.low_rank import split
from attacks.exact.assembly import clipped_share
from attacks.exact.certificate import certify
from attacks.exact.proof import Proof
from attacks.labels.last_layer import last_layer
from attacks.labels.soft_labels import SoftLabels, hard_label
from learning.catalogue import settings

GRID, ZOOM, ZOOMS = 2000, 17, 14


@settings
class Linear(Attack):
    """The picture and the label of a single example, whatever its label: hard, smoothed or mixed.

    With a bias, every row of the first layer's weight gradient is the picture times that row's bias gradient: the picture is
    least squares over the rows, for any activation behind the layer. Its label is what the model answers less the last
    layer's bias gradient, or `soft-labels`' where that has no bias.

    Without one, in a network of linear layers and ReLU, `soft-labels` restores the label, the label the last layer's
    features and errors, and each layer's input says where ReLU was open in the layer before, down to the picture.

    Raises `NotApplicable` for several examples or local steps, and where no linear layer sees the picture.
    """

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.examples != 1:
            raise NotApplicable(f"one example can be solved for, and the client used {observation.examples}: see spear-plus")
        if observation.steps != 1:
            raise NotApplicable(f"the example is solved for from one local step, and the client made {observation.steps}")
        first = entry(observation)
        layer = first.layers[0]
        pixels = layer.weight.shape[1]
        if layer.gradient.shape[1] > pixels:
            errors = layer.gradient[:, pixels]
            if not errors.any():
                raise NotApplicable(f"the bias gradient of '{layer.name}' is zero")
            pictures = first.pictures(common_input(layer.gradient[:, :pixels], errors)[None], observation.image_shape)
            rows = _label(observation, pictures)
        else:
            end = tail(observation)
            if end.slope is None:
                raise NotApplicable("without biases, linear layers with ReLU between must lead from the picture to the classes")
            rows = _soft_label(observation)
            pictures = first.pictures(_walked(end, rows[0]), observation.image_shape)
        if (share := clipped_share(observation, first, pictures, rows)) < 1:
            observation = observation.enlarged(share)
            first = entry(observation)
        certificate = certify(observation, first, split(first.layers[0].gradient, 1), pictures, rows)
        proof = Proof(pictures, certificate.certified, certificate.sentence)
        return proof.reconstruction(observation, rows.float().cpu())


def _label(observation: Observation, pictures: Tensor) -> Float[Tensor, "1 classes"]:
    """The row of class probabilities that explains the last layer's gradient, be it clipped or not."""
    last = last_layer(observation)
    if last.bias_gradient is None:
        return _soft_label(observation)
    with torch.no_grad():
        answer = torch.softmax(victim(observation)(pictures), 1)
    if (hard := hard_label(answer, last.bias_gradient)) is not None:
        return hard[None]
    row = (answer - last.bias_gradient).clamp_min(0)
    return row / row.sum()


def _soft_label(observation: Observation) -> Float[Tensor, "1 classes"]:
    row, fault = SoftLabels().restored(observation)
    if fault:
        raise NotApplicable(f"the picture is read off the label, and labels are not identifiable here: {fault}")
    return row.double()


def _walked(end: Tail, label: Float[Tensor, " classes"]) -> Float[Tensor, "1 pixels"]:
    """The first layer's input, from the last layer's errors and features backwards."""
    last = end.layers[-1]
    return walked_back(end, len(end.layers) - 1, _features(last, label.to(last.weight))).inputs


def _features(last: Rectified, label: Float[Tensor, " classes"]) -> Inputs:
    """Errors and features of the last layer, whose gradient is the one times the other.

    Both are known up to a factor and its inverse; the factor is the one with which softmax of the features' logits less the
    label is the errors, to be found on a grid of both signs and by zooming.
    """
    left, values, right = torch.linalg.svd(last.gradient[:, : last.weight.shape[1]], full_matrices=False)
    errors, features = left[:, 0], values[0] * right[0]
    scores = last.weight @ features
    offset = torch.zeros_like(scores) if last.bias is None else last.bias

    def distance(factors: Tensor) -> Tensor:
        answers = torch.softmax(scores / factors[:, None] + offset, 1)
        # relative: a small factor makes every difference of errors small
        return (answers - label - factors[:, None] * errors).norm(dim=1) / factors.abs()

    best, size = (torch.inf, 1.0), torch.logspace(-6, 0.2, GRID, dtype=torch.float64, device=scores.device)
    for signed in (size, -size):
        heights = distance(signed)
        inside = ((heights[1:-1] <= heights[:-2]) & (heights[1:-1] <= heights[2:])).nonzero().flatten() + 1
        for index in inside.tolist():
            low, high = float(signed[index - 1]), float(signed[index + 1])
            for _ in range(ZOOMS):
                points = torch.linspace(low, high, ZOOM, dtype=torch.float64, device=scores.device)
                at = int(distance(points).argmin())
                low, high = float(points[max(at - 1, 0)]), float(points[min(at + 1, ZOOM - 1)])
            found = (low + high) / 2
            height = float(distance(torch.tensor([found], dtype=torch.float64, device=scores.device)))
            best = min(best, (height, found))
    return Inputs((features / best[1])[None], (errors * best[1])[:, None])
