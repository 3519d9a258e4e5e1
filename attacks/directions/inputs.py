"""From directions to what a layer was given, to the layers before it, and through the layers behind it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attacks.directions.layers import Rectified, Tail
from attacks.directions.low_rank import Split


@dataclass(frozen=True)
class Inputs:
    """What a layer was given, one example a row, and the slopes of the mean loss at its output, one example a column."""

    inputs: Float[Tensor, "batch inputs"]
    slopes: Float[Tensor, "units batch"]


def inputs_of(layer: Rectified, parts: Split, directions: Float[Tensor, "rank rank"]) -> Inputs:
    """The layer's inputs from all directions (SPEAR, theorem 3.1 and section 3.4), which may have any scale.

    The inverse of the directions times the split's right factor is every example's input times an unknown number, and that
    number stands in the bias gradient's column, where the input is one. Without a bias it stays unknown: the scale is left
    as the directions have it. There must be no `fault_of` them.
    """
    scaled = torch.linalg.solve(directions, parts.right)
    columns = layer.weight.shape[1]
    sizes = scaled[:, columns] if scaled.shape[1] > columns else scaled.new_ones(len(scaled))
    slopes = scaled.new_zeros(len(layer.gradient), len(scaled))
    slopes[parts.live] = parts.left @ directions * sizes
    return Inputs(scaled[:, :columns] / sizes[:, None], slopes)


def fault_of(directions: Float[Tensor, "rank found"]) -> str | None:
    """Why they cannot be the directions of all examples: their number is not the rank, or some are combinations of others."""
    rank, found = directions.shape
    if found < rank:
        return f"{found} of {rank} directions were found, and pictures need all of them"
    if found > rank:
        return f"{found} directions fit {rank} examples within the update's noise: which are true cannot be told"
    if int(torch.linalg.matrix_rank(directions)) < rank:
        return f"{found} directions were found that are not independent: some are no examples"
    return None


def before(layer: Rectified, after: Rectified, known: Inputs) -> Inputs:
    """The inputs of the layer before one whose inputs and slopes are known.

    Where ReLU let nothing through, the next layer's input is zero. The slopes are then known, and the inputs are least
    squares.
    """
    size = known.inputs.abs().amax().clamp_min(1e-300)
    slopes = (after.weight.T @ known.slopes) * (1e-6 * size < known.inputs.T)
    inputs = torch.linalg.lstsq(slopes, layer.gradient[:, : layer.weight.shape[1]]).solution
    return Inputs(inputs, slopes)


def walked_back(end: Tail, place: int, known: Inputs) -> Inputs:
    """The inputs of the tail's first layer, from those of the layer at that place."""
    for index in range(place - 1, -1, -1):
        known = before(end.layers[index], end.layers[index + 1], known)
    return known


@dataclass(frozen=True)
class RunThrough:
    """What examples explain of the tail's update: their `slopes` at its first layer, and every layer's gradient.

    `gradients`: of the weight, and beside it, as one more column, that of the bias.
    """

    slopes: Float[Tensor, "units batch"]
    gradients: list[Float[Tensor, "_ _"]]


def run_through(
    end: Tail, inputs: Float[Tensor, "batch inputs"], labels: Float[Tensor, "batch classes"], examples: int
) -> RunThrough:
    """Inputs of the tail's first layer, run through the known layers and back; the loss is a mean over so many examples."""
    answers = _answers(end, inputs)
    slopes = _slopes(end, answers, labels, examples)
    given = [inputs, *[answer.clamp_min(0) for answer in answers[:-1]]]
    gradients = [torch.cat([own @ seen, own.sum(1, keepdim=True)], 1) for own, seen in zip(slopes, given, strict=True)]
    return RunThrough(slopes[0], gradients)


def unexplained(
    end: Tail, inputs: Float[Tensor, "batch inputs"], labels: Float[Tensor, "batch classes"], examples: int
) -> float:
    """The share of a layer's gradient that inputs of the tail's first layer leave over, of the worst layer."""
    explained = run_through(end, inputs, labels, examples).gradients
    shares = [
        (layer.gradient - gradient[:, : layer.gradient.shape[1]]).norm() / layer.gradient.norm()
        for layer, gradient in zip(end.layers, explained, strict=True)
    ]
    return float(torch.stack(shares).max())


def _answers(end: Tail, inputs: Float[Tensor, "batch inputs"]) -> list[Float[Tensor, "batch _"]]:
    """Every layer's output, before ReLU."""
    answers = [end.layers[0].answers(inputs)]
    for layer in end.layers[1:]:
        answers.append(layer.answers(answers[-1].clamp_min(0)))
    return answers


def _slopes(end: Tail, answers: list[Tensor], labels: Float[Tensor, "batch classes"], examples: int) -> list[Tensor]:
    """The slopes of the mean loss at every layer's output, one example a column."""
    slopes = [(answers[-1].softmax(1) - labels).T / examples]
    for index in range(len(end.layers) - 1, 0, -1):
        slopes.insert(0, (end.layers[index].weight.T @ slopes[0]) * (answers[index - 1].T > 0))
    return slopes


def fitting_labels(end: Tail, known: Inputs, examples: int) -> Float[Tensor, "batch classes"]:
    """For every example the label with which the layers that it runs through give its slopes' direction best."""
    every, answers = torch.eye(len(end.layers[-1].weight)).to(known.inputs), _answers(end, known.inputs)
    cosines = [
        functional.cosine_similarity(
            _slopes(end, answers, row.expand(len(known.inputs), -1), examples)[0], known.slopes, 0, 1e-300
        )
        for row in every
    ]
    return every[torch.stack(cosines).argmax(0)]
