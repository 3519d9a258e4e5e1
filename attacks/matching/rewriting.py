"""Cheaper operations in a recorded program, in the place of several that give the same numbers.

What comes after finds a tensor in memory as it was recorded: a view is told by strides, and an operation's result lies as
what it was given.
"""

from typing import Any

import torch
from torch import fx


def rewrite(graph: fx.Graph) -> None:
    """Does what pays to a graph that `attacks.matching.tracing` has recorded."""
    _straighten(graph)
    _add_products(graph)


def _straighten(graph: fx.Graph) -> None:
    """Batches of products that are only copied, transposed, are computed as the copy lies in memory."""
    for copy in graph.nodes:
        if copy.target is not torch.clone or copy.kwargs.get("memory_format") is not torch.contiguous_format:
            continue
        product, view = _product(copy.args[0])
        if product is None or not view:
            continue
        shape, strides, offset = view
        sizes = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
        if offset or len(sizes) != 3:
            continue
        (_, apart), (rows, down), (columns, aside) = sizes
        if (apart, down, aside) == (rows * columns, 1, rows):
            with graph.inserting_before(copy):
                factors = [graph.call_function(torch.transpose, (factor, 1, 2)) for factor in reversed(product.args)]
                straight = graph.call_function(torch.bmm, tuple(factors))
                copy.replace_all_uses_with(graph.call_function(torch.reshape, (straight, shape)))


def _add_products(graph: fx.Graph) -> None:
    """Puts one call in the place of two batches of products of matrices that are added, also where both are seen transposed."""
    for node in graph.nodes:
        if node.target is not torch.add or node.kwargs or not all(isinstance(one, fx.Node) for one in node.args):
            continue
        (left, seen), (right, seen_alike) = (_product(one) for one in node.args)
        if left is None or right is None or seen != seen_alike:
            continue
        with graph.inserting_before(node):
            found = graph.call_function(torch.Tensor.baddbmm_, (left, *right.args))
            node.replace_all_uses_with(graph.call_function(torch.as_strided, (found, *seen)) if seen else found)


def _product(node: Any) -> tuple[fx.Node | None, tuple[Any, ...]]:
    """The products that a node is, or is a view of, and the view, if nothing else asks for them."""
    seen, user = (), node
    if node.target is torch.as_strided:
        node, seen = node.args[0], tuple(node.args[1:])
    alone = node.target is torch.bmm and len(node.users) == 1 and len(user.users) == 1
    return (node if alone else None), seen
