"""A program is the function that it was recorded from, in fewer operations."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.multiprocessing.reductions import StorageWeakRef

from attacks.matching.tracing import NotTraceable, program_of
from learning.tensors import generator


def program(function, example: Tensor):
    """Of one argument."""
    found = program_of(lambda one: function(one["x"]), {"x": example})
    return lambda given: found({"x": given})


WEIGHT = torch.randn(4, 6, generator=generator("weight"))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("drawn", seed))


FUNCTIONS = {
    "views of views": lambda x: x.t().unsqueeze(0).expand(3, 6, 4).transpose(1, 2)[1, 1:].flatten() * 2,
    "several results": lambda x: [part.square() for part in x.split(2)] + list(x.topk(2, dim=1)),
    "a view is the result": lambda x: (x + 1).view(6, 4)[::2],
    "the argument is the result": lambda x: (x, WEIGHT, x.t()),
    "writes into its own": lambda x: (x * 2).add_(1).clamp_(0).sum(0) + torch.zeros(6).index_add_(0, torch.arange(4), x[:, 0]),
    "reads, writes, reads": lambda x: (lambda y: y.sum() + y.mul_(2).sum() + y.sum())(x + 1),
    "a view is written": lambda x: (lambda y: (y[0].zero_(), y)[1])(x.clone()),
    "a gradient": grad(lambda x: (x @ WEIGHT.t()).sigmoid().square().sum()),
    "gradients of rows": vmap(grad(lambda row: (WEIGHT @ row).sigmoid().sum())),
    "constants": lambda x: x + WEIGHT.t().contiguous().t() * WEIGHT.square().sum(),
    "pooling": lambda x: nn.functional.max_pool2d(x[None, None], 2).flatten(),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_program_gives_the_same_numbers_for_other_arguments(case):
    function = FUNCTIONS[case]
    recorded = program(function, drawn(4, 6))
    for seed in (1, 2):  # the second call must not see what the first one did
        given = drawn(4, 6, seed=seed)
        before = given.clone()
        torch.testing.assert_close(recorded(given), function(given.clone()), rtol=0, atol=0)
        assert given.equal(before)


LEFT = drawn(3, 4, 2, seed=5)
SUMS = {
    "products": lambda x: torch.bmm(LEFT, x[:, :2]) + torch.bmm(LEFT, x[:, 2:]),
    "products seen transposed": lambda x: torch.bmm(LEFT, x[:, :2]).mT + torch.bmm(LEFT, x[:, 2:]).mT,
    "of which one is seen transposed": lambda x: torch.bmm(x, x) + torch.bmm(x, x + 1).mT,
    "of which one is asked for again": lambda x: (lambda one: (one + torch.bmm(x, x + 1), one * 2))(torch.bmm(x, x)),
    "of which the other is asked for again": lambda x: (lambda one: (torch.bmm(x, x + 1) + one, one * 2))(torch.bmm(x, x)),
    "a product and itself": lambda x: (lambda one: one + one)(torch.bmm(x, x)),
    "a product and what is none": lambda x: torch.bmm(x, x) + x,
}


@pytest.mark.parametrize("case", SUMS)
def test_a_program_adds_products_of_matrices(case):
    function = SUMS[case]
    recorded = program(function, drawn(3, 4, 4))
    for seed in (1, 2):
        given = drawn(3, 4, 4, seed=seed)
        torch.testing.assert_close(recorded(given), function(given))


@pytest.mark.parametrize("layout", ["transposed", "shifted", "expanded"])
def test_a_program_does_not_mind_how_its_argument_lies_in_memory(layout):
    recorded = program(lambda x: x.t()[1:] * 2, drawn(4, 6))
    given = {"transposed": drawn(6, 4).t(), "shifted": drawn(9, 6)[3:7], "expanded": drawn(1, 6).expand(4, 6)}[layout]
    torch.testing.assert_close(recorded(given), given.t()[1:] * 2)


def test_a_program_repeats_the_arguments_names():
    recorded = program_of(
        lambda one: {"sum": one["a"] + one["b"], "pair": (one["a"], 3 * one["b"])}, {"a": drawn(2), "b": drawn(2)}
    )
    found = recorded({"b": torch.ones(2), "a": torch.zeros(2)})
    assert found["sum"].tolist() == [1, 1]
    assert [part.tolist() for part in found["pair"]] == [[0, 0], [3, 3]]


def test_what_needs_no_argument_is_computed_once():
    calls = []

    def count(x: Tensor) -> Tensor:
        calls.append(x)
        return x + WEIGHT.square()

    program(count, drawn(4, 6))(drawn(4, 6))
    assert len(calls) == 1


def test_recording_keeps_nothing_alive_that_the_function_lets_go():
    """A large network's double backward would not fit into memory otherwise."""
    gone = []

    def forgetful(x: Tensor) -> Tensor:
        double = x * 2
        seen = StorageWeakRef(double.untyped_storage())
        quadruple = double * 2
        del double
        gone.append(seen.expired())
        return quadruple

    recorded = program(forgetful, drawn(4, 6))
    assert gone == [True]
    assert recorded(torch.ones(4, 6)).unique().tolist() == [4]


ELSEWHERE = torch.zeros(4, 6)


@pytest.mark.parametrize(
    "function",
    [lambda x: x * x.sum().item(), lambda x: x + torch.rand(6), lambda x: ELSEWHERE.add_(x), lambda x: x[0].zero_()],
    ids=["reads a number", "draws one", "writes elsewhere", "writes into its argument"],
)
def test_what_cannot_be_repeated_is_refused(function):
    with pytest.raises(NotTraceable):
        program(function, drawn(4, 6))
    assert ELSEWHERE.equal(torch.zeros(4, 6))


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("padding", [0, 2, (1, 0)])
def test_patches_are_the_same_as_unfold(stride, padding):
    def unfold(images: Tensor) -> Tensor:
        return nn.functional.unfold(images, (3, 2), dilation=(1, 2), padding=padding, stride=stride)

    images = drawn(2, 3, 9, 8)
    torch.testing.assert_close(program(unfold, images)(images), unfold(images), rtol=0, atol=0)
