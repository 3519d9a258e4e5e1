"""A function of tensors as the list of operations that it runs: the same numbers, without the Python around them.

PyTorch's own `make_fx` does this in seconds, which is longer than a small network's whole descent takes. One run of the
function under a dispatch mode takes a tenth of one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from learning.tensors import Tensors

aten = torch.ops.aten
DIRECT = {  # the same operations, called without a look at their schema
    aten.abs.default: torch.abs,
    aten.add.Scalar: torch.add,
    aten.add.Tensor: torch.add,
    aten.addmm.default: torch.addmm,
    aten.bmm.default: torch.bmm,
    aten.cat.default: torch.cat,
    aten.clone.default: torch.clone,
    aten.constant_pad_nd.default: torch.constant_pad_nd,
    aten.div.Scalar: torch.div,
    aten.div.Tensor: torch.div,
    aten.dot.default: torch.dot,
    aten.mm.default: torch.mm,
    aten.mul.Scalar: torch.mul,
    aten.mul.Tensor: torch.mul,
    aten.mv.default: torch.mv,
    aten.neg.default: torch.neg,
    aten.ones_like.default: torch.ones_like,
    aten.reshape.default: torch.reshape,
    aten.sgn.default: torch.sgn,
    aten.sigmoid.default: torch.sigmoid,
    aten.sub.Tensor: torch.sub,
    aten.sum.default: torch.sum,
    aten.sum.dim_IntList: torch.sum,
}


class NotTraceable(Exception):
    """The function does what a list of operations cannot repeat."""


def program_of(function: Callable[[Tensors], Any], example: Tensors) -> Callable[[Tensors], Any]:
    """The operations that the function runs on an example, as a function of tensors of those names and shapes.

    What is computed twice is computed once, what does not depend on the argument is computed now, and a view of a view is a
    view of the tensor behind both. Assumes that the numbers do not decide which operations are run. Raises `NotTraceable`
    where the function reads a number, draws one, or writes into a tensor that it has not made.
    """
    inputs = {name: _plain(tensor.detach()) for name, tensor in example.items()}
    record = _Record(list(inputs.values()))
    with torch.no_grad(), record:
        outputs, result = tree_flatten(function(inputs))
    record.graph.output(tuple(record.node(output) for output in outputs))
    _add_products(record.graph)
    record.graph.eliminate_dead_code()
    module = fx.GraphModule(record.constants, record.graph)
    module.__dict__.update(record.constants.named_buffers())  # found at once, and not by way of `Module.__getattr__`
    run = module.forward

    @torch.no_grad()
    def program(argument: Tensors) -> Any:
        return result.unflatten(run(*(_plain(argument[name]) for name in inputs)))

    return program


def is_recording() -> bool:
    """Whether what is computed now becomes a program: what is long to call and soon done is worth it then."""
    return isinstance(_get_current_dispatch_mode(), _Record)


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


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that lies in memory from its storage's beginning on, one row after the other."""
    return (
        tensor
        if tensor.is_contiguous() and tensor.storage_offset() == 0
        else tensor.clone(memory_format=torch.contiguous_format)
    )


class _Record(TorchDispatchMode):
    """Writes down every operation. A tensor is known by where it lies in memory: so a view is a view of what lies there."""

    def __init__(self, inputs: list[Tensor]):
        super().__init__()
        self.graph, self.constants = fx.Graph(), torch.nn.Module()
        self.given = {_storage(tensor) for tensor in inputs}
        self.told_apart: list[StorageWeakRef] = []  # a storage that is gone frees its memory, and leaves its name to no other
        self.sources: dict[int, fx.Node] = {}  # by storage
        self.nodes: dict[tuple[Any, ...], fx.Node] = {}  # by place
        self.done: dict[str, fx.Node] = {}  # by operation and what it is given
        for index, tensor in enumerate(inputs):
            self._name(tensor, self.graph.placeholder(f"input_{index}"))

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation is aten._local_scalar_dense.default or torch.Tag.nondeterministic_seeded in operation.tags:
            raise NotTraceable(f"{operation} reads a number or draws one")
        if operation is aten.im2col.default and args[0].ndim == 4:
            with self:
                return _patches(*args)
        used = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        writes = operation._schema.is_mutable
        fixed = bool(used) and not any(self._knows(tensor) for tensor in used)
        if writes and not all(self._made(tensor) for tensor in _written(operation, args, kwargs)):
            raise NotTraceable(f"{operation} writes into a tensor that comes from elsewhere")
        found = operation(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        if fixed or (not writes and all(self._knows(tensor) for tensor in results)):
            return found  # a constant, or a view, which are named where they are used
        seen = tree_map(self.node, (args, kwargs))
        key = repr((operation, seen))
        if writes:
            self.done.clear()
        node = self.done.get(key) or self.graph.call_function(DIRECT.get(operation, operation), *seen)
        if not writes:
            self.done[key] = node
        for index, tensor in enumerate(found if isinstance(found, (tuple, list)) else [found]):
            if isinstance(tensor, Tensor) and not self._knows(tensor):
                several = isinstance(found, (tuple, list))
                self._name(tensor, self.graph.call_function(_item, (node, index)) if several else node)
        return found

    def node(self, value: Any) -> Any:
        """What a tensor is called in the program; what is no tensor is called by itself."""
        if not isinstance(value, Tensor):
            return value
        if not self._knows(value) and _place(value) not in self.nodes:
            name = f"constant_{len(self.nodes)}"
            self.constants.register_buffer(name, value)
            self.nodes[_place(value)] = self.graph.get_attr(name)
        if _place(value) not in self.nodes:
            view = (self.sources[_storage(value)], list(value.shape), list(value.stride()), value.storage_offset())
            self.nodes[_place(value)] = self.graph.call_function(torch.as_strided, view)
        return self.nodes[_place(value)]

    def _knows(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self.sources

    def _made(self, tensor: Tensor) -> bool:
        return self._knows(tensor) and _storage(tensor) not in self.given

    def _name(self, tensor: Tensor, node: fx.Node) -> None:
        self.told_apart.append(StorageWeakRef(tensor.untyped_storage()))
        self.sources[_storage(tensor)] = self.nodes[_place(tensor)] = node


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return _storage(tensor), tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _written(operation: Any, args: Any, kwargs: Any) -> list[Tensor]:
    named = {argument.name: value for argument, value in zip(operation._schema.arguments, args, strict=False)} | kwargs
    marked = [one.name for one in operation._schema.arguments if one.alias_info is not None and one.alias_info.is_write]
    return [leaf for leaf in tree_leaves([named.get(name) for name in marked]) if isinstance(leaf, Tensor)]


def _item(several: Any, index: int) -> Tensor:
    return several[index]


def _patches(images: Tensor, kernel: list[int], dilation: list[int], padding: list[int], stride: list[int]) -> Tensor:
    """`im2col` as one copy of a view, in half the time."""
    padded = torch.constant_pad_nd(images, [padding[1], padding[1], padding[0], padding[0]])
    batch, channels, *pixels = padded.shape
    rows, columns = ((p - d * (k - 1) - 1) // s + 1 for p, d, k, s in zip(pixels, dilation, kernel, stride, strict=True))
    each, channel, down, aside = padded.stride()
    shape = (batch, channels, *kernel, rows, columns)
    steps = (each, channel, dilation[0] * down, dilation[1] * aside, stride[0] * down, stride[1] * aside)
    return padded.as_strided(shape, steps, padded.storage_offset()).reshape(batch, channels * kernel[0] * kernel[1], -1)
