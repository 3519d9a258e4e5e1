"""Label restoration: how many examples of each class the client used."""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

from attacks.attack import Attack
from attacks.labels.auto import AutoLabels
from attacks.labels.geng import GengLabels
from attacks.labels.given import GivenLabels
from attacks.labels.gradinversion_labels import GradInversionLabels
from attacks.labels.idlg import IDLGLabels
from attacks.labels.ilrg import ILRG
from attacks.labels.llg import LLG
from attacks.labels.rank_one import RankOneLabels
from attacks.labels.rlg import RLG
from attacks.labels.rlu import RLU
from attacks.labels.simulated import SimulatedLabels
from attacks.labels.soft_labels import SoftLabels
from learning.catalogue import chosen_from

LABELS: dict[str, type[Attack]] = {
    "given": GivenLabels,
    "auto": AutoLabels,
    "idlg": IDLGLabels,
    "gradinversion-labels": GradInversionLabels,
    "llg": LLG,
    "rlg": RLG,
    "geng": GengLabels,
    "ilrg": ILRG,
    "rank-one": RankOneLabels,
    "rlu": RLU,
    "simulated-labels": SimulatedLabels,
    "soft-labels": SoftLabels,
}

LabelRestoration: TypeAlias = Annotated[Attack, BeforeValidator(chosen_from(LABELS))]
