"""What it is worth to an attack to be told the defense: the same attack on the same updates, told and not told."""

import statistics
from dataclasses import dataclass

from studies.evidence import AttackInfo, Evidence, differences, estimated
from studies.scores import Estimate

GAINED = ("psnr", "identified", "label_accuracy")


@dataclass(frozen=True)
class Knowledge:
    """One pair of attacks under one defense: by metric the mean of either, and the paired difference."""

    setting: str
    defense: str
    plain: str
    knowing: str
    worth: dict[str, tuple[float, float, Estimate]]

    def better(self, metric: str) -> bool:
        """Whether knowing gains by the metric, the interval leaving out zero."""
        gain = self.worth[metric][2]
        return gain.low is not None and gain.low > 0


def knowledge(evidence: Evidence) -> list[Knowledge]:
    """All defenses at all settings, for every two attacks that differ in nothing but what they are told of the defense."""
    found = []
    for plain, knowing in pairs(evidence):
        for setting in evidence.settings:
            for defense in (name for name in evidence.defenses if name not in evidence.bare):
                worth: dict[str, tuple[float, float, Estimate]] = {}
                for metric in GAINED:
                    before, after = (evidence.values(setting, defense, one.name, metric) for one in (plain, knowing))
                    gain = differences(after, before)
                    if (difference := estimated(gain)) is not None:
                        plainly, told = (statistics.fmean(values[key] for key in gain) for values in (before, after))
                        worth[metric] = plainly, told, difference
                if worth:
                    found.append(Knowledge(setting, defense, plain.name, knowing.name, worth))
    return found


def pairs(evidence: Evidence) -> list[tuple[AttackInfo, AttackInfo]]:
    attackers = [info for info in evidence.attacks.values() if not info.control]
    return [
        (plain, knowing)
        for knowing in attackers
        if knowing.knows_defense
        for plain in attackers
        if not plain.knows_defense and plain.attack == knowing.attack and plain.grants == knowing.grants
    ]
