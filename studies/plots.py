"""The report's drawings, in place-holder colours that become the page's own, so that they follow its light and dark scheme."""

import io
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from studies.evidence import Point
from studies.restorations import RestorationLine
from studies.scores import DRAWN_TO, Estimate
from studies.summary import Curve
from studies.wording import at

INK, FAINT = "#010203", "#010204"
SERIES = tuple(f"#0102{number:02x}" for number in range(16, 24))
MARKERS = "osD^vPX*"
NAMED_ALONE = 12  # defenses with a name each; of more, the strengths of one technique share colour, sign and name
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


def plots_of(point: Point, place: int) -> list[Plot]:
    """Leakage against accuracy by pictures and by labels, and accuracy by round; none of those that have nothing to show."""
    groups = _groups(point)
    kinds: list[tuple[str, str, Callable[[Axes], bool]]] = [
        ("Pictures: PSNR of the best attack", "psnr", lambda axes: _leakage(axes, point, groups, "psnr")),
        ("Labels: right labels of the best attack", "labels", lambda axes: _leakage(axes, point, groups, "label_accuracy")),
        ("Accuracy by round", "rounds", lambda axes: _by_round(axes, point.curves, groups)),
    ]
    names = len(set(groups.values())) + len(next(iter(point.controls.values()), ()))
    drawn = (_plot(title, f"{title}{at(point.setting)}", f"p{place}{name}-", names, draw) for title, name, draw in kinds)
    return [plot for plot in drawn if plot is not None]


def _groups(point: Point) -> dict[str, str]:
    """Under which name each defense is drawn: its own, or, of many, its technique's where that has several strengths."""
    together = Counter(point.kinds.values())
    many = len(point.kinds) > NAMED_ALONE
    return {defense: kind if many and together[kind] > 1 else defense for defense, kind in point.kinds.items()}


def restorations_by_state(lines: Sequence[RestorationLine], place: int) -> Plot | None:
    """Right labels of each method against the recorded rounds of one setting under one defense, the controls dashed.

    None where there is only one such round.
    """
    if len(lines) < 2:
        return None
    title = f"{lines[0].setting}, defense: {lines[0].defense}" if lines[0].setting else f"Defense: {lines[0].defense}"
    names = len({name for line in lines for name in (*line.methods, *line.drawn)})
    words = f"Labels right by state of the model: {title}"
    return _plot(title, words, f"l{place}-", names, lambda axes: _by_state(axes, lines))


def _plot(title: str, words: str, prefix: str, names: int, draw: Callable[[Axes], bool]) -> Plot | None:
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": prefix}
    with matplotlib.rc_context(style):
        axes = axes_for(names)
        return Plot(title, drawing(cast(Figure, axes.figure), prefix, words)) if draw(axes) else None


def axes_for(names: int) -> Axes:
    """Empty axes, alone in their figure, with room for so many names beside them, one below the other."""
    height = max(3.5, 0.23 * names)
    return Figure(figsize=(5.6, height)).add_axes((0.115, 0.525 / height, 0.55, 1 - 0.7 / height))


def _by_state(axes: Axes, lines: Sequence[RestorationLine]) -> bool:
    places, labels = range(len(lines)), []
    for number, name in enumerate(dict.fromkeys(name for line in lines for name in line.methods)):
        found = [(place, m.right) for place, line in zip(places, lines, strict=True) if (m := line.methods.get(name))]
        values = [(place, right) for place, right in found if right is not None]
        if not values:
            continue
        shade = colour(number)
        x, y = [place for place, _ in values], [right.mean * 100 for _, right in values]
        for place, right in values:
            axes.errorbar([place], [right.mean * 100], yerr=whiskers(right, 100), color=shade, linewidth=1)
        axes.plot(x, y, color=shade, marker=marker(number), markersize=5, linewidth=1.6)
        labels.append((x[-1], y[-1], name, number))
    for name in lines[0].drawn:
        values = [(place, line.drawn[name] * 100) for place, line in zip(places, lines, strict=True) if name in line.drawn]
        axes.plot(*zip(*values, strict=True), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        labels.append((*values[-1], f"{name} (control)", None))
    if not labels:
        return False
    axes.set_xticks(list(places), [line.state.replace(", accuracy ", "\n") for line in lines], fontsize=9)
    axes.set_xlim(-0.3, len(lines) - 0.7)
    axes.set_ylim(-4, 104)
    axes.set_ylabel("labels right, %")
    axes.grid(visible=True)
    name_lines(axes, labels)
    return True


def _leakage(axes: Axes, point: Point, groups: Mapping[str, str], metric: str) -> bool:
    scale = 100 if metric == "label_accuracy" else 1
    numbers, places = _numbers(groups), defaultdict[str, list[tuple[float, float]]](list)
    for finding in point.findings:
        leak = finding.labels if metric == "label_accuracy" else finding.pictures
        if leak is None or finding.accuracy is None:
            continue
        x, y = finding.accuracy, _drawn(leak.value, math.inf if metric == "label_accuracy" else DRAWN_TO)
        group = groups[finding.defense]
        axes.errorbar(
            [x.mean * 100],
            [y.mean * scale],
            xerr=whiskers(x, 100),
            yerr=whiskers(y, scale),
            color=colour(numbers[group]),
            marker=marker(numbers[group]),
            markersize=8,
            linewidth=1.2,
        )
        places[group].append((x.mean * 100, y.mean * scale))
    if not places:
        return False
    labels: list[tuple[float, float, str, int | None]] = []
    for group, strengths in places.items():
        axes.plot(*zip(*strengths, strict=True), color=colour(numbers[group]), linewidth=1, alpha=0.6)
        labels.append((*strengths[-1], group, numbers[group]))
    controls = point.controls[metric]
    axes.margins(0.18)
    left, right = axes.get_xlim()
    lacking = max(0.0, 4 - (right - left)) / 2  # points of accuracy: less is no difference to look at
    axes.set_xlim(left - lacking, right + lacking)
    low, high = axes.get_ylim()
    ends = [value * scale for value in controls.values()]
    low, high = min([low, *ends]), max([high, *ends])
    if metric == "label_accuracy":
        low, high = -4, 104
    pad = 0.06 * (high - low)
    axes.set_ylim((low, high) if metric == "label_accuracy" else (low - pad, min(high + pad, 1.05 * DRAWN_TO)))
    if metric != "label_accuracy" and any(place == DRAWN_TO for _, place, *_ in labels):
        axes.yaxis.set_major_locator(MultipleLocator(10))
        axes.yaxis.set_major_formatter(lambda decibels, _: f"≥ {decibels:g}" if decibels == DRAWN_TO else f"{decibels:g}")
    axes.set_xlabel("accuracy after the last round, %")
    axes.set_ylabel("labels right, %" if metric == "label_accuracy" else "PSNR, dB")
    axes.grid(visible=True)
    right = axes.get_xlim()[1]
    for name, value in controls.items():
        axes.axhline(value * scale, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        labels.append((right, value * scale, f"{name} (control)", None))
    name_lines(axes, labels)
    return True


def _drawn(value: Estimate, top: float) -> Estimate:
    """The estimate, with what is above the drawing's end put there."""
    low, high = (None if end is None else min(end, top) for end in (value.low, value.high))
    return replace(value, mean=min(value.mean, top), low=low, high=high)


def _by_round(axes: Axes, found: Sequence[Curve], groups: Mapping[str, str]) -> bool:
    numbers, ends = _numbers(groups), dict[str, tuple[float, float]]()
    for curve in found:
        if not curve.accuracy:
            continue
        group = groups[curve.defense]
        rounds = list(curve.accuracy)
        means = [statistics.fmean(values) * 100 for values in curve.accuracy.values()]
        shade = colour(numbers[group])
        if any(len(values) > 1 for values in curve.accuracy.values()):
            lows, highs = ([bound(v) * 100 for v in curve.accuracy.values()] for bound in (min, max))
            axes.fill_between(rounds, lows, highs, color=shade, alpha=0.12, linewidth=0)
        style = {"marker": marker(numbers[group]), "markersize": 5} if len(rounds) <= 25 else {}
        axes.plot(rounds, means, color=shade, linewidth=1.8, **style)
        if group not in ends or means[-1] < ends[group][1]:
            ends[group] = rounds[-1], means[-1]
    labels = [(*end, group, numbers[group]) for group, end in ends.items()]
    if not labels:
        return False
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, min(100, axes.get_ylim()[1] * 1.08) if axes.get_ylim()[1] > 0 else 1)
    axes.grid(visible=True)
    name_lines(axes, labels)
    return True


def _numbers(groups: Mapping[str, str]) -> dict[str, int]:
    """Of each group the place of its colour and its sign."""
    return {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}


def colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def marker(number: int) -> str:
    """Of a series, the next of the same colour having another."""
    return MARKERS[(number + number // len(SERIES)) % len(MARKERS)]


def whiskers(value: Estimate, scale: float) -> list[list[float]] | None:
    if value.low is None or value.high is None:
        return None
    return [[max(0.0, value.mean - value.low) * scale], [max(0.0, value.high - value.mean) * scale]]


def name_lines(axes: Axes, labels: Sequence[tuple[float, float, str, int | None]]) -> None:
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
        shade = INK if number is None else colour(number)
        axes.annotate(
            text if len(text) <= 18 else f"{text[:8]}…{text[-9:]}",
            xy=(x, y),
            xytext=(1.06, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=shade,
            va="center",
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": shade, "linewidth": 0.7, "alpha": 0.6, "shrinkB": 3},
            annotation_clip=False,
        )


def drawing(figure: Figure, prefix: str, words: str) -> Markup:
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
