"""What each kind of defense hides at what loss of accuracy: Pareto front, hypervolume, and the least leak at a matched loss.

A defense's leak is the share of the pictures that the attack which identifies most identifies: zero to one, like accuracy, so
that areas mean something. Strengths of one technique are defenses of their own in a study; here they are put together again.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from studies.evidence import Evidence, estimated
from studies.scores import Estimate

LOSSES = (0.01, 0.05, 0.1)  # of accuracy, from that without a defense


@dataclass(frozen=True)
class Strength:
    """One defense at one strength. `front`: no other is as good in both and better in one."""

    defense: str
    accuracy: Estimate
    attack: str
    leak: Estimate
    front: bool


@dataclass(frozen=True)
class Tradeoff:
    """A kind of defense at one setting, with its strengths.

    `least`: for each of `LOSSES` the strength that leaks least among those that cost no more; None where all cost more.
    `hypervolume`: the area of accuracy times share hidden that its strengths and the bare federation dominate, in [0, 1].
    """

    kind: str
    strengths: list[Strength]
    least: list[Strength | None]
    hypervolume: float


def tradeoffs(evidence: Evidence, setting: str) -> list[Tradeoff]:
    """Every kind of defense, the largest hypervolume first; empty without an undefended federation to lose against."""
    found: dict[str, tuple[Estimate, str, Estimate]] = {}
    for defense in evidence.defenses:
        leaks = {
            attack.name: estimated(values)
            for attack in evidence.attacks.values()
            if not attack.control and (values := evidence.values(setting, defense, attack.name, "identified"))
        }
        accuracy = evidence.curves[setting, defense].last
        if accuracy is not None and leaks:
            attack, leak = max(leaks.items(), key=lambda item: item[1].mean if item[1] else 0.0)
            assert leak is not None
            found[defense] = accuracy, attack, leak
    bare = next((defense for defense in evidence.defenses if defense in evidence.bare and defense in found), None)
    if bare is None or len(found) < 2:
        return []
    points = {defense: (accuracy.mean, 1 - leak.mean) for defense, (accuracy, _, leak) in found.items()}
    best = pareto_front(points.values())
    kinds: dict[str, list[Strength]] = defaultdict(list)
    for named in evidence.plan.study.defenses:
        if named.name in found and named.chain:
            accuracy, attack, leak = found[named.name]
            kinds[named.kind].append(Strength(named.name, accuracy, attack, leak, points[named.name] in best))
    told = []
    for kind, strengths in kinds.items():
        least = []
        for loss in LOSSES:
            fair = [strength for strength in strengths if strength.accuracy.mean >= points[bare][0] - loss]
            least.append(min(fair, key=lambda strength: strength.leak.mean, default=None))
        told.append(
            Tradeoff(kind, strengths, least, hypervolume([points[bare], *(points[strength.defense] for strength in strengths)]))
        )
    return sorted(told, key=lambda tradeoff: -tradeoff.hypervolume)


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that none equals or passes in both coordinates and passes in one, from the largest first coordinate on."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def hypervolume(points: Iterable[tuple[float, float]]) -> float:
    """The area between the axes and the points' Pareto front; points with a negative coordinate should not be given."""
    front, below, area = pareto_front(points), 0.0, 0.0
    for first, second in front:
        area += first * (second - below)
        below = second
    return area
