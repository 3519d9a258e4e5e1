"""What label restorations restore as the model is trained: one line for each setting, defense and state of the model."""

from dataclasses import dataclass

from attacks import LABELS
from studies.evidence import AttackInfo, Evidence, Values, estimated
from studies.scores import Estimate
from studies.summary import alike


@dataclass(frozen=True)
class Restored:
    """One method on the updates of one line. `right`: share of labels; `exact`: of updates with all counts right.

    `covered`: share of all counts that lie in the intervals that the method gives. `sentences`: why it gave no result, or what
    it says of its own, the most frequent first.
    """

    right: Estimate | None
    exact: float | None
    covered: float | None
    sentences: list[str]


@dataclass(frozen=True)
class RestorationLine:
    """The updates of one recorded round. `accuracy`: of the model that was sent in it, where that was measured.

    `drawn`: right labels of each control, by its name. `methods`: by name, those without any result left out.
    """

    setting: str
    defense: str
    round: int
    accuracy: float | None
    drawn: dict[str, float]
    methods: dict[str, Restored]

    @property
    def state(self) -> str:
        """The state of the model in words."""
        return state_of(self.round, self.accuracy)


def state_of(round: int, accuracy: float | None) -> str:
    """The state in words of the model that was sent in that round."""
    known = "" if accuracy is None else f", accuracy {accuracy:.1%}".replace("%", " %")
    return f"round {round}{known}"


def accuracy_before(evidence: Evidence, setting: str, defense: str, round: int) -> float | None:
    """Accuracy, a mean over seeds, of the model that was sent in that round; None where it was not measured."""
    measured = evidence.curves[setting, defense].accuracy.get(round - 1)
    return sum(measured) / len(measured) if measured else None


def restoring(evidence: Evidence) -> list[AttackInfo]:
    """The attacks that restore labels and are not told them."""
    return [info for info in evidence.attacks.values() if info.kind in LABELS and not info.told]


def lines(evidence: Evidence) -> list[RestorationLine]:
    """All lines that have a result, by setting, defense and round; none where the study has no label restoration."""
    methods, found = restoring(evidence), []
    for setting in evidence.settings:
        for defense in evidence.defenses:
            rounds = {key.round for info in methods for key in evidence.results(setting, defense, info.name)}
            found += [_line(evidence, methods, setting, defense, round) for round in sorted(rounds)]
    return found


def _line(evidence: Evidence, methods: list[AttackInfo], setting: str, defense: str, round: int) -> RestorationLine:
    def of(attack: str, metric: str) -> Values:
        return {key: v for key, v in evidence.values(setting, defense, attack, metric).items() if key.round == round}

    def mean(attack: str, metric: str) -> float | None:
        return None if (value := estimated(of(attack, metric))) is None else value.mean

    def restored(name: str) -> Restored | None:
        results = [r for key, r in evidence.results(setting, defense, name).items() if key.round == round]
        sentences = alike(r.reason for r in results if r.reason)
        right = estimated(of(name, "label_accuracy"))
        return Restored(right, mean(name, "exact_counts"), mean(name, "counts_covered"), list(sentences)) if results else None

    accuracy = accuracy_before(evidence, setting, defense, round)
    drawn = {control.name: mean(control.name, "label_accuracy") for control in evidence.controls()}
    by_name = {info.name: restored(info.name) for info in methods}
    return RestorationLine(
        setting,
        defense,
        round,
        accuracy,
        {name: value for name, value in drawn.items() if value is not None},
        {name: value for name, value in by_name.items() if value is not None},
    )
