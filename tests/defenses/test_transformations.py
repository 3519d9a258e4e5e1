"""What every transform does, and that it does no more."""

import pytest
import torch

from defenses import TransformedPictures
from defenses.transformations import TRANSFORMS, Transform
from learning.tensors import Batch, generator
from tests.defenses.behind import pictures
from tests.defenses.test_mixing import trained_on


@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_strength_changes_nothing(name):
    images = pictures().images
    assert torch.allclose(TRANSFORMS[name](images, torch.zeros(5)), images, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_strength_changes_pictures_within_their_range_and_no_label(name, strength):
    found = trained_on(TransformedPictures(policy=(Transform(name=name, strength=strength),)), pictures())
    assert float((found.images - pictures().images).abs().mean()) > 0.01
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert torch.equal(found.labels, pictures().labels)


def one_point() -> torch.Tensor:
    image = torch.full((1, 1, 20, 20), 0.5)
    image[0, 0, 10, 10] = 1.0
    return image


@pytest.mark.parametrize(("name", "place"), [("shift-x", (10, 1)), ("shift-y", (1, 10))])
def test_a_shift_of_the_greatest_strength_is_of_45_percent(name, place):
    found = TRANSFORMS[name](one_point(), torch.ones(1))[0, 0]
    assert divmod(int(found.argmax()), 20) == place
    assert float(found.max()) == pytest.approx(1.0, abs=1e-4)


def test_a_turn_of_30_degrees_three_times_is_a_quarter():
    image = torch.nn.functional.interpolate(torch.rand(1, 1, 5, 5, generator=generator("smooth")), 40, mode="bicubic").clamp(
        0, 1
    )
    turned = image
    for _ in range(3):
        turned = TRANSFORMS["rotate"](turned, torch.ones(1))
    inside = torch.zeros(40, 40, dtype=torch.bool)
    inside[10:30, 10:30] = True
    quarters = [torch.rot90(image, k, (2, 3)) for k in (1, 3)]
    errors = [float((turned - quarter)[0, 0][inside].abs().mean()) for quarter in quarters]
    assert min(errors) < 0.03
    assert max(errors) > 0.1


def test_colours_by_hand():
    image = torch.tensor([0.2, 0.4, 0.9, 0.5]).reshape(1, 1, 2, 2)

    def made(name: str, strength: float) -> list[float]:
        return TRANSFORMS[name](image, torch.tensor([strength])).flatten().tolist()

    assert made("brightness", -0.5) == pytest.approx([0.11, 0.22, 0.495, 0.275])
    assert made("contrast", -1.0) == pytest.approx([0.47, 0.49, 0.54, 0.5])
    assert made("invert", 1.0) == pytest.approx([0.8, 0.6, 0.1, 0.5])
    assert made("solarize", 0.55) == pytest.approx([0.2, 0.4, 0.1, 0.5])


def test_the_policy_is_applied_in_order():
    image = Batch(torch.full((1, 1, 4, 4), 0.8), torch.tensor([0]))
    one = TransformedPictures(policy=("solarize", "invert"))
    other = TransformedPictures(policy=({"name": "invert"}, {"name": "solarize", "strength": 0.5}))
    assert torch.allclose(trained_on(one, image).images, torch.full((1, 1, 4, 4), 0.8)), "0.8 to 0.2 and back"
    assert torch.allclose(trained_on(other, image).images, torch.full((1, 1, 4, 4), 0.2)), "0.2 is too dark to be solarized"


def test_directions_are_drawn_for_each_picture():
    images = one_point().expand(40, -1, -1, -1)
    found = trained_on(
        TransformedPictures(policy=({"name": "shift-x", "strength": 1.0},)), Batch(images, torch.zeros(40, dtype=torch.long))
    )
    assert 5 <= sum(int(picture.argmax()) % 20 < 10 for picture in found.images) <= 35


def test_a_transform_that_is_none_is_refused():
    with pytest.raises(ValueError, match="rotate"):
        TransformedPictures(policy=["turn"])
    with pytest.raises(ValueError, match="strength"):
        TransformedPictures(policy=[{"name": "rotate", "strength": 2.0}])
