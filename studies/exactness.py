"""What exact attacks restore to the bit as the model is trained, by setting and defense, beside what was forecast."""

import statistics
from dataclasses import dataclass

from attacks import EXACT
from studies.evidence import AttackInfo, Evidence, Values, estimated
from studies.restorations import accuracy_before, state_of
from studies.scores import Estimate


@dataclass(frozen=True)
class Share:
    """Of one attack under one defense, on the updates of one round.

    `exact`, `certified`, `false`: shares of the pictures that came back exactly, that the attack certified, and certified
    falsely. `whole`: share of the updates of which every picture did. `forecast`: that share as it was forecast, of the model
    before the first round. All are None where there is none.
    """

    exact: Estimate | None
    certified: float | None
    false: float | None
    whole: float | None
    forecast: float | None


@dataclass(frozen=True)
class ExactLine:
    """The updates of one setting and round, `shares` by defense; `state` is that of the first defense's model, in words."""

    setting: str
    state: str
    shares: dict[str, Share]


def exact_tables(evidence: Evidence) -> dict[str, list[ExactLine]]:
    """By the name of each exact attack that applied anywhere, a line for every setting and recorded round."""
    tables: dict[str, list[ExactLine]] = {}
    for info in evidence.attacks.values():
        lines = _lines(evidence, info) if info.kind in EXACT else []
        if any(share.exact for line in lines for share in line.shares.values()):
            tables[info.name] = lines
    return tables


def _lines(evidence: Evidence, info: AttackInfo) -> list[ExactLine]:
    found: list[ExactLine] = []
    for setting in evidence.settings:
        by_defense = {defense: evidence.results(setting, defense, info.name) for defense in evidence.defenses}
        rounds = sorted({key.round for results in by_defense.values() for key in results})
        for round in rounds:
            accuracy = accuracy_before(evidence, setting, evidence.first_defense, round)
            shares = {
                defense: _share(evidence, setting, defense, info.name, round, forecast=round == rounds[0])
                for defense in evidence.defenses
            }
            found.append(ExactLine(setting, state_of(round, accuracy), shares))
    return found


def _share(evidence: Evidence, setting: str, defense: str, attack: str, round: int, forecast: bool) -> Share:
    def of(metric: str) -> Values:
        return {key: v for key, v in evidence.values(setting, defense, attack, metric).items() if key.round == round}

    def mean(metric: str) -> float | None:
        return statistics.fmean(values.values()) if (values := of(metric)) else None

    exact = of("exact")
    said = evidence.forecasts.get((setting, defense), {}).get(attack) if forecast else None
    whole = statistics.fmean(value == 1 for value in exact.values()) if exact else None
    probability = None if said is None else said.probability
    return Share(estimated(exact), mean("certified"), mean("false_certificates"), whole, probability)
