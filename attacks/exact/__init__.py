"""Exact attacks: the batch itself, solved for, with a proof that needs no truth."""

from attacks.attack import Attack
from attacks.exact.extreme_points import ExtremePoints
from attacks.exact.linear import Linear
from attacks.exact.peeling import Peeling
from attacks.exact.spear import Spear
from attacks.exact.spear_plus import SpearPlus

EXACT: dict[str, type[Attack]] = {
    "extreme-points": ExtremePoints,
    "linear": Linear,
    "peeling": Peeling,
    "spear": Spear,
    "spear-plus": SpearPlus,
}
