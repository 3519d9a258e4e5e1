"""LPIPS is what the paper's equation gives, and is missed only where it was asked for.

AlexNet's real weights are a download; the metric is the same arithmetic with drawn ones.
"""

import math
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch.nn import functional
from torchvision.models._api import WeightsEnum

from attacks import Reconstruction
from learning.catalogue import SettingsError
from learning.tensors import Batch, generator, seeded
from studies.config import read_plan
from studies.perceptual import LEAST_SIDE, lpips, perceiver
from studies.preparation import prepare
from studies.scores import score

STUDY = Path(__file__).parents[2] / "studies" / "quick.toml"


@pytest.fixture(scope="module")
def alexnet():
    """AlexNet with drawn weights, which are also what the metric gets."""
    with seeded(0, torch.device("cpu")):
        network = torchvision.models.alexnet(weights=None).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: network.state_dict())
        perceiver.cache_clear()
        yield network.features
        perceiver.cache_clear()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine that has no weights and reaches nobody."""

    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    perceiver.cache_clear()
    yield tmp_path / "hub" / "checkpoints"
    perceiver.cache_clear()


def drawn(name: str, channels: int = 3, side: int = LEAST_SIDE) -> torch.Tensor:
    return torch.rand(3, channels, side, side, generator=generator("lpips", name))


def by_equation_1(features: torch.nn.Module, one: torch.Tensor, other: torch.Tensor) -> float:
    """Zhang et al. (2018), equation 1, layer by layer; AlexNet's five ReLUs are its layers."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    weights = [getattr(perceiver().net, f"lin{place}").model[-1].weight.detach().flatten() for place in range(5)]
    a, b = (((picture - mean[:, None, None]) / deviation[:, None, None])[None] for picture in (one, other))
    distance, place = 0.0, 0
    for layer in features.requires_grad_(False):
        a, b = layer(a), layer(b)
        if isinstance(layer, torch.nn.ReLU):
            apart = functional.normalize(a, dim=1) - functional.normalize(b, dim=1)
            distance += float((weights[place][:, None, None] * apart[0].square()).sum(0).mean())
            place += 1
    assert place == 5
    return distance


def test_it_is_the_paper_s_distance(alexnet):
    one, other = drawn("one"), drawn("other")
    found = lpips(one, other)
    assert found == pytest.approx([by_equation_1(alexnet, *pair) for pair in zip(one, other, strict=True)], rel=1e-3)
    assert len({round(value, 6) for value in found}) == 3


def test_a_picture_is_at_no_distance_from_itself_and_nearer_to_itself_blurred_than_to_another(alexnet):
    one = drawn("one")
    blurred = functional.avg_pool2d(one, 3, 1, 1)
    assert lpips(one, one) == [0, 0, 0]
    assert all(near < far for near, far in zip(lpips(blurred, one), lpips(blurred, drawn("other")), strict=True))


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 32), (3, 65)])
def test_pictures_of_every_set_have_one(alexnet, channels, side):
    found = lpips(drawn("one", channels, side), drawn("other", channels, side))
    assert all(math.isfinite(value) and value > 0 for value in found)


def test_a_score_is_of_the_picture_that_was_matched(alexnet):
    truth = drawn("one")
    scores = score(Reconstruction(images=truth.flip(0)), Batch(truth, torch.arange(3)), 10, perceived=True)
    assert scores.matches == [2, 1, 0]
    assert scores.lpips == [0, 0, 0]


def test_nobody_who_did_not_ask_needs_weights(offline):
    truth = drawn("one")
    assert score(Reconstruction(images=truth), Batch(truth, torch.arange(3)), 10).lpips is None
    prepare(read_plan(STUDY, []))


def test_weights_that_are_not_to_be_had_are_asked_for_before_anything_is_trained(offline):
    with pytest.raises(
        SettingsError, match=r"^metrics\.lpips: LPIPS needs AlexNet's weights.*no route to host.*leave LPIPS"
    ) as e:
        prepare(read_plan(STUDY, ["metrics.lpips=true"]))
    assert str(offline) in str(e.value)
    assert "alexnet-owt-7be5be79.pth" in str(e.value)


def test_a_plan_that_asks_says_so():
    plan = read_plan(STUDY, ["metrics.lpips=true"])
    assert plan.study.metrics.lpips
    assert plan.differs_from(replace(plan, raw=plan.raw | {"metrics": {"lpips": False}})) is not None
