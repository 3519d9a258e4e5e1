"""How long restorations take, in milliseconds: iLRG beside a direct transcription of the published procedure, and soft labels.

    CURIOUS_DATA=.data python -m bench.labels_speed              over ten minutes on one core

Times are of the processor (one thread: what an otherwise idle machine takes; other programs' share is not counted). Both
iLRGs run in turn on the same update; medians of `--repetitions`. The transcription does what the authors
describe: every ratio of gradients by way of its decimal digits and exponent, one at a time. Soft labels are restored from
models whose last layer has no bias, untrained and trained on CIFAR-10 (10 classes) and CIFAR-100 (100; with 1,000 outputs, of
which 100 are trained): 300 steps of LeNet, 60 of ResNet-18. Exact means to 1e-5 in every entry. `--quick`: 20 samples each.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from attacks import Observation
from attacks.labels import ILRG, SoftLabels
from attacks.labels.last_layer import last_layer_with_bias
from bench.labels import drawn, observed, trained_states
from learning.data import CIFAR10, CIFAR100, Pictures, pictures_of
from learning.models import VGG16, Architecture, LeNet, LeNet5, ResNet18
from learning.tensors import Update, generator
from learning.training import Training


def digits(value: float) -> tuple[float, int]:
    """Mantissa and decimal exponent, read off the number's digits."""
    if value == 0:
        return 1.0, -64
    mantissa, exponent = f"{value:.16e}".split("e")
    return float(mantissa), int(exponent)


def transcribed(observation: Observation) -> torch.Tensor:
    """iLRG as published: ratios digit by digit, then softmax, pseudo-inverse and rounding."""
    weight, bias, weight_gradient, bias_gradient = last_layer_with_bias(observation)
    classes, total = len(bias), observation.examples
    embeddings = torch.zeros_like(weight_gradient)
    for index in range(classes):
        below, low = digits(float(bias_gradient[index]))
        for feature, value in enumerate(weight_gradient[index].tolist()):
            above, high = digits(value)
            embeddings[index, feature] = above / below * 10.0 ** max(-10, min(10, high - low))
    probabilities = torch.softmax(embeddings @ weight.T + bias, 1)
    system = torch.cat([torch.ones(1, classes).double(), probabilities.T - torch.eye(classes).double()])
    right = torch.cat([torch.tensor([float(total)]).double(), total * bias_gradient])
    return (torch.linalg.pinv(system) @ right).clamp_min(0).round()


def soft_label(kind: str, classes: int, rng: torch.Generator) -> torch.Tensor:
    first, second = torch.randperm(classes, generator=rng)[:2]
    share, label = float(torch.rand((), generator=rng)), torch.zeros(classes)
    if kind == "smoothing":
        label += share / 2 / classes
        label[first] += 1 - share / 2
    else:
        label[first], label[second] = share, 1 - share
    return label


def without_bias(model: nn.Module) -> nn.Module:
    [module for module in model.modules() if isinstance(module, nn.Linear)][-1].register_parameter("bias", None)
    return model.eval()


def soft(name: str, model: nn.Module, pictures: Pictures, classes: int, samples: int) -> None:
    """One line for each kind of label."""
    last = [n for n, p in model.named_parameters() if p.ndim == 2][-1]
    for kind in ("smoothing", "mixup"):
        exact, worst, times = 0, 0.0, []
        for index in range(samples):
            label = soft_label(kind, classes, generator(kind, classes, index))
            loss = functional.cross_entropy(model(drawn(pictures.test, 1, "soft", index).images), label[None])
            (gradient,) = torch.autograd.grad(loss, [model.get_parameter(last)])
            observation = Observation(
                round=0, client=0, model=model, update=Update({last: gradient}), training=Training(), examples=1,
                image_shape=pictures.image_shape, classes=classes,
            )  # fmt: skip
            begin = time.process_time()
            found = SoftLabels().reconstruct(observation, generator(0)).labels
            times.append(1e3 * (time.process_time() - begin))
            assert found is not None
            error = float((found[0] - label).abs().max())
            exact, worst = exact + (error <= 1e-5), max(worst, error)
        print(
            f"soft labels, {name}, {classes} classes, {kind}: {exact} of {samples} exact, worst {worst:.1e}, "
            f"median {statistics.median(times):.1f} ms",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="iLRG, or the beginning of a network's name, and then its soft labels alone")
    parser.add_argument("--classes", type=int, nargs="*", default=[10, 100, 1000], help="of soft labels")
    parser.add_argument("--resnet-steps", type=int, default=60, help="that ResNet-18 is trained")
    settings = parser.parse_args()
    settings.samples = 20 if settings.quick else settings.samples
    torch.set_num_threads(1)
    hundred, ten = pictures_of(CIFAR100()), pictures_of(CIFAR10())
    networks: dict[str, Architecture] = {"LeNet-5": LeNet5(), "ResNet-18": ResNet18(), "VGG-16": VGG16()}
    for name, architecture in networks.items():
        if not "iLRG".startswith(settings.only):
            break
        model = architecture.build(hundred.image_shape, 100, 0)
        observation = observed(model, drawn(hundred.train, 24, "speed"), 100)
        times: dict[str, list[float]] = {"ours": [], "transcribed": []}
        for _ in range(settings.repetitions):
            for method in times:
                begin = time.process_time()
                transcribed(observation) if method == "transcribed" else ILRG().reconstruct(observation, generator(0))
                times[method].append(1e3 * (time.process_time() - begin))
        ours, other = (statistics.median(found) for found in times.values())
        print(f"iLRG, {name}: {ours:.1f} ms, transcribed {other:.0f} ms, {other / ours:.0f} times faster", flush=True)
    relu = LeNet(activation="relu", initial="default")
    shapes: dict[str, tuple[Architecture, int]] = {"LeNet": (relu, 300), "ResNet-18": (ResNet18(), settings.resnet_steps)}
    shapes["LeNet U(-.5,.5)"] = (LeNet(), 0)
    for classes in settings.classes:
        for name, (architecture, steps) in shapes.items():
            if not name.startswith(settings.only):
                continue
            model = without_bias(architecture.build(ten.image_shape, classes, 0))
            soft(f"untrained {name}", model, ten, classes, settings.samples)
            if not steps:
                continue
            data = ten if classes == 10 else hundred
            wide = Pictures(data.train, data.test, classes)
            for _, known, _, model in trained_states(architecture, wide, (steps,), 0, 0.02):
                soft(f"{name} of accuracy {known:.2f}", without_bias(model), wide, classes, settings.samples)


if __name__ == "__main__":
    main()
