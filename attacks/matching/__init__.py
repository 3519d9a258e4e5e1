"""Gradient matching: pictures whose gradient is the one that was shared, found by optimisation."""

from attacks.attack import Attack
from attacks.matching.dimitrov import Dimitrov
from attacks.matching.dlg import DLG
from attacks.matching.feature_inversion import FeatureInversion
from attacks.matching.geng_images import GengImages
from attacks.matching.gradinversion import GradInversion
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.sme import SME

MATCHING: dict[str, type[Attack]] = {
    "dlg": DLG,
    "inverting-gradients": InvertingGradients,
    "gradinversion": GradInversion,
    "geng-images": GengImages,
    "feature-inversion": FeatureInversion,
    "dimitrov": Dimitrov,
    "sme": SME,
}
