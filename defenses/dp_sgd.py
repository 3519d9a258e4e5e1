"""DP-SGD: Deep Learning with Differential Privacy (Abadi et al. 2016, arXiv 1607.00133)."""

import warnings
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, func, nn
from torch.nn import functional

from defenses.defense import Compute, Defense
from learning.catalogue import NotNegative, Positive, settings
from learning.models import divergence
from learning.tensors import Batch, Tensors, Update, buffers_of, parameters_of

AT_ONCE = 2**26  # entries of per-example gradients held in memory at a time: a quarter of a gigabyte in float32


@settings
class DPSGD(Defense):
    """Clips the gradient of every example to an L2 norm of `max_norm`, and adds normal noise to their sum, in every local step.

    The noise has standard deviation `noise_multiplier` times `max_norm` in every entry; the sum is divided by the number of
    examples in the step (algorithm 1). Without noise, and with a norm that nothing reaches, that is the plain gradient up
    to rounding. It computes on its own, so that in a chain no other defense of the step may stand before it.

    Raises `ValueError` for a model with BatchNorm in train mode, where no example has a gradient of its own.
    """

    wraps: ClassVar[Literal["step", "round"]] = "step"
    computes: ClassVar[bool] = True

    max_norm: Positive
    noise_multiplier: NotNegative

    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        total = {name: torch.zeros_like(tensor) for name, tensor in parameters_of(model).items()}
        for gradients in per_example_gradients(model, batch):
            squares = sum(tensor.double().flatten(1).square().sum(1) for tensor in gradients.values())
            scales = (self.max_norm / torch.as_tensor(squares).sqrt()).clamp(max=1)  # infinite, and so 1, where it is 0
            for name, tensor in gradients.items():
                total[name] += torch.tensordot(scales.to(tensor.dtype), tensor, 1)
        std = self.noise_multiplier * self.max_norm
        if std:
            for tensor in total.values():
                tensor += std * torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype).to(tensor.device)
        return Update({name: tensor / len(batch) for name, tensor in total.items()})

    def epsilon(self, steps: int, sampling_rate: float, delta: float, accountant: Literal["prv", "rdp"] = "prv") -> float:
        """The epsilon for which `steps` such steps are (epsilon, delta)-differentially private for one example.

        `sampling_rate`: the probability that the example is in a step, which is the batch size over the examples that the
        client holds. As everywhere in the field, the bound is that of Poisson sampling, and this project's clients draw
        batches of a fixed size: with `sampling_rate` 1 it holds without that assumption. The server sees who takes part
        in a round, so that the choice of clients is no sampling: count the steps of the rounds in which the client trained.

        `accountant`: Opacus's numerical composition (Gopi et al. 2021, arXiv 2106.02848), an upper bound at most 0.02 above
        the truth, or its Renyi accountant (Mironov et al. 2019, arXiv 1908.10530), which is looser. Infinite without noise.
        Raises `ValueError` for a rate or a delta that is none.
        """
        from opacus.accountants import PRVAccountant, RDPAccountant  # seconds to import

        if steps < 0 or not 0 < sampling_rate <= 1 or not 0 < delta < 1:
            raise ValueError(
                f"steps = {steps}, sampling_rate = {sampling_rate}, delta = {delta}: steps should be 0 or more, "
                f"sampling_rate above 0 and at most 1, and delta between 0 and 1"
            )
        if not steps or not self.noise_multiplier:
            return float("inf") if steps else 0.0
        spent = {"prv": PRVAccountant, "rdp": RDPAccountant}[accountant]()
        spent.history = [(self.noise_multiplier, sampling_rate, steps)]
        with np.errstate(divide="ignore"), warnings.catch_warnings():
            # At rate 1 a logarithm of 0 is compared with; where no Renyi order is the best, the bound is looser, and holds.
            warnings.filterwarnings("ignore", message="Optimal order is")
            return float(spent.get_epsilon(delta))


def per_example_gradients(model: nn.Module, batch: Batch) -> Iterator[Tensors]:
    """The gradient of every example's own cross-entropy, by parameter name, with the examples in the first dimension.

    A part of the batch at a time, as many as memory is given to. Raises `ValueError` for BatchNorm in train mode.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"'{name}' normalises by the batch, so that no example has a gradient of its own: "
                f"set training.batch_norm = 'eval', or choose a model without BatchNorm"
            )
    parameters, buffers = parameters_of(model), buffers_of(model)

    def loss(parameters: Tensors, image: Tensor, label: Tensor) -> Tensor:
        scores = func.functional_call(model, parameters | buffers, (image.unsqueeze(0),))
        return functional.cross_entropy(scores, label.unsqueeze(0)) + divergence(model)

    gradients = func.vmap(func.grad(loss), in_dims=(None, 0, 0), randomness="different")
    entries = sum(tensor.numel() for tensor in parameters.values())
    for images, labels in zip(
        *(tensor.split(max(1, AT_ONCE // entries)) for tensor in (batch.images, batch.labels)), strict=True
    ):
        yield gradients(parameters, images, labels)
