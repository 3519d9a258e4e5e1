"""Tensors by name as Flower's records, for clients and server alike."""

import io
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from learning.tensors import Tensors

ARRAYS, CONFIG, METRICS, EXAMPLES = "arrays", "config", "metrics", "num-examples"


def tensors_of(record: ArrayRecord) -> Tensors:
    """An array record's arrays as tensors of their own, by name. Raises `ValueError` for what is no array of numbers."""
    try:
        return {name: tensor_of(array) for name, array in record.items()}
    except (TypeError, ValueError, EOFError) as error:
        raise ValueError(f"an array cannot be read ({error})") from None


def tensor_of(array: Array) -> Tensor:
    """An array as a tensor of its own."""
    return torch.from_numpy(_numbers(array))


def record_of(tensors: Tensors) -> ArrayRecord:
    """Tensors by name as an array record."""
    return ArrayRecord({name: _array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})


def late_record(like: Tensors, compute: Callable[[str], Tensor]) -> ArrayRecord:
    """A record of arrays of these names, shapes and types, for a strategy in this process: `compute` makes the array of a name
    whenever somebody asks for it, a tensor of its own each time, and nothing is held in between.

    Not to be sent: `ArrayRecord(dict(record.items()))` makes one of it that can be.
    """
    record = ArrayRecord()
    for name, tensor in like.items():
        record[name] = _Late(tensor, partial(compute, name))  # one by one: the constructor makes plain arrays of them
    return record


class _Late(Array):
    _compute: Callable[[], Tensor]

    def __init__(self, like: Tensor, compute: Callable[[], Tensor]):
        # not by assignment: Flower's arrays look at all of themselves whenever an attribute is set
        described = {"dtype": str(like.dtype).removeprefix("torch."), "shape": tuple(like.shape), "stype": "numpy.ndarray"}
        self.__dict__ |= {**described, "_compute": compute}

    @property
    def data(self) -> bytes:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _array(self.numpy()).data

    def numpy(self) -> np.ndarray:
        return self._compute().detach().cpu().numpy()


# Flower keeps arrays as the bytes of .npy files, whose headers NumPy writes and parses anew each time: for small models that
# takes most of a round's time at the server. These two do the same with the header of a shape and type made once.


def _array(numbers: np.ndarray) -> Array:
    data = _header(numbers.shape, str(numbers.dtype)) + numbers.tobytes()
    return Array(str(numbers.dtype), numbers.shape, "numpy.ndarray", data)


def _numbers(array: Array) -> np.ndarray:
    header = _header(array.shape, array.dtype)
    if array.stype != "numpy.ndarray" or not array.data.startswith(header):
        return array.numpy()
    return np.frombuffer(array.data, array.dtype, offset=len(header)).reshape(array.shape).copy()


@lru_cache(maxsize=4096)
def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    file = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)  # pyright: ignore[reportAttributeAccessIssue]
    return file.getvalue()
