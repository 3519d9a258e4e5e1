"""Gradient matching: pictures whose gradient is the one that was shared, found by optimisation."""

from attacks.attack import Attack
from attacks.matching.dlg import DLG
from attacks.matching.inverting_gradients import InvertingGradients

MATCHING: dict[str, type[Attack]] = {
    "dlg": DLG,
    "inverting-gradients": InvertingGradients,
}
