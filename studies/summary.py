"""What a run found: one row for each setting, defense and attack, with intervals."""

import csv
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from studies.config import Cell
from studies.ledger import Ledger, Result
from studies.scores import IMAGE_SCORES, LABEL_SCORES, Estimate, estimate

FIGURE = re.compile(r"-?\d[\d.]*(e[+-]?\d+)?")
METRICS = (*IMAGE_SCORES, *LABEL_SCORES)


@dataclass(frozen=True)
class Row:
    """One attack on all recorded updates of one setting under one defense.

    `statuses`: how many updates had each status. `reasons`: why the others are not "ok",
    and what the attack says of its own results, each with its number, sentences that differ in figures alone taken together.
    `scores`: by metric, the mean over victims with its interval; a victim's picture scores are means over its pictures.
    `medians`: of all pictures (or of all victims, for labels). `worst_tenth`: the mean PSNR of the tenth of the pictures that
    came back best, which is the worst that happened to anybody. `seconds`: median of one attack.
    """

    setting: str
    defense: str
    attack: str
    statuses: dict[str, int]
    reasons: dict[str, int]
    scores: dict[str, Estimate]
    medians: dict[str, float]
    worst_tenth: float | None
    seconds: float


@dataclass(frozen=True)
class Curve:
    """Global accuracy after each measured round, for one setting under one defense: rounds to one value per seed."""

    setting: str
    defense: str
    accuracy: dict[int, list[float]]

    @property
    def last(self) -> Estimate | None:
        """The accuracy after the last measured round, over the seeds."""
        return estimate([[value] for value in self.accuracy[max(self.accuracy)]]) if self.accuracy else None


def rows(ledger: Ledger) -> list[Row]:
    """All rows, in the order of cells and attacks."""
    grouped: dict[tuple[str, str, str], list[tuple[Cell, Result]]] = defaultdict(list)
    for result in ledger.results():
        cell = ledger.plan.cells[result.victim.cell]
        grouped[cell.setting, cell.defense.name, result.attack].append((cell, result))
    order = {name: place for place, name in enumerate(ledger.attacks())}
    places = {key: place for place, key in enumerate(dict.fromkeys((c.setting, c.defense.name) for c in ledger.plan.cells))}
    keys = sorted(grouped, key=lambda key: (places[key[:2]], order[key[2]]))
    return [_row(*key, grouped[key]) for key in keys]


def curves(ledger: Ledger) -> list[Curve]:
    """Global accuracy by round, in the order of cells."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {
        (cell.setting, cell.defense.name): defaultdict(list) for cell in ledger.plan.cells
    }
    for row in ledger.rounds():
        cell = ledger.plan.cells[row.cell]
        if row.accuracy is not None:
            found[cell.setting, cell.defense.name][row.round].append(row.accuracy)
    return [Curve(*key, dict(sorted(accuracy.items()))) for key, accuracy in found.items()]


def alike(sentences: Iterable[str]) -> dict[str, int]:
    """How often each sentence was said, most often first; of those that differ in figures alone the first stands for all."""
    first: dict[str, str] = {}
    counts = Counter(first.setdefault(FIGURE.sub("#", sentence), sentence) for sentence in sentences)
    return dict(counts.most_common())


def write_csv(ledger: Ledger, path: Path) -> None:
    """Every row as CSV: counts, accuracy, and each metric's mean, interval and median."""
    accuracy = {(curve.setting, curve.defense): curve.last for curve in curves(ledger)}
    fields = ["setting", "defense", "attack", "victims", "ok", "not applicable", "failed", "reasons"]
    fields += ["accuracy", "accuracy low", "accuracy high", "seconds"]
    fields += ["psnr worst tenth"]
    fields += [f"{metric}{part}" for metric in METRICS for part in ("", " low", " high", " median")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        for row in rows(ledger):
            line: dict[str, object] = {"setting": row.setting, "defense": row.defense, "attack": row.attack}
            line |= {"victims": sum(row.statuses.values()), "seconds": f"{row.seconds:.4g}"}
            line |= {status: row.statuses.get(status, 0) for status in ("ok", "not applicable", "failed")}
            line["reasons"] = "; ".join(row.reasons)
            if (last := accuracy[row.setting, row.defense]) is not None:
                line |= _parts("accuracy", last)
            if row.worst_tenth is not None:
                line["psnr worst tenth"] = f"{row.worst_tenth:.6g}"
            for metric, value in row.scores.items():
                line |= _parts(metric, value) | {f"{metric} median": f"{row.medians[metric]:.6g}"}
            writer.writerow(line)


def _parts(name: str, value: Estimate) -> dict[str, str]:
    bounds = {" low": value.low, " high": value.high}
    found = {name + part: f"{bound:.6g}" for part, bound in bounds.items() if bound is not None}
    return {name: f"{value.mean:.6g}", **found}


def _row(setting: str, defense: str, attack: str, members: list[tuple[Cell, Result]]) -> Row:
    scores, medians, worst_tenth = {}, {}, None
    for metric in METRICS:
        by_seed: dict[int, list[float]] = defaultdict(list)
        single: list[float] = []
        for cell, result in members:
            if (value := result.scores.get(metric)) is not None:
                values = value if isinstance(value, list) else [value]
                by_seed[cell.seed].append(statistics.fmean(values))
                single += values
        if single:
            scores[metric] = estimate(list(by_seed.values()))
            medians[metric] = statistics.median(single)
            if metric == "psnr":
                worst_tenth = statistics.fmean(sorted(single)[-math.ceil(len(single) / 10) :])
    return Row(
        setting,
        defense,
        attack,
        dict(Counter(result.status for _, result in members)),
        alike(result.reason for _, result in members if result.reason),
        scores,
        medians,
        worst_tenth,
        statistics.median(result.seconds for _, result in members),
    )
