"""Fronts and areas against counting by hand and by chance; trade-offs of a run that is made up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.tradeoffs import hypervolume, pareto_front

shares = st.floats(0, 1).map(lambda value: round(value, 3))
clouds = st.lists(st.tuples(shares, shares), min_size=1, max_size=12)


@settings(deadline=None, max_examples=100)
@given(clouds)
def test_the_front_dominates_every_point_and_none_of_its_own(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert set(front) <= set(points)
    for point in points:
        assert any(best[0] >= point[0] and best[1] >= point[1] for best in front)
    for one in front:
        assert not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in front)


@settings(deadline=None, max_examples=50)
@given(clouds)
def test_the_hypervolume_is_the_share_of_the_square_that_is_dominated(points: list[tuple[float, float]]) -> None:
    middles = (np.arange(200) + 0.5) / 200
    dominated = np.zeros((200, 200), dtype=bool)
    for x, y in points:
        dominated |= (middles[:, None] < x) & (middles[None, :] < y)
    assert hypervolume(points) == pytest.approx(dominated.mean(), abs=0.011)


def test_the_hypervolume_of_two_steps_by_hand() -> None:
    assert hypervolume([(0.9, 0.2), (0.5, 0.8), (0.4, 0.7)]) == pytest.approx(0.9 * 0.2 + 0.5 * 0.6)
