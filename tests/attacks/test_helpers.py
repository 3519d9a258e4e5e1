"""Attacks whose work falls into parts, with helpers that do them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from attacks.exact import Spear, SpearPlus
from attacks.helpers import Helpers, helpers, with_helpers
from learning.tensors import generator
from tests.attacks.exact.test_spear_plus import check_certified, seen


class Listening(Helpers):
    """Does the parts here, and keeps them."""

    def __init__(self, count: int):
        self.count, self.calls, self.given = count, [], []

    def call(self, work: Callable[..., Any], given: tuple[Any, ...], each: Sequence[Any]) -> list[Any]:
        self.calls.append(list(each))
        self.given.append(given)
        return [work(*given, part) for part in each]

    def turns(self, work: Callable[..., Any], given: tuple[Any, ...], part: Callable[[], Any]) -> Iterator[list[Any]]:
        ahead = [part() for _ in range(self.count)]
        while True:
            theirs, ahead = ahead, [part() for _ in range(self.count)]
            yield self.call(work, given, [part(), *theirs])


def test_there_are_none_unless_a_worker_has_some():
    assert helpers().count == 0
    assert helpers().call(max, (3,), [1, 5]) == [3, 5]
    with with_helpers(Listening(2)):
        assert helpers().count == 2
    assert helpers().count == 0


def test_every_helper_draws_its_own_samples_and_what_they_find_is_put_together():
    observation, batch = seen(10, 0, width=100)
    alone = Spear(chunk=4096).reconstruct(observation, generator(0))
    listening = Listening(2)
    with with_helpers(listening):
        found = Spear(chunk=4096).reconstruct(observation, generator(0))
    check_certified(found, batch, 1e-6)
    check_certified(alone, batch, 1e-6)
    seeds = [seed for call in listening.calls for *_, seed in call]
    assert {len(call) for call in listening.calls} == {3}
    assert len(set(seeds)) == len(seeds)
    assert len({id(given) for given in listening.given}) == 1


def test_a_small_batch_is_not_worth_a_message():
    observation, batch = seen(4, 0)
    listening = Listening(2)
    with with_helpers(listening):
        check_certified(Spear().reconstruct(observation, generator(0)), batch, 1e-6)
    assert listening.calls == []


@pytest.mark.parametrize("count", [1, 3])
def test_helpers_search_for_other_classes(count):
    for seed in range(2):
        observation, batch = seen(10, seed)
        listening = Listening(count)
        with with_helpers(listening):
            check_certified(SpearPlus().reconstruct(observation, generator(seed)), batch, 1e-6)
        assert max(len(call) for call in listening.calls) == count + 1
        for call in listening.calls:
            assert len({search.own for search in call}) == len(call)
            assert all(torch.equal(search.found.classes, call[0].found.classes) for search in call)
