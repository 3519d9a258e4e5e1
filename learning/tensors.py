"""Tensors by name, on disk and in hand, and the one way in which this project draws random numbers."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Tensors: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Examples: `images` are floats in [0, 1], `labels` are class indices."""

    images: Float[Tensor, "batch channels height width"]
    labels: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.labels)


BUFFER = "buffer:"


@dataclass(frozen=True)
class Update:
    """What one client shares in one round.

    `parameters`: a gradient, or returned minus sent weights, by parameter name; the study's `Training.shared` says which.
    `buffers`: running statistics as they are after the local steps, by buffer name; empty where the client keeps them.
    """

    parameters: Tensors
    buffers: Tensors = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Update":
        """The update with `change` applied to the parameters' tensors, one by one; buffers stay."""
        return Update({name: change(tensor) for name, tensor in self.parameters.items()}, self.buffers)

    def named(self) -> Tensors:
        """Parameters and buffers in one dict, the buffers' names marked; `Update.of` is the way back."""
        return self.parameters | {BUFFER + name: tensor for name, tensor in self.buffers.items()}

    @classmethod
    def of(cls, named: Tensors) -> "Update":
        """The update that `named` made a dict of."""
        buffers = {name.removeprefix(BUFFER): tensor for name, tensor in named.items() if name.startswith(BUFFER)}
        return cls({name: tensor for name, tensor in named.items() if not name.startswith(BUFFER)}, buffers)

    def flat(self) -> Tensor:
        """All parameters' entries in one vector, in the order of their names in the update."""
        return torch.cat([tensor.flatten() for tensor in self.parameters.values()])


def parameters_of(model: nn.Module) -> Tensors:
    """The model's parameters by name, detached (they share memory with the model)."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def buffers_of(model: nn.Module) -> Tensors:
    """The model's floating-point buffers that are part of its state, by name (they share memory with the model).

    BatchNorm's integer counter of batches is left out: nothing in the project reads it, and strategies average what they get.
    """
    persistent = model.state_dict(keep_vars=True).keys()
    return {name: b.detach() for name, b in model.named_buffers() if b.is_floating_point() and name in persistent}


def load_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies the tensors into the model's parameters and buffers of those names.

    Raises `ValueError`, and copies nothing, if a parameter is missing, a name is not the model's, or a shape differs.
    """
    own = parameters_of(model) | buffers_of(model)
    fitting = {name: tensor for name, tensor in tensors.items() if name in own}
    missing = [name for name in parameters_of(model) if name not in tensors]
    foreign = [name for name in tensors if name not in own and not name.endswith("num_batches_tracked")]
    if missing or foreign:
        raise ValueError(f"the state does not fit the model: missing {missing[:4]}, unknown {foreign[:4]}")
    for name, tensor in fitting.items():
        if own[name].shape != tensor.shape:
            raise ValueError(f"'{name}' has shape {tuple(tensor.shape)}, the model needs {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the tensors as safetensors; a reader sees the whole file or none, also after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(path)


def read_tensors(path: Path) -> Tensors:
    """Reads a safetensors file. Raises `ValueError` that names the file if it is missing or is not one."""
    try:
        found = safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read '{path}': {error.strerror}") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"'{path}' is not a safetensors file ({error})") from None
    # The reader gives names in a random order, and memory that is not aligned: sums over them would round differently.
    return {name: found[name].clone() for name in sorted(found)}


def read_checkpoint(path: Path) -> Tensors:
    """Weights by name from safetensors, or from PyTorch's format read with `weights_only` (no code in it is run).

    Raises `ValueError` that names the file if it is neither, or holds something else than tensors by name.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read '{path}': {error.strerror}") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"'{path}' is neither safetensors nor a PyTorch file of weights ({reason[:120]})") from None
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items()):
        raise ValueError(f"'{path}' does not hold tensors by name; save a model's state_dict()")
    return dict(found)


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on all parts.

    It goes through SHA-256: who holds one derived seed (an attack holds its own) learns nothing about the study's seed or
    about the seeds of the clients' batches.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by all parts; draws are made on the CPU, so that they are the same on every device."""
    return torch.Generator().manual_seed(derived_seed(*parts))


_global_random = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """PyTorch's global random state, seeded for a while and then put back: layers' initial weights and dropout draw from it.

    One thread at a time: a server that trains and builds models for its attacks at once would mix their draws otherwise.
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    with _global_random, torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
