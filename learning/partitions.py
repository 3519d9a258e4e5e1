"""How the training examples are split over the clients: index splits, seeded, each example on one client at most."""

from abc import ABC, abstractmethod
from typing import Annotated, TypeAlias

import numpy as np
from pydantic import Field

from learning.catalogue import Count, settings

Concentration: TypeAlias = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
"""Of a Dirichlet distribution: near zero all falls to one, large is even (and far beyond 1e6 NumPy's sums overflow)."""


class Partition(ABC):
    """A rule that gives every client its examples."""

    def split(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Sorted indices into `labels` for each of `clients` clients; no index stands twice.

        Raises `ValueError` if a client would be left with no example.
        """
        if clients > len(labels):
            raise ValueError(f"{clients} clients cannot share {len(labels)} training examples: lower federation.clients")
        parts = self.deal(labels, clients, rng)
        empty = [client for client, part in enumerate(parts) if len(part) == 0]
        if empty:
            raise ValueError(
                f"the partition leaves clients {empty[:5]} of {clients} without an example: lower federation.clients"
            )
        return [np.sort(part) for part in parts]

    @abstractmethod
    def deal(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The rule itself: indices in any order, for at most as many clients as there are examples."""


@settings
class IID(Partition):
    """Examples are shuffled and dealt out evenly."""

    def deal(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        return np.array_split(rng.permutation(len(labels)), clients)


@settings
class Dirichlet(Partition):
    """Each class is divided over the clients by proportions drawn from Dirichlet(alpha): small alpha, few classes a client.

    Source: Hsu, Qi and Brown 2019 (arXiv 1909.06335). A client that would be left empty takes one example of the largest.
    """

    alpha: Concentration = 0.5

    def deal(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        parts: list[list[int]] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(rng.dirichlet(np.full(clients, self.alpha)))[:-1] * len(members)
            for part, piece in zip(parts, np.split(members, cuts.astype(int)), strict=True):
                part.extend(piece.tolist())
        for part in parts:
            largest = max(parts, key=len)
            if not part and len(largest) > 1:
                part.append(largest.pop())
        return [np.array(part, dtype=int) for part in parts]


@settings
class Shards(Partition):
    """Pathological split: examples sorted by label are cut into `per_client` shards a client, and the shards are dealt out.

    Source: McMahan et al. 2017 (arXiv 1602.05629), where `per_client` is 2.
    """

    per_client: Count = 2

    def deal(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        if clients * self.per_client > len(labels):
            raise ValueError(
                f"{clients} clients with per_client = {self.per_client} shards each need more than {len(labels)} training "
                f"examples: lower per_client or federation.clients"
            )
        order = rng.permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        shards = np.array_split(order, clients * self.per_client)
        dealt = rng.permutation(len(shards)).reshape(clients, self.per_client)
        return [np.concatenate([shards[shard] for shard in hand]) for hand in dealt]


@settings
class QuantitySkew(Partition):
    """Clients hold the same mix of classes but different amounts: shares drawn from Dirichlet(alpha), at least one each.

    Source: Li et al. 2022 (arXiv 2102.02079), quantity skew.
    """

    alpha: Concentration = 0.5

    def deal(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        sizes = 1 + np.floor(rng.dirichlet(np.full(clients, self.alpha)) * (len(labels) - clients)).astype(int)
        return np.split(rng.permutation(len(labels))[: sizes.sum()], np.cumsum(sizes)[:-1])


PARTITIONS: dict[str, type[Partition]] = {
    "iid": IID,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "quantity-skew": QuantitySkew,
}
