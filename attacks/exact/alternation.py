"""Peeling and the search of `spear-plus` in turn: what one leaves of a batch is a smaller batch for the other."""

import time
from dataclasses import dataclass, replace

import torch

from attacks.attack import NotApplicable, Observation, Reconstruction, label_rows
from attacks.directions.inputs import fault_of, inputs_of, run_through
from attacks.directions.layers import Tail
from attacks.directions.low_rank import Split, split
from attacks.directions.search import Effort, searched_through
from attacks.directions.two_values import Found
from attacks.exact.assembly import UNCHANGED, completed_labels, grown
from attacks.exact.isolation import (
    Peeled,
    believed,
    errors_expected,
    none_of,
    peeled,
    released,
    seen_at_any_size,
    share_of,
    tolerance_of,
)
from attacks.exact.proof import Proof, proof_of

TRUSTED = 1e-3  # error of a picture that is certified by itself


@dataclass(frozen=True)
class Seen:
    """What is taken apart: an update of a network with one hidden layer of ReLU that sees the picture, and has a bias.

    `parts`: the split of the hidden layer's gradient.
    """

    observation: Observation
    end: Tail
    parts: Split

    def unclipped_by(self, candidates: Peeled) -> "Seen":
        """The same at the size that these give the update, where they are examples; their inputs do not depend on it."""
        share = share_of(self.end, self.parts, candidates, self.observation.examples)
        return Seen(*grown(self.observation, share)) if share < 1 - UNCHANGED else self

    def peeled(self, known: Peeled | None = None) -> Peeled:
        """The examples known, and what peeling finds beside them."""
        return peeled(self.end, self.parts, self.observation.examples, known)

    def without(self, known: Peeled) -> "Seen":
        """The update of the other examples."""
        examples = self.observation.examples
        rest = examples - len(known)
        rows = label_rows(known.classes, self.observation.classes).to(known.inputs)
        explained = run_through(self.end, known.inputs, rows, examples).gradients
        layers = tuple(
            replace(layer, gradient=(layer.gradient - own[:, : layer.gradient.shape[1]]) * examples / rest)
            for layer, own in zip(self.end.layers, explained, strict=True)
        )
        end = replace(self.end, layers=layers)
        return Seen(replace(self.observation, examples=rest), end, split(layers[0].gradient, rest))


def unfit(observation: Observation, end: Tail) -> str:
    """Why examples cannot be peeled off such an update; empty where they can."""
    if observation.steps != 1:
        return f"units are peeled off one local step's gradient, and the client made {observation.steps}"
    if len(end.layers) != 2 or end.slope is None:
        return "the network is not one hidden layer of ReLU that sees the picture; see spear-plus"
    if end.layers[0].bias is None:
        return f"layer '{end.layers[0].name}' has no bias, whose gradient says how large an input is"
    return ""


def alone(seen: Seen) -> tuple[Seen, Peeled]:
    """What peeling finds, at the update's size before it was clipped, where it was."""
    if len(found := seen.peeled()):
        return seen, found
    larger = seen.unclipped_by(seen_at_any_size(seen.end, seen.parts, seen.observation.examples))
    return (seen, found) if larger is seen else (larger, larger.peeled())


def taken_out(seen: Seen, found: Found) -> tuple[Seen, Peeled]:
    """The examples behind directions that are not all of the batch, where units tell their inputs and the model agrees."""
    new = released(seen.end, seen.parts, seen.observation.examples, found)
    seen = seen.unclipped_by(new)
    return seen, new.at(believed(seen.end, seen.parts, new, seen.observation.examples, tolerance_of(seen.parts)))


def alternated(seen: Seen, certain: Peeled, effort: Effort, rng: torch.Generator) -> tuple[Seen, Peeled, Peeled]:
    """From examples that are certain, more: searched for in what they leave, peeled off what those leave, and so on.

    Returns those that are certain, each by itself, and all: where the search takes all that were left apart at once, they
    stand or fall together.
    """
    while len(certain) < seen.parts.rank and time.monotonic() < effort.deadline:
        try:
            rest = seen.without(certain) if len(certain) else seen
        except NotApplicable:  # too little is left to tell it apart
            break
        found = searched_through(rest.observation, rest.parts, *rest.end.layers, effort, rng)
        if not fault_of(found.directions):
            inputs = inputs_of(rest.end.layers[0], rest.parts, found.directions).inputs
            return seen, certain, certain.joined_by(Peeled(inputs, found.classes))
        rest, new = taken_out(rest, found) if found.directions.shape[1] < rest.parts.rank else (rest, none_of(seen.end))
        seen = rest if not len(certain) else seen
        if not len(more := seen.peeled(certain.joined_by(new))) > len(certain):
            break
        certain = more
    return seen, certain, certain


def reconstruction(seen: Seen, certain: Peeled, found: Peeled, rng: torch.Generator) -> Reconstruction:
    """All examples, where they were found, proven together or each alone; else those that are certain, and grey.

    `found`: those that are certain, and after them the others.
    """
    if len(found) == seen.parts.rank:
        proof = proof_of(seen.observation, seen.end, seen.parts, found.inputs, found.classes)
        proof = proof if proof.certified.all() else _also(proof, _proof_of_some(seen, certain))
    else:
        found, proof = certain, _proof_of_some(seen, certain)
    told = replace(proof, sentence=f"{proof.sentence}; {len(certain)} examples were peeled off")
    return told.reconstruction(seen.observation, completed_labels(seen.observation, found.classes, rng))


def _also(whole: Proof, some: Proof) -> Proof:
    """What the whole proves, and beside it what is proven of its first examples one by one."""
    pictures, certified = whole.pictures.clone(), whole.certified.clone()
    alone = (~certified[: len(some.certified)]).nonzero().flatten()
    pictures[alone], certified[alone] = some.pictures[alone], some.certified[alone]
    return Proof(pictures, certified, f"{whole.sentence}; one by one: {some.sentence}")


def _proof_of_some(seen: Seen, found: Peeled) -> Proof:
    """Of single examples, where others were not found."""
    observation, end = seen.observation, seen.end
    assert end.slope is not None
    error = errors_expected(end, seen.parts, observation.examples, found) / end.slope.abs().min()
    certified = (error < TRUSTED) & (tolerance_of(seen.parts) < TRUSTED)  # what fits within more proves nothing
    word = f"{len(found)} of {observation.examples} pictures were peeled off, and the model agrees with each"
    if len(found):
        word += f"; {int(certified.sum())} of them are certified to be within {TRUSTED:.0e}"
    return Proof(end.pictures(found.inputs, observation.image_shape), certified, word)
