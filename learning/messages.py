"""Tensors by name as Flower's records, for clients and server alike."""

import numpy as np
import torch
from flwr.app import Array, ArrayRecord

from learning.tensors import Tensors

ARRAYS, CONFIG, METRICS, EXAMPLES = "arrays", "config", "metrics", "num-examples"


def tensors_of(record: ArrayRecord) -> Tensors:
    """An array record's arrays as tensors of their own, by name."""
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in record.items()}


def record_of(tensors: Tensors) -> ArrayRecord:
    """Tensors by name as an array record."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})
