"""Names beside a drawing: however many there are, each can be read."""

import itertools

import pytest
from matplotlib.text import Text

from studies.plots import MARKERS, SERIES, axes_for, marker, name_lines


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
