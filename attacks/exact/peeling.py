"""Peeling: examples that some unit sees alone, taken off one after another; and the search of `spear-plus` for the rest.

A unit of the first layer that ReLU leaves open for a single example has, as its row of the gradient, that example's input
times a number, and the bias gradient is the number: their ratio is the input (Geiping et al., NeurIPS 2020, proposition 3.1).
Its share of the whole gradient is then known and is subtracted, which leaves other units with a single example; and so on
until no unit has one. That needs units that are open for few pictures, as there are where pictures are between 0 and 1:
normalised to mean zero, pictures leave every unit open for about half of them.

A unit that is shut for a single example gives it away as well, and where pictures are bright there are as many of those. An
example's slope at an open unit is the unit's outgoing weights times the example's error p - y, so the row of a unit that is
open for all is a known combination of one sum for each class, of errors times inputs. A few such units more than there are
classes give these sums (`opened_to_all`), and the sums what every unit's row would be if it were open for all. Less the
row that it has, that is the row of a unit which is open where this one is shut. This second view is this project's own.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.exact.assembly import refined
from attacks.exact.certificate import certify, slopes_at_first
from attacks.exact.layers import Tail, dtype_of, tail, victim
from attacks.exact.low_rank import Split, split
from attacks.exact.spear_plus import SpearPlus, completed_labels
from learning.catalogue import Positive, settings
from learning.tensors import Update

TOLERANCE, UNSURE = 1e-6, 20.0  # relative, of all that an input must reproduce; times the gradient's own uncertainty
TRUSTED, LOOSE = 1e-3, 20.0  # error of an input that is certified by itself; times the tolerance, that of one that fits it
OUTSIDE = 1e-3  # of their range, by which pixels may miss it
FAINT = 1e-9  # bias gradient, relative to the greatest, below which a row says nothing
ALIKE = 1e-9  # how far the cosine of two slopes is from one, at least, where they are different examples
SETTLINGS, CUT = 2, 1e-9  # least squares of one round; relative singular value below which nothing is heard
SPARE, SKETCH = 3, 64  # units that agree beyond as many as classes; numbers that stand for a row where they are sought
TRIALS, CONCENTRATIONS = 40, 10
ROUNDED = 1e-13  # relative, what float64 itself leaves of a row
DETERMINED = 1e-3  # share of an input that the units leave open, up to which they determine it


@settings
class Peeling(Attack):
    """The pictures and labels of a batch from a network with one hidden layer of ReLU, peeled off unit by unit.

    What a unit says of an example is believed if the known model, given it, answers with a slope that the gradient holds, in
    the right amount (see `believed`). What no unit sees alone is left to `spear-plus`, as an update of fewer examples.

    `finish`: whether it is; without it this is peeling alone. `seconds`: after which `spear-plus` gives up.

    Where all examples are found, the certificate is that of the whole batch; else peeled pictures are certified one by one.
    Pictures not found are grey and not certified, and their labels are what `auto` restores.
    Raises `NotApplicable` for several local steps, for another network, and where the batch is as large as the layer.
    """

    finish: bool = True
    seconds: Positive = 300.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.steps != 1:
            raise NotApplicable(f"units are peeled off one local step's gradient, and the client made {observation.steps}")
        end = tail(observation)
        if len(end.layers) != 2 or end.slope is None:
            raise NotApplicable("the network is not one hidden layer of ReLU that sees the picture; see spear-plus")
        if end.layers[0].bias is None:
            raise NotApplicable(f"layer '{end.layers[0].name}' has no bias, whose gradient says how large an input is")
        parts = split(end.layers[0].gradient, observation.examples)
        alone = peeled(end, parts, observation.examples)
        found, proof = alone, None
        if self.finish and len(alone) < parts.rank:
            found = alone.joined_by(_finished(observation, end, alone, self.seconds, rng))
        if len(found) == parts.rank:
            proof = _proof_of_all(observation, end, parts, found)
        if proof is None or (len(alone) < len(found) and not proof.certified.all()):
            found, proof = alone, _proof_of_some(observation, end, parts, alone)
        missing = observation.examples - len(found)
        grey = proof.pictures.new_full((missing, *observation.image_shape), 0.5)
        return Reconstruction(
            images=torch.cat([proof.pictures.nan_to_num(0.5).clamp(0, 1), grey]).cpu().to(dtype_of(observation)),
            labels=completed_labels(observation, found.classes, rng),
            certified=torch.cat([proof.certified.cpu(), torch.zeros(missing, dtype=torch.bool)]),
            identifiable=bool(proof.certified.any()),
            verdict=f"{proof.sentence}; {len(alone)} examples were peeled off",
        )


@dataclass(frozen=True)
class Peeled:
    """Examples found: their inputs to the first layer and their classes."""

    inputs: Float[Tensor, "found inputs"]
    classes: Int[Tensor, " found"]

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, chosen: Tensor) -> "Peeled":
        """Those at these indices, or where the mask is true."""
        return Peeled(self.inputs[chosen], self.classes[chosen])

    def joined_by(self, others: "Peeled") -> "Peeled":
        """These, and the others after them."""
        return Peeled(torch.cat([self.inputs, others.inputs]), torch.cat([self.classes, others.classes]))


def tolerance_of(parts: Split) -> float:
    """Relative, of what the known model's answers to an example must fit."""
    return max(TOLERANCE, UNSURE * parts.unsure)


def nothing_of(parts: Split, gradient: Float[Tensor, "units columns"], examples: int) -> float:
    """The norm up to which a row of the gradient of a sum over so many examples is noise."""
    return UNSURE * max(examples * parts.noise * gradient.shape[1] ** 0.5, ROUNDED * float(gradient.norm(dim=1).max()))


def peeled(end: Tail, parts: Split, examples: int) -> Peeled:
    """All examples that peeling finds in the gradient of a mean over so many, of which `parts` is the split."""
    gradient = examples * end.layers[0].gradient
    tolerance, nothing = tolerance_of(parts), nothing_of(parts, gradient, examples)
    found = Peeled(gradient[:0, :-1], parts.live[:0])
    while len(found) < parts.rank:
        left = gradient - slopes_of(end, found).T @ with_one(found.inputs)
        new = _seen_alone(end, left, tolerance, opened=True)
        if (sums := opened_to_all(end, left, nothing)) is not None:
            new = new.joined_by(_seen_alone(end, end.layers[1].weight.T @ sums - left, tolerance, opened=False))
        new = new.at(believed(end, parts, new, examples, tolerance))
        new = new.at(_others(slopes_of(end, found), slopes_of(end, new), max(ALIKE, tolerance)))
        if not len(new):
            break
        rest = None if sums is None else sums - errors_of(end, new).T @ with_one(new.inputs)
        found = _settled(end, gradient, found.joined_by(new), rest, nothing, max(CUT, parts.unsure))
    found = found.at(believed(end, parts, found, examples, tolerance))
    return found if len(found) <= parts.rank else found.at(parts.live[:0])  # more than there are: which are true is not known


def opened_to_all(end: Tail, left: Float[Tensor, "units columns"], nothing: float) -> Float[Tensor, "classes columns"] | None:
    """For each class the sum, over the examples that are left, of error times input; None where too few units tell.

    Units that are open for all are sought among those that a grey picture opens widest, by least trimmed squares with
    concentration steps (Rousseeuw and Van Driessen, Technometrics 1999). Their rows agree up to `nothing`, the size of a row
    of noise, which rows of other units do by no chance; `SPARE` more of them than classes are asked for.
    """
    outgoing, grey = end.layers[1].weight.T, end.inputs(left.new_full((1, 1, 1, left.shape[1] - 1), 0.5))
    widest = (end.layers[0].answers(grey)[0] / end.layers[0].weight.norm(dim=1)).argsort(descending=True)
    needed = outgoing.shape[1] + SPARE
    if len(outgoing) < needed:
        return None
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(left.shape[1], SKETCH, generator=rng, dtype=left.dtype).to(left)
    rows = left @ drawn  # as good as the rows themselves to tell which agree, and a thirtieth of the work
    sizes = rows.norm(dim=1)
    for start in range(TRIALS):
        pool = widest[: needed * (2 + start % 4)]
        chosen = (
            pool[: needed * 3 // 2] if start < 4 else pool[torch.randperm(len(pool), generator=rng)[:needed].to(pool.device)]
        )
        sums = _solved(outgoing[chosen], rows[chosen])
        for _ in range(CONCENTRATIONS):
            misfits = (rows[pool] - outgoing[pool] @ sums).norm(dim=1) / sizes[pool].clamp_min(1e-300)
            best = pool[misfits.argsort()[:needed]]
            sums = _solved(outgoing[best], rows[best])
        agree = (rows - outgoing @ sums).norm(dim=1) < nothing * SKETCH**0.5
        if int(agree.sum()) >= needed:
            return _solved(outgoing[agree], left[agree])
    return None


def _solved(factors: Tensor, products: Tensor, cut: float | None = None) -> Tensor:
    """Least squares that bears dependent columns; on the processor, since CUDA has no solver that does."""
    return torch.linalg.lstsq(factors.cpu(), products.cpu(), rcond=cut, driver="gelsd").solution.to(factors)


def errors_of(end: Tail, found: Peeled) -> Float[Tensor, "found classes"]:
    """Every example's error, p - y."""
    return _errors(end, end.layers[0].answers(found.inputs), found.classes)


def slopes_of(end: Tail, found: Peeled) -> Float[Tensor, "found units"]:
    """Every example's slope of its own loss at the first layer's output."""
    answers = end.layers[0].answers(found.inputs)
    return (answers > 0) * (_errors(end, answers, found.classes) @ end.layers[1].weight)


def with_one(inputs: Float[Tensor, "some inputs"]) -> Float[Tensor, "some columns"]:
    """Inputs with the one beside them that the bias sees."""
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)


def _errors(end: Tail, answers: Tensor, classes: Tensor) -> Float[Tensor, "some classes"]:
    return _probabilities(end, answers) - functional.one_hot(classes, len(end.layers[1].weight))


def _probabilities(end: Tail, answers: Tensor) -> Float[Tensor, "some classes"]:
    return torch.softmax(end.layers[1].answers(answers.clamp_min(0)), 1)


def _seen_alone(end: Tail, left: Float[Tensor, "units columns"], tolerance: float, opened: bool) -> Peeled:
    """What units say that may be left with a single example, the clearest first; an example may come several times.

    A unit's row over its bias gradient is the input if it is alone. If so, pixels lie within their range, and the model gives
    one class the slope that is that bias gradient. `opened`: whether the example opens the unit, or is the one that does not.
    """
    bias = left[:, -1]
    units = (bias.abs() > FAINT * bias.abs().max()).nonzero().flatten()
    units = units[bias[units].abs().argsort(descending=True)]
    inputs = left[units, :-1] / bias[units, None]
    pixels = end.pictures(inputs, (1, 1, inputs.shape[1])).flatten(1)
    inside = ((pixels > -OUTSIDE) & (pixels < 1 + OUTSIDE)).all(1)
    units, inputs = units[inside], inputs[inside]
    answers = end.layers[0].answers(inputs)
    outgoing = end.layers[1].weight[:, units].T
    slopes = (_probabilities(end, answers) * outgoing).sum(1, keepdim=True) - outgoing
    distances = (slopes / bias[units, None] - 1).abs()
    fits = ((answers.gather(1, units[:, None])[:, 0] > 0) == opened) & (distances.amin(1) < tolerance)
    return Peeled(inputs[fits], distances.argmin(1)[fits])


def believed(end: Tail, parts: Split, found: Peeled, examples: int, tolerance: float) -> Bool[Tensor, " found"]:
    """Which of these the gradient holds, by two things that a single unit does not show.

    The gradient is a sum of slopes times inputs. An example's slope d therefore lies in its column space, and with its input x
    and the gradient G of the sum, d G+ x is 1 (Wedderburn's rank reduction).
    """
    slopes = slopes_of(end, found)[:, parts.live]
    seen = slopes @ parts.left
    outside = (slopes - seen @ parts.left.T).norm(dim=1) / slopes.norm(dim=1).clamp_min(1e-300)
    weights = with_one(found.inputs) @ (parts.right / parts.values[:, None].square()).T
    amount = (seen * weights).sum(1) / examples
    return (outside < tolerance) & ((amount - 1).abs() < tolerance)


def _others(known: Float[Tensor, "known units"], slopes: Float[Tensor, "new units"], alike: float) -> Int[Tensor, " others"]:
    """Indices of slopes that are neither among those known nor alike."""
    known, slopes = functional.normalize(known, dim=1), functional.normalize(slopes, dim=1)
    kept: list[int] = []
    for index in range(len(slopes)):
        if not bool((torch.cat([known, slopes[kept]]) @ slopes[index] > 1 - alike).any()):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=slopes.device)


def _settled(
    end: Tail,
    gradient: Float[Tensor, "units columns"],
    found: Peeled,
    sums: Float[Tensor, "classes columns"] | None,
    nothing: float,
    cut: float,
) -> Peeled:
    """The examples with inputs by least squares, so that errors do not add up.

    The units are those that are shut for all other examples, and, where the others' `sums` are known well enough to tell them,
    those that are open for all others: the sums are then unknowns as well. What singular values below `cut` say is not heard.
    """
    for _ in range(SETTLINGS):
        design, left = _equations(end, gradient, found, sums, nothing)
        change = _solved(design, left, cut)
        found = replace(found, inputs=found.inputs + change[: len(found), :-1])
        sums = None if sums is None else sums + change[len(found) :]
    return found


def _equations(
    end: Tail, gradient: Float[Tensor, "units columns"], found: Peeled, sums: Tensor | None, nothing: float
) -> tuple[Float[Tensor, "told unknowns"], Float[Tensor, "told columns"]]:
    """What units that see no others, or all others, say of those found and of the others' sums: factors and remainders."""
    slopes, outgoing = slopes_of(end, found), end.layers[1].weight.T
    explained = slopes.T @ with_one(found.inputs)
    left = gradient - explained
    told = left.norm(dim=1) < torch.clamp(TOLERANCE * explained.norm(dim=1), nothing)
    design = slopes.T
    if sums is not None:
        opened = (left - outgoing @ sums).norm(dim=1) < torch.clamp(TOLERANCE * left.norm(dim=1), nothing)
        left = torch.where(opened[:, None], left - outgoing @ sums, left)
        design, told = torch.cat([design, opened[:, None] * outgoing], 1), told | opened
    return design[told], left[told]


def errors_expected(end: Tail, parts: Split, examples: int, found: Peeled) -> Float[Tensor, " found"]:
    """Standard deviation of each input's entries, where other examples were not found.

    The update's noise, through the units that say something of these examples alone, if those determine the input. Otherwise
    the input is as good as the tolerance that it fits.
    """
    gradient = examples * end.layers[0].gradient
    nothing = nothing_of(parts, gradient, examples)
    sums = opened_to_all(end, gradient - slopes_of(end, found).T @ with_one(found.inputs), nothing)
    design, _ = _equations(end, gradient, found, sums, nothing)
    inverse = torch.linalg.pinv(design, rtol=max(CUT, parts.unsure))[: len(found)]
    determined = (inverse * design.T[: len(found)]).sum(1) > 1 - DETERMINED
    return torch.where(determined, inverse.norm(dim=1) * examples * parts.noise, LOOSE * tolerance_of(parts))


@dataclass(frozen=True)
class Proof:
    """Pictures of examples found, which of them are certified, and a sentence that says how."""

    pictures: Float[Tensor, "found channels height width"]
    certified: Bool[Tensor, " found"]
    sentence: str


def _proof_of_all(observation: Observation, end: Tail, parts: Split, found: Peeled) -> Proof:
    """Of a whole batch: run through the model, it gives the update."""
    rows = label_rows(found.classes.cpu(), observation.classes).to(found.inputs)
    pictures = refined(observation, end, found.inputs, rows)
    certificate = certify(observation, end, parts, pictures, rows)
    return Proof(pictures, certificate.certified, certificate.sentence)


def _proof_of_some(observation: Observation, end: Tail, parts: Split, found: Peeled) -> Proof:
    """Of single examples, where others were not found."""
    assert end.slope is not None
    error = errors_expected(end, parts, observation.examples, found) / end.slope.abs().min()
    word = f"{len(found)} of {observation.examples} pictures were peeled off, and the model agrees with each"
    if len(found):
        word += f"; {int((error < TRUSTED).sum())} of them are certified to be within {TRUSTED:.0e}"
    return Proof(end.pictures(found.inputs, observation.image_shape), error < TRUSTED, word)


def _finished(observation: Observation, end: Tail, known: Peeled, seconds: float, rng: torch.Generator) -> Peeled:
    """The other examples, by `spear-plus` from what those known leave of the update; none where it does not find them."""
    rest = observation.examples - len(known)
    rows = label_rows(known.classes, observation.classes).to(known.inputs)
    pictures = end.pictures(known.inputs, observation.image_shape)
    gradient = observation.gradient()
    if len(known):
        _, explained = slopes_at_first(victim(observation), end, pictures, rows, observation)
        gradient = {name: tensor.double() - explained[name] for name, tensor in gradient.items()}
    scale = observation.examples / rest
    update = Update({name: scale * tensor for name, tensor in gradient.items()})
    smaller = replace(observation, update=update, examples=rest, training=replace(observation.training, shared="gradient"))
    found = SpearPlus(seconds=seconds).reconstruct(smaller, rng)
    if found.images is None or found.labels is None:
        return known.at(known.classes[:0])
    return Peeled(end.inputs(found.images.to(known.inputs)), found.labels.argmax(1).to(known.classes))
