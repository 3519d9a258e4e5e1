"""LPIPS: how alike two pictures look to a network that knows photographs (Zhang et al., CVPR 2018, arXiv 1801.03924)."""

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from learning.tensors import seeded

LEAST_SIDE = 64  # pixels: a smaller picture is enlarged to it, since AlexNet halves every side five times


def lpips(found: Float[Tensor, "n channels height width"], truth: Float[Tensor, "n channels height width"]) -> list[float]:
    """The distance of each restored picture from its own true one: 0 for the same picture, up to about 1.

    By AlexNet's features with the paper's weights of them, as torchmetrics has it. Pictures are in [0, 1]. Grey ones are shown
    as three equal channels, and those with a side under 64 pixels enlarged (bilinearly) until it has 64: figures of such
    pictures compare with each other, and not with those of other programs. Raises `ValueError` as `perceiver` does.
    """
    metric = perceiver()
    with torch.no_grad():
        pairs = zip(_shown(found), _shown(truth), strict=True)
        distances = [float(metric(one[None], other[None])) for one, other in pairs]
    metric.reset()  # it keeps what it has found
    return distances


@lru_cache(maxsize=1)
def perceiver() -> Any:
    """The metric, whose network is loaded once a process.

    AlexNet's weights come from the folder in which PyTorch keeps what it downloads, and are downloaded to it where they may be.
    Raises `ValueError` that says where to put them if they are neither there nor to be had.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # two seconds that most studies do not need
    from torchvision.models import AlexNet_Weights

    url = str(AlexNet_Weights.DEFAULT.url)
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    try:
        with seeded(0):  # its first weights are drawn, and then replaced: nobody else's draws may move
            metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"LPIPS needs AlexNet's weights, which could not be had ({error}): put torchvision's {place.name} "
            f"into {place.parent}, or leave LPIPS out"
        ) from None
    return metric.eval().requires_grad_(False)


def _shown(pictures: Tensor) -> Float[Tensor, "n 3 height width"]:
    """Pictures as the network takes them."""
    pictures = pictures.float().nan_to_num(0.5).clamp(0, 1)
    pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
    smallest = min(pictures.shape[2:])
    if smallest >= LEAST_SIDE:
        return pictures
    size = [round(side * LEAST_SIDE / smallest) for side in pictures.shape[2:]]
    return functional.interpolate(pictures, size, mode="bilinear", align_corners=False)
