"""A run's curves as TensorBoard's events, while it goes on: accuracy and loss of the rounds, and what each attack restored."""

import re
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from studies.config import Cell
from studies.ledger import Ledger
from studies.report import progress
from studies.scores import one_number

LOOKS = 3.0  # seconds between two looks at the ledger
METRICS = {"psnr": "PSNR, dB", "label_accuracy": "labels right", "identified": "identified", "exact": "exact"}


@dataclass(frozen=True, order=True)
class Fact:
    """One point of a curve: the federation, the curve's name, the round, and the value."""

    cell: int
    tag: str
    round: int
    value: float


def facts(ledger: Ledger) -> Iterator[Fact]:
    """All that is certain: measured rounds, and of each attack the mean over a round's updates once all have a result."""
    for row in ledger.rounds():
        for tag, value in (("model/accuracy", row.accuracy), ("model/loss", row.loss)):
            if value is not None:
                yield Fact(row.cell, tag, row.round, value)
    expected, attacks = defaultdict(int), ledger.named_attacks()
    failed = {(f.victim.cell, f.victim.round, f.victim.client) for f in ledger.failures()}
    for cell in ledger.plan.cells:
        for round, client in cell.recorded():
            if (cell.index, round, client) not in failed:
                for name, named in attacks.items():
                    expected[cell.index, round, name] += named.undergone_by(cell, round, client)
    found: dict[tuple[int, int, str], list[dict[str, Any]]] = defaultdict(list)
    for result in ledger.results():
        found[result.victim.cell, result.victim.round, result.attack].append(result.scores)
    for (cell, round, attack), scores in found.items():
        if len(scores) < expected[cell, round, attack]:
            continue
        for metric, words in METRICS.items():
            values = [one_number(score[metric]) for score in scores if score.get(metric) is not None]
            if values:
                yield Fact(cell, f"{attack}/{words}", round, statistics.fmean(values))


class Events:
    """Writes a run's facts into a folder, each federation as a run of its own. A context: at its end all is on disk."""

    def __init__(self, run: Path, folder: Path):
        """Raises `SettingsError` where `run` holds no run. Events that are in the folder already are written anew."""
        with Ledger(run, write=False) as ledger:
            self._names = {cell.index: _name(cell) for cell in ledger.plan.cells}
        self._run, self._folder = run, folder
        self._written: set[Fact] = set()
        self._writers: dict[int, Any] = {}
        for earlier in folder.glob("*/events.out.tfevents.*"):
            earlier.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: TracebackType | BaseException | type | None) -> None:
        for writer in self._writers.values():
            writer.close()

    def look(self) -> bool:
        """Writes what is new in the ledger. Returns whether the run is over."""
        with Ledger(self._run, write=False) as ledger:
            over = progress(ledger)["over"]
            for fact in sorted(set(facts(ledger)) - self._written, key=lambda fact: (fact.cell, fact.round, fact.tag)):
                self._writer(fact.cell).add_scalar(fact.tag, fact.value, fact.round)
                self._written.add(fact)
        for writer in self._writers.values():
            writer.flush()
        return over

    def follow(self) -> None:
        """Looks again and again until the run is over."""
        while not self.look():
            time.sleep(LOOKS)

    def _writer(self, cell: int) -> Any:
        if cell not in self._writers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter
            self._writers[cell] = SummaryWriter(str(self._folder / self._names[cell]))
        return self._writers[cell]


def _name(cell: Cell) -> str:
    """A folder for a federation: its point of the grid, defense and seed, in characters that every file system takes."""
    words = [word for word in (cell.setting, cell.defense.name, f"seed {cell.seed}") if word]
    return re.sub(r"[^\w.,=+% -]", "_", f"{cell.index:04d} {', '.join(words)}")
