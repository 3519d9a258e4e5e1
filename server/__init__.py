"""The honest-but-curious server. `CuriousStrategy` goes around any Flower strategy."""

from server.strategy import CuriousStrategy, Observer, UpdateStrategy

__all__ = ["CuriousStrategy", "Observer", "UpdateStrategy"]
