"""What is known of pictures before looking at the gradient."""

from jaxtyping import Float
from torch import Tensor


def total_variation(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbouring pixels, downwards plus sideways (anisotropic)."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    aside = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
    return down + aside
