"""Defenses: one file per technique. Import from here; add yours to the catalogue."""

from defenses.clipping import NormClipping
from defenses.defense import Compute, Defense, defended
from defenses.noise import GaussianNoise, LaplacianNoise
from defenses.pruning import MagnitudePruning

DEFENSES: dict[str, type[Defense]] = {
    "gaussian-noise": GaussianNoise,
    "laplacian-noise": LaplacianNoise,
    "norm-clipping": NormClipping,
    "magnitude-pruning": MagnitudePruning,
}

__all__ = [
    "DEFENSES",
    "Compute",
    "Defense",
    "GaussianNoise",
    "LaplacianNoise",
    "MagnitudePruning",
    "NormClipping",
    "defended",
]
