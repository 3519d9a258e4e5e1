"""Tensors through Flower's records and back."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from learning.messages import late_record, record_of, tensors_of

TYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]


@given(
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
    dtype=st.sampled_from(TYPES),
    seed=st.integers(0, 100),
)
def test_a_record_is_what_flower_would_make_and_comes_back(shape, dtype, seed):
    tensor = (10 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
    record = record_of({"w": tensor})
    assert record["w"].data == Array(tensor.numpy()).data
    assert np.array_equal(record["w"].numpy(), tensor.numpy())
    back = tensors_of(record)["w"]
    assert torch.equal(back, tensor)
    assert back.dtype == dtype


@given(shape=st.lists(st.integers(0, 5), max_size=4).map(tuple), dtype=st.sampled_from(TYPES))
def test_a_late_record_is_the_same_record_whose_arrays_are_made_when_asked_for(shape, dtype):
    tensor, asked = torch.ones(shape).to(dtype), []
    late, plain = late_record({"w": tensor}, lambda name: [tensor.clone(), asked.append(name)][0]), record_of({"w": tensor})
    assert (late["w"].shape, late["w"].dtype, late["w"].stype) == (plain["w"].shape, plain["w"].dtype, plain["w"].stype)
    assert asked == []
    assert late["w"].data == plain["w"].data
    assert np.array_equal(late["w"].numpy(), plain["w"].numpy())
    assert asked == ["w", "w"]
    sendable = ArrayRecord(dict(late.items()))
    assert sendable.object_id == plain.object_id  # what Flower names it by when it sends it


def test_what_flower_itself_writes_is_read_also_in_fortran_order():
    turned = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert torch.equal(tensors_of(ArrayRecord({"w": Array(turned)}))["w"], torch.from_numpy(turned))
    strided = torch.arange(24.0).reshape(4, 6)[::2, ::3].T
    assert torch.equal(tensors_of(record_of({"w": strided}))["w"], strided)


def test_the_tensors_are_their_own():
    record = record_of({"w": torch.zeros(3)})
    tensors_of(record)["w"].add_(1)
    assert torch.equal(tensors_of(record)["w"], torch.zeros(3))


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (3,), "numpy.ndarray", b"not an array"),
        Array("float32", (3,), "numpy.ndarray", b""),
        Array(np.array(["a", "b"])),
        Array("float32", (3,), "pickle", b"123"),
        Array("no such type", (3,), "numpy.ndarray", b"123"),
        Array("float32", (3,), "numpy.ndarray", Array(np.zeros(3, np.float32)).data[:-1]),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(array):
    with pytest.raises(ValueError, match="an array cannot be read"):
        tensors_of(ArrayRecord({"w": array}))
