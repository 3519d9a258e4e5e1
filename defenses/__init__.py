"""Defenses: one file per technique. Import from here; add yours to the catalogue."""

from defenses.clipping import NormClipping
from defenses.defense import Compute, Defense, UpdateDefense, around, defended, defended_update
from defenses.noise import GaussianNoise, LaplacianNoise
from defenses.pruning import MagnitudePruning, RandomPruning
from defenses.quantization import Quantization, Sign, Ternary

DEFENSES: dict[str, type[Defense]] = {
    "gaussian-noise": GaussianNoise,
    "laplacian-noise": LaplacianNoise,
    "norm-clipping": NormClipping,
    "magnitude-pruning": MagnitudePruning,
    "random-pruning": RandomPruning,
    "quantization": Quantization,
    "ternary": Ternary,
    "sign": Sign,
}

__all__ = [
    "DEFENSES",
    "Compute",
    "Defense",
    "GaussianNoise",
    "LaplacianNoise",
    "MagnitudePruning",
    "NormClipping",
    "Quantization",
    "RandomPruning",
    "Sign",
    "Ternary",
    "UpdateDefense",
    "around",
    "defended",
    "defended_update",
]
