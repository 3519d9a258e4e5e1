"""What the README shows is true."""

import re
import tomllib
from pathlib import Path

import torch

from attacks import Attack, Observation
from defenses import Defense
from learning.models import MLP
from learning.tensors import Batch, Update, generator
from learning.training import Training, gradient
from studies.config import make_plan

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def classes_of(code: str, kind: type) -> list[type]:
    names: dict[str, object] = {}
    exec(code, names)
    return [value for value in names.values() if isinstance(value, type) and issubclass(value, kind) and value is not kind]


def batch_of_one() -> Batch:
    return Batch(torch.rand(1, 1, 8, 8, generator=generator("readme")), torch.tensor([3]))


def test_the_study_that_is_explained_is_a_study():
    (text,) = blocks("toml")
    plan = make_plan(tomllib.loads(text))
    assert len(plan.cells) == 3 * 2 * 2


def test_the_attack_that_is_shown_attacks():
    (cls,) = classes_of(blocks("python")[0], Attack)
    model = MLP(width=8).build((1, 8, 8), 10, seed=0)
    update = Update(gradient(model, batch_of_one()))
    seen = Observation(1, 0, model, update, Training(), 1, (1, 8, 8), 10)
    labels = cls().reconstruct(seen, torch.Generator()).labels
    assert labels.argmax(1).tolist() == [3]


def test_the_defense_that_is_shown_defends():
    imports = (
        "import torch\nfrom torch import nn\nfrom defenses.defense import Compute, Defense\n"
        "from learning.catalogue import settings\nfrom learning.tensors import Batch, Update\n"
    )
    (cls,) = classes_of(imports + blocks("python")[1], Defense)
    plain = Update({"w": torch.tensor([1.0, -3.0])})
    shared = cls().share(lambda *_: plain, MLP().build((1, 8, 8), 10, 0), batch_of_one(), torch.Generator())
    assert shared.parameters["w"].tolist() == [2.0, -2.0]


def test_every_command_is_explained():
    from curious.cli import app

    for command in app.registered_commands:
        assert command.callback is not None
        assert f"`curious {command.callback.__name__}" in README
