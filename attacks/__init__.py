"""Attacks: what an honest-but-curious server restores from what it sees.

`labels/` restores how many examples of each class there are, `matching/` finds pictures whose gradient matches, `exact/`
solves for them; `directions/` takes a layer's gradient apart for labels and for pictures; `controls` look at nothing. Import
from here; add yours to its family's catalogue.
"""

from attacks.attack import Attack, Granted, NotApplicable, Observation, Reconstruction
from attacks.controls import Mean, Null
from attacks.exact import EXACT
from attacks.labels import LABELS
from attacks.matching import MATCHING

CONTROLS: dict[str, type[Attack]] = {"null": Null, "mean": Mean}

ATTACKS: dict[str, type[Attack]] = {**LABELS, **MATCHING, **EXACT, **CONTROLS}

__all__ = [
    "ATTACKS",
    "CONTROLS",
    "EXACT",
    "LABELS",
    "MATCHING",
    "Attack",
    "Granted",
    "NotApplicable",
    "Observation",
    "Reconstruction",
]
