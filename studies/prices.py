"""What an assumption is worth to an attack: every point of a grid, and every attack, against the study's reference.

The reference is one attack at the grid's first point, where the study grants it all; what is taken away elsewhere has a price.
"""

from dataclasses import dataclass

from studies.evidence import Evidence, Picked, Values, differences, estimated
from studies.restorations import accuracy_before, state_of
from studies.scores import Estimate

PRICED = ("psnr", "identified", "exact", "label_accuracy")


@dataclass(frozen=True)
class Price:
    """One attack at one point.

    `state`: in words, of the model as it was sent in the first and the last of the attacked rounds. `worth`: by metric its mean
    and, but for the reference itself, the paired difference from there.
    """

    setting: str
    state: str
    attack: str
    reference: bool
    worth: dict[str, tuple[Estimate, Estimate | None]]


def prices(evidence: Evidence) -> list[Price]:
    """All attacks but the controls at all points, undefended; empty where the study names no reference, or it has no result."""
    reference, defense = evidence.plan.study.reference, evidence.first_defense
    if not reference:
        return []
    known = {metric: _in_order(evidence.values(evidence.settings[0], defense, reference, metric)) for metric in PRICED}
    found = []
    for setting in evidence.settings:
        state = _state(evidence, setting, defense)
        for attack in (info.name for info in evidence.attacks.values() if not info.control):
            itself, worth = (setting, attack) == (evidence.settings[0], reference), {}
            for metric in PRICED:
                values = _in_order(evidence.values(setting, defense, attack, metric))
                if (mean := estimated(values)) is not None:
                    worth[metric] = mean, None if itself else estimated(differences(values, known[metric]))
            if worth:
                found.append(Price(setting, state, attack, itself, worth))
    return found if any(price.reference for price in found) else []


def _state(evidence: Evidence, setting: str, defense: str) -> str:
    rounds = {key.round for attack in evidence.attacks for key in evidence.results(setting, defense, attack)}
    ends = sorted({min(rounds), max(rounds)}) if rounds else []
    return " to ".join(state_of(round, accuracy_before(evidence, setting, defense, round)) for round in ends)


def _in_order(values: Values) -> Values:
    """The values by seed, client and the place of the round among the recorded ones.

    A model that was trained first is attacked in a later round of its federation, and on the same batches (`Study.counted`).
    """
    rounds = sorted({picked.round for picked in values})
    return {Picked(picked.seed, rounds.index(picked.round), picked.client): value for picked, value in values.items()}
