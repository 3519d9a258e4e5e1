"""The observer for an app of your own: audits the first updates that come back, and writes a page of each.

with Auditor(Net, training=Training(shared="delta", ...), image_shape=(1, 32, 32), classes=10) as auditor:
    CuriousStrategy(FedAvg(), auditor).start(grid, arrays)
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import nn

from attacks import Attack
from curious.audit import Audit, Kind, Normalized, audit
from learning.catalogue import SettingsError
from learning.tensors import Tensors, Update, load_state
from learning.training import Training


@dataclass(frozen=True)
class Seen:
    """What became of one client's round: an audit, or the reason why there is none, and the page that tells it."""

    round: int
    client: int
    found: Audit | None
    reason: str
    page: Path | None

    def lines(self) -> list[str]:
        """In words: what does not fit, then what each attack made of it."""
        if self.found is None:
            return [f"no audit: {self.reason}"]
        told = [f"{line.attack}: {line.status}: {line.told}" for line in self.found.lines]
        return [f"does not fit: {sentence}" for sentence in self.found.misfits] + told


class Auditor:
    """Audits the first `most` updates while the federation goes on, in one thread beside it.

    `model` builds the clients' model; pictures in [0, 1] are normalised by `mean` and `deviation` before it, where given.
    `kind`: what the clients send; Flower's own apps send their new "weights". `training`: the client's work, in its words.
    `pages`: the folder that gets a page of every update, `round-1-client-3.html`; None writes none. A context: its end waits
    for the audits. `seen` holds them in the order in which the updates came.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        *,
        training: Training,
        image_shape: tuple[int, int, int],
        classes: int,
        kind: Kind = "weights",
        mean: tuple[float, ...] = (),
        deviation: tuple[float, ...] = (),
        attacks: Mapping[str, Attack] | None = None,
        most: int = 4,
        pages: Path | None = None,
    ):
        self._model, self._training, self._image_shape, self._classes = model, training, image_shape, classes
        self._kind: Kind = kind
        self._normalised, self._attacks, self._most, self._pages = (mean, deviation), attacks, most, pages
        self._sent: Tensors = {}
        self._thread = ThreadPoolExecutor(1)
        self._audits: list[Future[Seen]] = []

    @property
    def seen(self) -> list[Seen]:
        """The audits, once they are done."""
        return [audited.result() for audited in self._audits]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def on_sent(self, round: int, sent: Tensors) -> None:
        self._sent = sent

    def on_update(self, round: int, client: int, update: Update, examples: int) -> None:
        if len(self._audits) < self._most:
            self._audits.append(self._thread.submit(self._audit, round, client, self._sent, update, examples))

    def on_failure(self, round: int, client: int, reason: str) -> None:
        failed: Future[Seen] = Future()
        failed.set_result(Seen(round, client, None, reason, None))
        self._audits.append(failed)

    def _audit(self, round: int, client: int, sent: Tensors, update: Update, examples: int) -> Seen:
        model = self._model()
        try:
            load_state(model, sent)
            found = audit(
                Normalized(model, *self._normalised) if self._normalised[0] else model,
                update.parameters,
                image_shape=self._image_shape,
                classes=self._classes,
                examples=examples,
                kind=self._kind,
                training=self._training,
                attacks=self._attacks,
            )
        except (SettingsError, ValueError) as error:
            return Seen(round, client, None, str(error), None)
        if self._pages is None:
            return Seen(round, client, found, "", None)
        self._pages.mkdir(parents=True, exist_ok=True)
        page = self._pages / f"round-{round}-client-{client}.html"
        found.write_page(page)
        return Seen(round, client, found, "", page)
