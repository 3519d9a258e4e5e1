"""Names beside a drawing: however many there are, each can be read."""

import itertools
import re
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.text import Text

from studies.plots import MARKERS, SERIES, axes_for, marker, name_lines, plots_of
from studies.scores import Estimate
from studies.summary import Curve
from studies.wording import along


@pytest.mark.parametrize("names", [3, 13, 50])
def test_names_do_not_lie_on_each_other(names):
    axes = axes_for(names)
    name_lines(axes, [(0.5, 0.5, f"defense {number}", number) for number in range(names)])
    assert axes.figure is not None
    axes.figure.draw_without_rendering()
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == names
    heights = [upper.y0 - lower.y0 for lower, upper in itertools.pairwise(boxes)]
    assert min(heights) >= 0.9 * boxes[0].height
    assert boxes[0].y0 >= 0
    assert boxes[-1].y1 <= axes.figure.bbox.height


def test_series_of_one_colour_have_markers_of_their_own():
    assert len({(number % len(SERIES), marker(number)) for number in range(64)}) == min(64, len(SERIES) * len(MARKERS))


def leaking(decibels: dict[str, float]) -> Any:
    """A point of a study whose defenses let so much through."""
    accuracy = Estimate(0.9, None, None, 1)
    findings = [
        SimpleNamespace(
            defense=defense,
            accuracy=accuracy,
            labels=None,
            pictures=SimpleNamespace(value=Estimate(psnr, psnr - 2, psnr + 2, 3)),
        )
        for defense, psnr in decibels.items()
    ]
    curves = [Curve("", defense, {0: [0.1], 5: [psnr / 100]}) for defense, psnr in decibels.items()]
    kinds = {defense: defense.rstrip(" 0123456789") for defense in decibels}
    return SimpleNamespace(
        setting="", findings=findings, controls={"psnr": {}, "label_accuracy": {}}, curves=curves, kinds=kinds
    )


def test_exact_pictures_leave_the_others_their_room():
    """300 dB are drawn at 60, and the scale says that more is meant; where nothing is so good it does not."""
    exact, _ = plots_of(leaking({"none": 300.0, "noise": 20.0, "pruning": 15.0}), 0)
    assert ">\u2265 60<" in exact.drawing
    assert ">20<" in exact.drawing
    assert ">300<" not in exact.drawing
    good, _ = plots_of(leaking({"noise": 20.0, "pruning": 15.0}), 0)
    assert "\u2265" not in good.drawing


def test_of_many_defenses_the_strengths_of_one_technique_share_a_name():
    """Each technique once, a single strength by its own name."""
    strengths = {f"noise {number}": 10.0 + number for number in range(8)} | {
        f"pruning {number}": 30.0 - number for number in range(8)
    }
    for plot in plots_of(leaking({"none": 40.0, "sign 1": 5.0} | strengths), 0):
        names = [
            name for name in re.findall(r"<text[^>]*>([^<]+)</text>", plot.drawing) if re.match("none|sign|noise|pruning", name)
        ]
        assert sorted(names) == ["noise", "none", "pruning", "sign 1"]
    few = dict(itertools.islice(strengths.items(), 4))
    for plot in plots_of(leaking(few), 0):
        assert all(f">{name}<" in plot.drawing for name in few)


def test_what_is_beyond_a_line_stands_at_its_end():
    assert [along(value, 60.0) for value in (0.0, 15.0, 60.0, 300.0)] == [0.0, 25.0, 100.0, 100.0]
