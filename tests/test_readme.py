"""What the README shows is true."""

import re
import tomllib
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from attacks import Attack, Observation
from curious.simulation import InlineGrid
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


def test_the_server_that_is_shown_sees_every_update():
    names: dict[str, Any] = {}
    (code,) = [code for code in blocks("python") if "def serve" in code]
    exec(code, names)
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        torch.manual_seed(context.node_id)
        model = small()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        batch = Batch(torch.rand(4, 1, 32, 32), torch.tensor([1, 1, 2, 7]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        torch.nn.functional.cross_entropy(model((batch.images - 0.5) / 0.5), batch.labels).backward()
        optimizer.step()
        metrics = MetricRecord({"num-examples": 4})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    seen = names["serve"](InlineGrid(client, 2, {}), small)
    assert len(seen) == 2
    for one in seen:
        assert one.found is not None
        assert one.found.misfits == []
        assert "labels: 2 × class 1, 1 × class 2, 1 × class 7" in one.found.lines[0].told


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 10))


def test_the_audit_that_is_shown_audits(tmp_path, capsys):
    names: dict[str, Any] = {}
    (code,) = [code for code in blocks("python") if "def audited" in code]
    exec(code, names)
    model = MLP(width=32).build((3, 32, 32), 10, seed=0)
    batch = Batch(torch.rand(8, 3, 32, 32, generator=generator("audit")), torch.arange(8))
    found = names["audited"](model, gradient(model, batch), tmp_path / "audit.html")
    assert "auto ok labels: 1 × class 0, 1 × class 1" in capsys.readouterr().out
    assert (tmp_path / "audit.html").stat().st_size > 1000
    assert found.forecasts


def test_every_command_is_explained():
    from curious.cli import app

    for command in app.registered_commands:
        assert command.callback is not None
        assert f"`curious {command.callback.__name__}" in README
