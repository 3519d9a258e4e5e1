"""Defenses: one file per technique. Import from here; add yours to the catalogue."""

from defenses.clipping import NormClipping
from defenses.defense import BatchDefense, Compute, Defense, UpdateDefense, around, defended, defended_update
from defenses.dp_sgd import DPSGD
from defenses.known import Known
from defenses.label_smoothing import LabelSmoothing
from defenses.mixing import InstaHide, Mixup
from defenses.noise import GaussianNoise, LaplacianNoise
from defenses.outpost import Outpost
from defenses.precode import Precode
from defenses.pruning import MagnitudePruning, RandomPruning
from defenses.quantization import Quantization, Sign, Ternary
from defenses.soteria import Soteria
from defenses.transformations import TransformedPictures

DEFENSES: dict[str, type[Defense]] = {
    "gaussian-noise": GaussianNoise,
    "laplacian-noise": LaplacianNoise,
    "norm-clipping": NormClipping,
    "magnitude-pruning": MagnitudePruning,
    "random-pruning": RandomPruning,
    "quantization": Quantization,
    "ternary": Ternary,
    "sign": Sign,
    "dp-sgd": DPSGD,
    "label-smoothing": LabelSmoothing,
    "mixup": Mixup,
    "instahide": InstaHide,
    "transformed-pictures": TransformedPictures,
    "soteria": Soteria,
    "outpost": Outpost,
    "precode": Precode,
}

__all__ = [
    "DEFENSES",
    "DPSGD",
    "BatchDefense",
    "Compute",
    "Defense",
    "GaussianNoise",
    "InstaHide",
    "Known",
    "LabelSmoothing",
    "LaplacianNoise",
    "MagnitudePruning",
    "Mixup",
    "NormClipping",
    "Outpost",
    "Precode",
    "Quantization",
    "RandomPruning",
    "Sign",
    "Soteria",
    "Ternary",
    "TransformedPictures",
    "UpdateDefense",
    "around",
    "defended",
    "defended_update",
]
