"""Label restoration: how many examples of each class the client used."""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

from attacks.attack import Attack
from attacks.labels.given import GivenLabels
from attacks.labels.idlg import IDLGLabels
from attacks.labels.ilrg import ILRG
from learning.catalogue import chosen_from

LABELS: dict[str, type[Attack]] = {
    "given": GivenLabels,
    "idlg": IDLGLabels,
    "ilrg": ILRG,
}

LabelRestoration: TypeAlias = Annotated[Attack, BeforeValidator(chosen_from(LABELS))]
