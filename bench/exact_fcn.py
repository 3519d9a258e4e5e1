"""`linear` on a fully connected network of four layers without biases, from smoothed and mixed labels (Wang et al., ICLR 2024).

    CURIOUS_DATA=.data python -m bench.exact_fcn --pictures 10

For every data set and kind of label: how many pictures come back with a mean squared error below 1e-6, how far the worst
restored label is off, and the worst PSNR in dB. Each picture has its own model; `hidden` are the widths of three layers alike.
"""

import argparse
import math

import torch

from attacks import Observation
from attacks.exact import Linear
from attacks.exact.forecast import EXACT
from bench.labels import drawn
from defenses.label_smoothing import SoftBatch
from learning.data import CIFAR10, MNIST, Digits, pictures_of
from learning.models import MLP
from learning.tensors import Update, generator
from learning.training import Training, gradient

DATA = {"digits": Digits(), "mnist": MNIST(), "cifar10": CIFAR10()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--precision", choices=["float64", "float32"], default="float64")
    chosen = parser.parse_args()
    dtype = getattr(torch, chosen.precision)
    for name, data in DATA.items():
        pictures = pictures_of(data)
        for kind in ("smoothed", "mixed"):
            exact, certified, worst, off = 0, 0, 0.0, 0.0
            for index in range(chosen.pictures):
                rng = generator("fcn", name, kind, index)
                batch = drawn(pictures.train, 2, "fcn", name, index)
                rows = torch.eye(pictures.classes, dtype=dtype)[batch.labels]
                share = float(torch.rand(1, generator=rng))
                mixed = kind == "mixed"
                image = share * batch.images[:1] + (1 - share) * batch.images[1:] if mixed else batch.images[:1]
                row = (
                    share * rows[:1] + (1 - share) * rows[1:]
                    if mixed
                    else (1 - 0.5 * share) * rows[:1] + 0.5 * share / pictures.classes
                )
                model = MLP(width=chosen.hidden, depth=3, bias=False).build(pictures.image_shape, pictures.classes, index)
                model, image = model.to(dtype), image.to(dtype)
                observation = Observation(
                    round=0, client=0, model=model, update=Update(gradient(model, SoftBatch(image, row))), training=Training(),
                    examples=1, image_shape=pictures.image_shape, classes=pictures.classes,
                )  # fmt: skip
                found = Linear().reconstruct(observation, generator("attack", index))
                assert found.images is not None
                assert found.labels is not None
                error = float((found.images.double() - image.double()).square().mean())
                worst, off = max(worst, error), max(off, float((found.labels - row).abs().max()))
                exact += error < EXACT
                certified += found.certified is not None and bool(found.certified.all())
            print(
                f"{name} {kind}: exact {exact} of {chosen.pictures}, certified {certified}; worst picture "
                f"{-10 * math.log10(max(worst, 1e-30)):.1f} dB, worst label off by {off:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
