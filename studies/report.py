"""The report of a run: one page that stands alone, for people, and a table, for programs.

Everything in the page comes from the ledger; the clients' pictures are drawn again, as the clients drew them. Names and
texts are escaped by the template, drawings are matplotlib's.
"""

import base64
import dataclasses
import inspect
import io
import json
import re
import shlex
import statistics
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from attacks import ATTACKS, LABELS, Attack
from attacks.controls import Mean, Null
from attacks.labels.given import GivenLabels
from defenses import DEFENSES, Defense
from learning.catalogue import name_of
from learning.data import DATA, pictures_of
from learning.models import MODELS, has_batch_norm
from learning.partitions import PARTITIONS
from studies.attacking import truth
from studies.config import Cell, Plan, named_attack
from studies.ledger import Ledger, Result, Victim
from studies.scores import Estimate, estimate
from studies.summary import Curve, Row, curves, rows, write_csv

SHOWN_SETTINGS = 6  # points of the grid that get pictures and plots; the tables have all of them
SHOWN_SENTENCES = 8  # findings that are told in sentences; more become a table
SHOWN_PICTURES = 8  # of one batch
SHOWN_FAILURES = 40
LARGEST_PICTURE = 96  # pixels a side; larger ones are scaled down for the page
PICTURE_BYTES = 5_000_000  # of all pictures together


def write_report(ledger: Ledger) -> Path:
    """Writes `report.html` and `results.csv` into the run's folder, finished or not. Returns the page's path."""
    write_csv(ledger, ledger.folder / "results.csv")
    path = ledger.folder / "report.html"
    unfinished = path.with_name(".report.html")
    unfinished.write_text(_page(ledger), encoding="utf-8")
    return unfinished.replace(path)


def _page(ledger: Ledger) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"number": _number, "percent": _percent, "signed": _signed, "plural": _plural, "code": _code}
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    evidence = Evidence(ledger)
    points = [_Point(evidence, setting) for setting in evidence.settings]
    pictures, pictures_left_out = _galleries(evidence)
    return template.render(
        study=ledger.plan.study,
        progress=_progress(ledger),
        points=points,
        sentences=sum(len(point.findings) for point in points) <= SHOWN_SENTENCES,
        shown=SHOWN_SETTINGS,
        seeds=ledger.plan.study.seeds,
        galleries=pictures,
        galleries_left_out=pictures_left_out,
        plots={point.setting: _plots(point, place) for place, point in enumerate(points[:SHOWN_SETTINGS])},
        failures=_failures(evidence),
        threat=_threat(evidence),
        attacks=evidence.attacks.values(),
        parts=_parts(ledger.plan),
        repeat=_repeat(ledger),
    )


# what was found


@dataclass(frozen=True)
class AttackInfo:
    """An attack as the ledger names it. `control`: "null" or "mean" if it is one. `told`: its labels are granted."""

    name: str
    attack: Attack
    table: Any
    grants: dict[str, Any]

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
        public = self.grants.get("public", 0)
        given = ["the true labels"] if self.grants.get("labels") else []
        given += [f"{_plural(public, 'public picture')} with labels"] if public else []
        return " and ".join(given) or "nothing"

    @property
    def settings(self) -> list[tuple[str, str]]:
        return _settings(self.attack)

    @property
    def about(self) -> str:
        return _about(type(self.attack))


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
            name: AttackInfo(name, named_attack(table).attack, table, grants)
            for name, (table, grants) in ledger.attacks().items()
        }
        self.cells: dict[tuple[str, str, int], Cell] = {(c.setting, c.defense.name, c.seed): c for c in self.plan.cells}
        self.settings = list(dict.fromkeys(cell.setting for cell in self.plan.cells))
        self.defenses = [defense.name for defense in self.plan.study.defenses]
        self.bare = {defense.name for defense in self.plan.study.defenses if not defense.chain}
        self.rows = {(row.setting, row.defense, row.attack): row for row in rows(ledger)}
        self.curves = {(curve.setting, curve.defense): curve for curve in curves(ledger)}
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
        return {
            key: statistics.fmean(value) if isinstance(value, list) else float(value)
            for key, value in found.items()
            if value is not None
        }

    def controls(self) -> list[AttackInfo]:
        return [attack for attack in self.attacks.values() if attack.control]


def _estimate(values: Values) -> Estimate | None:
    by_seed: dict[int, list[float]] = defaultdict(list)
    for picked, value in values.items():
        by_seed[picked.seed].append(value)
    return estimate(list(by_seed.values())) if values else None


def _differences(values: Values, control: Values) -> Values:
    return {key: value - control[key] for key, value in values.items() if key in control}


@dataclass(frozen=True)
class Leak:
    """The best attack by one metric, and the controls on the same updates.

    `told`: whether the attack is given the true labels. `of`: how many updates were attacked. `rivals`: how many attacks it
    is the best of. `beside`: the controls' means by name; `control`: the better of them; `gain`: how much more the attack
    restored than that, update by update.
    """

    attack: str
    told: bool
    value: Estimate
    of: int
    rivals: int
    beside: dict[str, float]
    control: str
    gain: Estimate | None

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
    name, values = max(found.items(), key=lambda item: statistics.fmean(item[1].values()))
    beside, gains = {}, {}
    for control in evidence.controls():
        without_looking = evidence.values(setting, defense, control.name, metric)
        if gain := _differences(values, without_looking):
            beside[control.name] = statistics.fmean(without_looking[key] for key in gain)
            gains[control.name] = gain
    better = max(beside, key=lambda control: beside[control], default="")
    value = _estimate(values)
    assert value is not None
    of = len(evidence.results(setting, defense, name))
    return Leak(
        name, evidence.attacks[name].told, value, of, len(found), beside, better, _estimate(gains[better]) if better else None
    )


@dataclass(frozen=True)
class Line:
    """A row of the table, and by metric how far its mean is from the null control's on the same updates."""

    row: Row
    info: AttackInfo
    from_null: dict[str, float]
    reasons: list[tuple[str, str, int]]

    @property
    def victims(self) -> int:
        return sum(self.row.statuses.values())


class _Point:
    """Everything about one point of the grid."""

    def __init__(self, evidence: Evidence, setting: str):
        self.setting, self._evidence = setting, evidence
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
        for name, info in evidence.attacks.items():
            row = evidence.rows.get((self.setting, defense, name))
            if row is None:
                continue
            reasons = Counter(
                (result.status, result.reason)
                for result in evidence.results(self.setting, defense, name).values()
                if result.status != "ok"
            )
            from_null = {}
            for metric in row.scores if null is not None and name != null else ():
                known = evidence.values(self.setting, defense, str(null), metric)
                gain = _differences(evidence.values(self.setting, defense, name, metric), known)
                if gain:
                    from_null[metric] = statistics.fmean(gain.values())
            lines.append(Line(row, info, from_null, [(*key, count) for key, count in reasons.most_common(4)]))
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
        return max([10.0, *tops, *self.controls["psnr"].values()]) * 1.08


# how far the run is


def _progress(ledger: Ledger) -> dict[str, Any]:
    counts, plan = ledger.counts(), ledger.plan
    rounds = sum(cell.study.rounds for cell in plan.cells)
    updates = sum(len(cell.recorded()) for cell in plan.cells)
    attacks = counts["observations"] * len(ledger.attacks())
    return counts | {
        "cells": len(plan.cells),
        "rounds in all": rounds,
        "updates in all": updates,
        "results in all": attacks,
        "over": counts["rounds"] >= rounds and counts["results"] >= attacks,
    }


# pictures


@dataclass(frozen=True)
class Shown:
    """One picture on the page: where from, its words for who cannot see it, its score in words."""

    source: str
    words: str
    score: str
    side: int


@dataclass(frozen=True)
class Sheet:
    """One update: the true pictures, and below them what was restored under each defense.

    `lines`: heading, mean PSNR in words, whether it is a control, the pictures (none: no result).
    """

    title: str
    note: str
    truth: list[Shown]
    lines: list[tuple[str, str, bool, list[Shown]]]


@dataclass(frozen=True)
class Gallery:
    """One attack at one point of the grid: its best, median and worst update."""

    setting: str
    attack: str
    chosen_by: str
    victims: int
    sheets: list[Sheet]


def _galleries(evidence: Evidence) -> tuple[list[Gallery], list[str]]:
    """The pictures, and what was left out, in words."""
    galleries: list[Gallery] = []
    left_out, spent = [], 0
    if len(evidence.settings) > SHOWN_SETTINGS:
        rest = len(evidence.settings) - SHOWN_SETTINGS
        left_out.append(f"Pictures are shown for the first {SHOWN_SETTINGS} settings; {_plural(rest, 'more')} left out.")
    for setting in evidence.settings[:SHOWN_SETTINGS]:
        for attack in (a.name for a in evidence.attacks.values() if not a.control):
            if spent > PICTURE_BYTES:
                left_out.append(f"To keep the page small, the pictures of {attack}{_at(setting)} are left out.")
                continue
            try:
                gallery = _gallery(evidence, setting, attack)
            except ValueError as error:  # the data is not on this machine
                left_out.append(f"The pictures of {attack}{_at(setting)} cannot be shown: {error}.")
                continue
            if gallery is not None:
                galleries.append(gallery)
                spent += sum(len(shown.source) for sheet in gallery.sheets for shown in _all_shown(sheet))
    return galleries, left_out


def _all_shown(sheet: Sheet) -> Iterable[Shown]:
    return [*sheet.truth, *(shown for *_, line in sheet.lines for shown in line)]


def _gallery(evidence: Evidence, setting: str, attack: str) -> Gallery | None:
    order = [evidence.first_defense, *(name for name in evidence.defenses if name != evidence.first_defense)]
    by_defense = {defense: evidence.values(setting, defense, attack, "psnr") for defense in order}
    chosen_by = next((defense for defense, values in by_defense.items() if values), None)
    if chosen_by is None:
        return None
    ranked = sorted(by_defense[chosen_by], key=lambda key: (-by_defense[chosen_by][key], key))
    titles = dict(zip(_places(len(ranked)), ("Best", "Median", "Worst"), strict=False))
    if len(ranked) == 1:
        titles = {0: "The only update"}
    elif len(ranked) == 2:
        titles = {0: "Better of two", 1: "Worse of two"}
    sheets = [_sheet(evidence, setting, attack, chosen_by, ranked[place], title) for place, title in titles.items()]
    return Gallery(setting, attack, chosen_by, len(ranked), sheets)


def _places(count: int) -> list[int]:
    return list(dict.fromkeys((0, count // 2, count - 1)))


def _sheet(evidence: Evidence, setting: str, attack: str, chosen_by: str, picked: Picked, title: str) -> Sheet:
    cell = evidence.cells[setting, chosen_by, picked.seed]
    true = truth(cell, Victim(cell.index, picked.round, picked.client)).images
    count = min(SHOWN_PICTURES, len(true))
    who = f"client {picked.client}, round {picked.round}, seed {picked.seed}"
    note = who if count == len(true) else f"{who}; the first {count} of {len(true)} pictures"
    originals = [_shown(true[i], f"True picture {i + 1} of {who}", "") for i in range(count)]
    lines = []
    wanted = [(defense, attack, defense, False) for defense in evidence.defenses]
    wanted += [(chosen_by, c.name, c.name, True) for c in evidence.controls() if c.control == "mean"]
    for defense, name, heading, is_control in wanted:
        result = evidence.results(setting, defense, name).get(picked)
        if is_control and (result is None or "psnr" not in result.scores):
            continue
        pictures, score = [], "no result"
        if result is not None:
            score = result.status
        if result is not None and "psnr" in result.scores:
            pictures = _restored(evidence.ledger, result, true, count, f"{who} under {defense}")
            score = f"{statistics.fmean(result.scores['psnr']):.1f} dB"
        lines.append((heading, score, is_control, pictures))
    return Sheet(title, note, originals, lines)


def _restored(ledger: Ledger, result: Result, true: Tensor, count: int, who: str) -> list[Shown]:
    images = ledger.reconstruction(result.victim, result.attack).images
    images = torch.empty(0, *true.shape[1:]) if images is None else images
    matches, decibels = result.scores["matches"], result.scores["psnr"]
    grey = torch.full(true.shape[1:], 0.5)
    return [
        _shown(
            images[matches[i]].float().nan_to_num(0.5) if matches[i] < len(images) else grey,
            f"Picture {i + 1} of {who}, restored by {result.attack}, PSNR {decibels[i]:.1f} dB",
            f"{decibels[i]:.1f}",
        )
        for i in range(count)
    ]


def _shown(image: Tensor, words: str, score: str) -> Shown:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    grey = pixels.shape[0] != 3
    picture = Image.fromarray(pixels[0]) if grey else Image.fromarray(pixels.transpose(1, 2, 0).copy())
    side = max(picture.size)
    if side > LARGEST_PICTURE:
        picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return Shown(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", words, score, side)


# plots: drawn in place-holder colours that become the page's own, so that they follow its light and dark scheme

INK, FAINT = "#010203", "#010204"
SERIES = tuple(f"#0102{number:02x}" for number in range(16, 24))
MARKERS = "osD^vPX*"
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Plot:
    title: str
    drawing: Markup


def _plots(point: _Point, place: int) -> list[Plot]:
    """Leakage against accuracy by pictures and by labels, and accuracy by round; none of those that have nothing to show."""
    kinds: list[tuple[str, str, Callable[[Axes], bool]]] = [
        ("Pictures: PSNR of the best attack", "psnr", lambda axes: _leakage(axes, point, "psnr")),
        ("Labels: right labels of the best attack", "labels", lambda axes: _leakage(axes, point, "label_accuracy")),
        ("Accuracy by round", "rounds", lambda axes: _by_round(axes, point.curves)),
    ]
    plots = []
    for title, name, draw in kinds:
        style: dict[Any, Any] = {**STYLE, "svg.hashsalt": f"{place}-{name}"}
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(5.6, 3.5))
            axes = figure.add_axes((0.115, 0.15, 0.55, 0.8))
            if draw(axes):
                plots.append(Plot(title, _drawing(figure, f"p{place}{name}-", f"{title}{_at(point.setting)}")))
    return plots


def _leakage(axes: Axes, point: _Point, metric: str) -> bool:
    scale = 100 if metric == "label_accuracy" else 1
    labels = []
    for number, finding in enumerate(point.findings):
        leak = finding.labels if metric == "label_accuracy" else finding.pictures
        if leak is None or finding.accuracy is None:
            continue
        x, y = finding.accuracy, leak.value
        axes.errorbar(
            [x.mean * 100],
            [y.mean * scale],
            xerr=_whiskers(x, 100),
            yerr=_whiskers(y, scale),
            color=SERIES[number % len(SERIES)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=8,
            linewidth=1.2,
        )
        labels.append((x.mean * 100, y.mean * scale, finding.defense, number))
    if not labels:
        return False
    controls = point.controls[metric]
    axes.margins(0.18)
    left, right = axes.get_xlim()
    lacking = max(0.0, 4 - (right - left)) / 2  # points of accuracy: less is no difference to look at
    axes.set_xlim(left - lacking, right + lacking)
    left, right = axes.get_xlim()
    lacking = max(0.0, 4 - (right - left)) / 2  # points of accuracy: less is no difference to look at
    axes.set_xlim(left - lacking, right + lacking)
    low, high = axes.get_ylim()
    ends = [value * scale for value in controls.values()]
    low, high = min([low, *ends]), max([high, *ends])
    if metric == "label_accuracy":
        low, high = -4, 104
    pad = 0.06 * (high - low)
    axes.set_ylim((low, high) if metric == "label_accuracy" else (low - pad, high + pad))
    axes.set_xlabel("accuracy after the last round, %")
    axes.set_ylabel("labels right, %" if metric == "label_accuracy" else "PSNR, dB")
    axes.grid(visible=True)
    right = axes.get_xlim()[1]
    for name, value in controls.items():
        axes.axhline(value * scale, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        labels.append((right, value * scale, f"{name} (control)", None))
    _label(axes, labels)
    return True


def _by_round(axes: Axes, found: Sequence[Curve]) -> bool:
    labels = []
    for number, curve in enumerate(found):
        if not curve.accuracy:
            continue
        rounds = list(curve.accuracy)
        means = [statistics.fmean(values) * 100 for values in curve.accuracy.values()]
        colour = SERIES[number % len(SERIES)]
        if any(len(values) > 1 for values in curve.accuracy.values()):
            lows, highs = ([bound(v) * 100 for v in curve.accuracy.values()] for bound in (min, max))
            axes.fill_between(rounds, lows, highs, color=colour, alpha=0.12, linewidth=0)
        style = {"marker": MARKERS[number % len(MARKERS)], "markersize": 5} if len(rounds) <= 25 else {}
        axes.plot(rounds, means, color=colour, linewidth=1.8, **style)
        labels.append((rounds[-1], means[-1], curve.defense, number))
    if not labels:
        return False
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, min(100, axes.get_ylim()[1] * 1.08) if axes.get_ylim()[1] > 0 else 1)
    axes.grid(visible=True)
    _label(axes, labels)
    return True


def _whiskers(value: Estimate, scale: float) -> list[list[float]] | None:
    if value.low is None or value.high is None:
        return None
    return [[max(0.0, value.mean - value.low) * scale], [max(0.0, value.high - value.mean) * scale]]


def _label(axes: Axes, labels: Sequence[tuple[float, float, str, int | None]]) -> None:
    """Writes each name at the right of the axes, as near its height as the others leave room, with a line that leads to it."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    axes.set_xlim(left, right)
    wanted = sorted(((y - low) / (high - low), (x - left) / (right - left), text, number) for x, y, text, number in labels)
    gap = min(0.075, 1 / max(len(wanted), 1))
    heights: list[float] = []
    for height, *_ in wanted:
        heights.append(max(height, heights[-1] + gap) if heights else max(height, 0.0))
    for place in reversed(range(len(heights))):
        roof = 1.0 if place == len(heights) - 1 else heights[place + 1] - gap
        heights[place] = min(heights[place], roof)
    for (y, x, text, number), height in zip(wanted, heights, strict=True):
        colour = INK if number is None else SERIES[number % len(SERIES)]
        axes.annotate(
            text if len(text) <= 18 else f"{text[:8]}…{text[-9:]}",
            xy=(x, y),
            xytext=(1.06, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkB": 3},
            annotation_clip=False,
        )


def _drawing(figure: Figure, prefix: str, words: str) -> Markup:
    """The figure as SVG for the page: own ids, the page's colours, words for who cannot see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', drawn))
    drawn = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", drawn)
    drawn = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", drawn)
    names = {INK: "ink", FAINT: "faint"} | {colour: f"series-{number}" for number, colour in enumerate(SERIES)}
    for colour, name in names.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' (?:width|height)="[\d.]+pt"', "", drawn)  # it is as wide as its column
    opening = Markup('<svg role="img" aria-label="{}" focusable="false" ').format(words)
    return opening + Markup(drawn.removeprefix("<svg "))  # matplotlib escapes the texts that it draws


# failures


def _failures(evidence: Evidence) -> dict[str, Any]:
    clients = [
        (cell.setting, cell.defense.name, cell.seed, failure.victim.round, failure.victim.client, failure.reason)
        for failure in evidence.ledger.failures()
        for cell in [evidence.plan.cells[failure.victim.cell]]
    ]
    attacks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in evidence.ledger.results():
        if result.status == "failed":
            cell, victim = evidence.plan.cells[result.victim.cell], result.victim
            where = f"{cell.defense.name}{_at(cell.setting)}, seed {cell.seed}, round {victim.round}, client {victim.client}"
            attacks[result.attack, result.reason].append(where)
    return {
        "clients": clients[:SHOWN_FAILURES],
        "clients in all": len(clients),
        "attacks": [(*key, len(where), where[0]) for key, where in attacks.items()][:SHOWN_FAILURES],
        "attacks in all": sum(len(where) for where in attacks.values()),
        "kinds in all": len(attacks),
    }


# the threat model


def _threat(evidence: Evidence) -> dict[str, Any]:
    """What the settings say about what the server knows, gathered over the points of the grid."""
    cells = evidence.plan.cells
    studies = list({id(cell.study): cell.study for cell in cells}.values())
    models = [_model(cell) for cell in {repr((c.study.model, c.study.data)): c for c in cells}.values()]

    def each(value: Callable[[Any], object]) -> str:
        return " or ".join(dict.fromkeys(str(value(study)) for study in studies))

    starts = dict.fromkeys(
        f"weights from the checkpoint {Path(s.start.checkpoint).name}"
        if s.start.checkpoint
        else f"trained for {_plural(s.start.after_rounds, 'round')} of the same federation before the first attack"
        if s.start.after_rounds
        else "untrained: weights are drawn from the seed"
        for s in studies
    )
    return {
        "shared": sorted({study.training.shared for study in studies}),
        "batch_sizes": each(lambda s: s.training.batch_size),
        "rates": each(lambda s: f"{s.training.learning_rate:g}"),
        "momentums": each(lambda s: f"{s.training.momentum:g}"),
        "work": each(
            lambda s: _plural(s.training.steps, "local step") if s.training.steps else _plural(s.training.epochs, "epoch")
        ),
        "norm": sorted({study.training.batch_norm for study in studies}),
        "buffers": sorted({study.training.buffers for study in studies}),
        "has_norm": any(model[1] for model in models if model is not None),
        "norm_known": all(model is not None for model in models),
        "models": [model for model in models if model is not None],
        "starts": list(starts),
        "strategy": each(lambda s: s.federation.strategy),
        "clients": each(lambda s: s.federation.clients),
        "per_round": each(lambda s: s.federation.clients_per_round),
        "rounds": each(lambda s: s.federation.rounds),
        "grants": sorted({attack.granted for attack in evidence.attacks.values()} - {"nothing"}),
    }


def _model(cell: Cell) -> tuple[str, bool, int] | None:
    """The model's name, whether it has BatchNorm, and its number of parameters; None where the data is not at hand."""
    try:
        pictures = pictures_of(cell.study.data)
        network = cell.study.model.build(pictures.image_shape, pictures.classes, seed=0)
    except ValueError:
        return None
    return name_of(MODELS, cell.study.model), has_batch_norm(network), sum(p.numel() for p in network.parameters())


@dataclass(frozen=True)
class Part:
    """A defense, the model, the data or the partition, with its settings and what it is."""

    role: str
    name: str
    settings: list[tuple[str, str]]
    about: str


def _parts(plan: Plan) -> list[Part]:
    study, parts = plan.study, []
    for defense in study.defenses:
        for link in defense.chain:
            parts.append(Part(f"defense {defense.name}", name_of(DEFENSES, link), _settings(link), _about(type(link))))
        if not defense.chain:
            parts.append(Part("defense", defense.name, [], "The update is shared as it was computed."))
    kinds: list[tuple[str, Mapping[str, type]]] = [("model", MODELS), ("data", DATA), ("partition", PARTITIONS)]
    for role, catalogue in kinds:
        for value in {repr(found): found for cell in plan.cells for found in [getattr(cell.study, role)]}.values():
            parts.append(Part(role, name_of(catalogue, value), _settings(value), _about(type(value))))
    return parts


def _settings(value: object) -> list[tuple[str, str]]:
    """Every field with its value, those that were left at their defaults too."""
    assert dataclasses.is_dataclass(value)
    return [(field.name, _said(getattr(value, field.name))) for field in dataclasses.fields(value)]


def _said(value: object) -> str:
    if isinstance(value, Attack | Defense):
        catalogue: Mapping[str, type] = (ATTACKS | LABELS) if isinstance(value, Attack) else DEFENSES
        inner = ", ".join(f"{key} = {said}" for key, said in _settings(value))
        return name_of(catalogue, value) + (f" ({inner})" if inner else "")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(_said(item) for item in value) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _about(cls: type) -> str:
    """The first sentence of what the class says of itself, and the paper that its file names."""
    words = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.])\s+(?=[A-Z])", words)[0]
    file = (inspect.getdoc(inspect.getmodule(cls)) or "").split("\n")[0]
    return f"{sentence} Source: {file}" if re.search(r"\b(19|20)\d\d\b", file) else sentence


# how to repeat it


def _repeat(ledger: Ledger) -> dict[str, Any]:
    toml, plan = ledger.meta("toml"), ledger.plan
    overrides = _overrides(tomllib.loads(toml.removeprefix("\ufeff")), plan.raw)
    folder = ledger.folder.resolve().name
    command = ["curious", "run", f"{folder}/study.toml", "--out", f"{folder}-again"]
    for override in overrides:
        command += ["--set", override]
    own = {named.name for named in plan.study.attacks}
    later = [(table, grants) for name, (table, grants) in ledger.attacks().items() if name not in own]
    return {
        "command": shlex.join(command),
        "overridden": bool(overrides),
        "toml": toml,
        "later": [_campaign(*one) for one in later],
        "environment": _flat(json.loads(ledger.meta("environment"))),
        "digest": ledger.digest(),
    }


def _overrides(written: Any, meant: Any, path: str = "") -> list[str]:
    """The `--set`s that make the study as it ran of the TOML as it was written; where the work was done is left out."""
    if written == meant and json.dumps(written, default=str) == json.dumps(meant, default=str):
        return []
    both = isinstance(written, dict) and isinstance(meant, dict) and set(written) <= set(meant) | {"resources"}
    if both and (not path or not any("." in key for key in meant)):
        keys = [key for key in meant if path or key != "resources"]
        return [o for key in keys for o in _overrides(written.get(key), meant[key], f"{path}.{key}" if path else key)]
    if isinstance(written, list) and isinstance(meant, list) and len(written) == len(meant) and isinstance(meant[0], dict):
        pairs = enumerate(zip(written, meant, strict=True))
        return [o for place, (old, new) in pairs for o in _overrides(old, new, f"{path}.{place}")]
    return [f"{path}={_toml(meant)}"]


def _toml(value: Any) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def _campaign(table: Any, grants: Mapping[str, Any]) -> str:
    keys = {"name": table} if isinstance(table, str) else {"name": table["name"], **table}
    lines = ["[[attacks]]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    lines += ["[granted]", *(f"{key} = {_toml(value)}" for key, value in grants.items())] if grants else []
    return "\n".join(lines)


def _flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, item in value.items():
        flat += _flat(item) if isinstance(item, Mapping) else [(f"{before}{key}", str(item))]
    return flat


# words


def _at(setting: str) -> str:
    return f" at {setting}" if setting else ""


def _plural(count: int, word: str) -> str:
    if word == "more":
        return f"{count:,} {'is' if count == 1 else 'are'}"
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _code(text: str) -> Markup:
    """The text with what stands in backticks as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


MINUS = "\N{MINUS SIGN}"


def _number(value: float, digits: int = 2) -> str:
    """A number with that many digits behind the point, its minus a real one; never a negative zero."""
    text = f"{value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("-", MINUS)


def _signed(value: float, digits: int = 2) -> str:
    text = _number(value, digits)
    return text if text.startswith(MINUS) else f"+{text}"


def _percent(value: float, digits: int = 1) -> str:
    """A share as per cent, without the sign; whole numbers without a point."""
    return _number(value * 100, digits).removesuffix("." + "0" * digits) if digits else _number(value * 100, 0)
