"""The ledger's results, found by setting, defense and attack, and what they come to."""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import scipy.stats

from attacks import ATTACKS, Attack
from attacks.controls import Mean, Null
from attacks.exact.forecast import Forecast
from attacks.labels.given import GivenLabels
from learning.catalogue import name_of
from studies.ceilings import identification_ceiling, noise_ratio
from studies.config import Cell, Grants, named_attack
from studies.ledger import Ledger, Result
from studies.scores import DRAWN_TO, Estimate, estimate, one_number
from studies.summary import Row, alike, curves, rows
from studies.wording import about_of, settings_of

FLUKE = 1e-3  # probability of as much being identified by chance, below which it is held to be above the ceiling


@dataclass(frozen=True)
class AttackInfo:
    """An attack as the ledger names it. `control`: "null" or "mean" if it is one. `told`: its labels are granted."""

    name: str
    attack: Attack
    table: Any
    grants: Grants
    knows_defense: bool

    @property
    def control(self) -> str:
        return {Null: "null", Mean: "mean"}.get(type(self.attack), "")

    @property
    def told(self) -> bool:
        return isinstance(getattr(self.attack, "labels", self.attack), GivenLabels)

    @property
    def kind(self) -> str:
        return name_of(ATTACKS, self.attack)

    @property
    def granted(self) -> str:
        """What the study gives this attack beyond the protocol, in words."""
        defense = ["the client's defense"] if self.knows_defense else []
        return " and ".join(self.grants.in_words() + defense) or "nothing"

    @property
    def settings(self) -> list[tuple[str, str]]:
        return settings_of(self.attack)

    @property
    def about(self) -> str:
        return about_of(type(self.attack))


class Picked(NamedTuple):
    """An update, whatever the defense: the same in all cells of one setting."""

    seed: int
    round: int
    client: int


Values = dict[Picked, float]


class Evidence:
    """The ledger's results, found by setting, defense and attack."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.plan = ledger, ledger.plan
        self.attacks = {
            name: AttackInfo(name, named.attack, table, grants, named.knows_defense)
            for name, (table, grants) in ledger.attacks().items()
            for named in [named_attack(table)]
        }
        self.cells: dict[tuple[str, str, int], Cell] = {(c.setting, c.defense.name, c.seed): c for c in self.plan.cells}
        self.settings = list(dict.fromkeys(cell.setting for cell in self.plan.cells))
        self.defenses = [defense.name for defense in self.plan.study.defenses]
        self.kinds = {defense.name: defense.kind for defense in self.plan.study.defenses}
        self.bare = {defense.name for defense in self.plan.study.defenses if not defense.chain}
        self.rows = {(row.setting, row.defense, row.attack): row for row in rows(ledger)}
        self.curves = {(curve.setting, curve.defense): curve for curve in curves(ledger)}
        self.forecasts = {
            (cell.setting, cell.defense.name): said
            for index, said in ledger.forecasts().items()
            for cell in [self.plan.cells[index]]
        }
        self._results: dict[tuple[str, str, str], dict[Picked, Result]] = defaultdict(dict)
        for result in ledger.results():
            cell = self.plan.cells[result.victim.cell]
            picked = Picked(cell.seed, result.victim.round, result.victim.client)
            self._results[cell.setting, cell.defense.name, result.attack][picked] = result

    @cached_property
    def first_defense(self) -> str:
        """The one by which pictures are chosen: none, where the study has it."""
        return next((name for name in self.defenses if name in self.bare), self.defenses[0])

    def results(self, setting: str, defense: str, attack: str) -> dict[Picked, Result]:
        return self._results.get((setting, defense, attack), {})

    def values(self, setting: str, defense: str, attack: str, metric: str) -> Values:
        """The metric of every update that has it; of pictures, their mean."""
        found = {key: result.scores.get(metric) for key, result in self.results(setting, defense, attack).items()}
        return {key: one_number(value) for key, value in found.items() if value is not None}

    def controls(self) -> list[AttackInfo]:
        return [attack for attack in self.attacks.values() if attack.control]

    def ceiling(self, setting: str, defense: str) -> float | None:
        """The share of the pictures that any attack can identify at most, where the defense's noise bounds it."""
        among = {
            picked: (result.victim, result.scores["among"])
            for attack in self.attacks
            for picked, result in self.results(setting, defense, attack).items()
            if "among" in result.scores
        }
        bounds = []
        for picked, (victim, candidates) in among.items():
            cell = self.cells[setting, defense, picked.seed]
            restored = self.ledger.examples(victim)
            examples = restored // len(cell.behind(picked.round, picked.client))
            ratio = noise_ratio(cell.defense.chain, cell.study.training, examples)
            if ratio is None:
                return None
            bounds.append((candidates, ratio, restored))
        ceilings = (identification_ceiling(of, ratio, guesses=guesses) for of, ratio, guesses in set(bounds))
        return max(ceilings, default=None)


def estimated(values: Values) -> Estimate | None:
    by_seed: dict[int, list[float]] = defaultdict(list)
    for picked, value in values.items():
        by_seed[picked.seed].append(value)
    return estimate(list(by_seed.values())) if values else None


def differences(values: Values, control: Values) -> Values:
    return {key: value - control[key] for key, value in values.items() if key in control}


@dataclass(frozen=True)
class Leak:
    """The best attack by one metric, and the controls on the same updates. Best is which has the highest median.

    `told`: whether the attack is given the true labels. `of`: how many updates were attacked. `rivals`: how many attacks it
    is the best of. `beside`: the controls' means by name; `control`: the better of them; `gain`: how much more the attack
    restored than that, update by update. `exact`: share of the pictures that came back exactly.
    """

    attack: str
    told: bool
    value: Estimate
    of: int
    rivals: int
    beside: dict[str, float]
    control: str
    gain: Estimate | None
    exact: float

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "no better" than the better control; "open" where there is no control or no interval."""
        if self.gain is None or self.gain.low is None or self.gain.high is None:
            return "open"
        return "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "no better"


@dataclass(frozen=True)
class Finding:
    """What came back under one defense. `tried`: whether any attack but the controls has a result."""

    defense: str
    bare: bool
    labels: Leak | None
    pictures: Leak | None
    accuracy: Estimate | None
    tried: bool


def _leak(evidence: Evidence, setting: str, defense: str, metric: str) -> Leak | None:
    attackers = [a for a in evidence.attacks.values() if not a.control and not (metric == "label_accuracy" and a.told)]
    found = {a.name: evidence.values(setting, defense, a.name, metric) for a in attackers}
    found = {name: values for name, values in found.items() if values}
    if not found:
        return None
    name, values = max(found.items(), key=lambda item: _typically(item[1]))
    beside, gains = {}, {}
    for control in evidence.controls():
        without_looking = evidence.values(setting, defense, control.name, metric)
        if gain := differences(values, without_looking):
            beside[control.name] = statistics.fmean(without_looking[key] for key in gain)
            gains[control.name] = gain
    better = max(beside, key=lambda control: beside[control], default="")
    value = estimated(values)
    assert value is not None
    of = len(evidence.results(setting, defense, name))
    exact = evidence.values(setting, defense, name, "exact").values()
    gain = estimated(gains[better]) if better else None
    told, share = evidence.attacks[name].told, statistics.fmean(exact) if exact else 0.0
    return Leak(name, told, value, of, len(found), beside, better, gain, share)


def _typically(values: Values) -> tuple[float, float]:
    """By what an attack is judged best: a few exact pictures of 300 dB make a mean, and no median."""
    return statistics.median(values.values()), statistics.fmean(values.values())


def _above(flags: list[float], ceiling: float) -> bool:
    found = scipy.stats.binomtest(round(sum(flags)), len(flags), min(ceiling, 1.0), alternative="greater")
    return bool(found.pvalue < FLUKE)


@dataclass(frozen=True)
class Line:
    """A row of the table, and by metric how far its mean is from the null control's on the same updates.

    `ceiling`: what `identified` can be at most, where the defense bounds it. `above_ceiling`: it is more, beyond what chance
    would do in one of a thousand such rows: a fault of the program, or of what the ceiling assumes. `forecast`: of an exact
    attack, whether all pictures of an update come back; `whole` is the share of the updates where they did.
    """

    row: Row
    info: AttackInfo
    from_null: dict[str, float]
    ceiling: float | None
    above_ceiling: bool
    forecast: Forecast | None
    batches: list[bool]
    reasons: list[tuple[str, str, int]]

    @property
    def whole(self) -> float:
        return statistics.fmean(self.batches) if self.batches else 0.0

    @property
    def victims(self) -> int:
        return sum(self.row.statuses.values())


class Point:
    """Everything about one point of the grid."""

    def __init__(self, evidence: Evidence, setting: str):
        self.setting, self._evidence, self.kinds = setting, evidence, evidence.kinds
        self.findings = [self._finding(defense) for defense in evidence.defenses]
        self.tables = [(finding.defense, self._lines(finding.defense)) for finding in self.findings]
        self.curves = [evidence.curves[setting, defense] for defense in evidence.defenses]
        self.controls = self._controls()
        self.scale = self._scale()

    def _finding(self, defense: str) -> Finding:
        evidence, setting = self._evidence, self.setting
        labels, pictures = (_leak(evidence, setting, defense, metric) for metric in ("label_accuracy", "psnr"))
        tried = any(evidence.results(setting, defense, a.name) for a in evidence.attacks.values() if not a.control)
        return Finding(defense, defense in evidence.bare, labels, pictures, evidence.curves[setting, defense].last, tried)

    def _lines(self, defense: str) -> list[Line]:
        evidence, lines = self._evidence, []
        null = next((a.name for a in evidence.attacks.values() if a.control == "null"), None)
        ceiling = evidence.ceiling(self.setting, defense)
        said = evidence.forecasts.get((self.setting, defense), {})
        for name, info in evidence.attacks.items():
            row = evidence.rows.get((self.setting, defense, name))
            if row is None:
                continue
            results = evidence.results(self.setting, defense, name).values()
            reasons = [
                (status, reason, count)
                for status in ("not applicable", "failed", "ok")
                for reason, count in alike(
                    r.reason for r in results if r.status == status and (r.reason or status != "ok")
                ).items()
            ]
            from_null = {}
            for metric in row.scores if null is not None and name != null else ():
                known = evidence.values(self.setting, defense, str(null), metric)
                gain = differences(evidence.values(self.setting, defense, name, metric), known)
                if gain:
                    from_null[metric] = statistics.fmean(gain.values())
            flags = [flag for result in results for flag in result.scores.get("identified", ())]
            above = ceiling is not None and bool(flags) and _above(flags, ceiling)
            batches = [all(flags) for result in results if (flags := result.scores.get("exact"))]
            lines.append(Line(row, info, from_null, ceiling, above, said.get(name), batches, reasons[:4]))
        return lines

    def _controls(self) -> dict[str, dict[str, float]]:
        """By metric, each control's mean over all defenses: it looks at no update, so the defense is nothing to it."""
        found: dict[str, dict[str, float]] = {"psnr": {}, "label_accuracy": {}}
        for metric, control in ((m, c) for m in found for c in self._evidence.controls()):
            values = [
                value
                for defense in self._evidence.defenses
                for value in self._evidence.values(self.setting, defense, control.name, metric).values()
            ]
            if values:
                found[metric][control.name] = statistics.fmean(values)
        return found

    def _scale(self) -> float:
        """Decibels at the right end of the strips: the same for all defenses."""
        tops = [leak.value.high or leak.value.mean for f in self.findings if (leak := f.pictures)]
        return min(DRAWN_TO, max([10.0, *tops, *self.controls["psnr"].values()]) * 1.08)
