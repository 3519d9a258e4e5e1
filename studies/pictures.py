"""Pictures inside of a page."""

import base64
import io

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def data_uri(image: Float[Tensor, "channels height width"], largest: int | None = None) -> str:
    """The picture as a PNG in an address, for `src`; scaled down where a side has more than `largest` pixels.

    Three channels are RGB; of any other number the first is shown, in grey. What is not a number is mid-grey.
    """
    pixels = (image.float().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    grey = pixels.shape[0] != 3
    picture = Image.fromarray(pixels[0]) if grey else Image.fromarray(pixels.transpose(1, 2, 0).copy())
    if largest is not None and max(picture.size) > largest:
        picture.thumbnail((largest, largest))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
