"""Defenses as mods of an ordinary Flower client, through real messages."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import Mod

from curious.simulation import InlineGrid
from defenses import DEFENSES, GaussianNoise, MagnitudePruning, Mixup, NormClipping, Quantization, Sign, UpdateDefense
from defenses.mod import as_mod
from learning.messages import record_of, tensors_of
from learning.tensors import Tensors, Update, generator
from tests.defenses.behind import same
from tests.defenses.test_defenses import EVERY

SENT = {"layer.weight": torch.linspace(-2, 2, 12).reshape(3, 4), "layer.bias": torch.tensor([0.3, -0.1, 1e-3])}
MOVED = {"layer.weight": torch.linspace(1, -3, 12).reshape(3, 4) / 7, "layer.bias": torch.tensor([0.02, 0.3, -0.1])}
BUFFERS = {"norm.running_mean": torch.tensor([5.0]), "norm.num_batches_tracked": torch.tensor(7)}


def weights(moved: Tensors = MOVED) -> Tensors:
    return {name: SENT[name] + moved[name] for name in SENT}


class Client:
    """A Flower client that answers its training with the given arrays, behind mods; rounds go to one node."""

    def __init__(self, mods: list[Mod], answer: Callable[[], RecordDict] | Tensors):
        app = ClientApp(mods=mods)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            content = answer() if callable(answer) else {"arrays": record_of(answer), "metrics": MetricRecord({"loss": 0.5})}
            return Message(RecordDict(content), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return Message(RecordDict({"arrays": record_of(MOVED)}), reply_to=message)

        self.grid = InlineGrid(app, 2)

    def answers(self, kind: str = "train", node: int = 1, sent: Tensors | None = None) -> Message:
        content = RecordDict({"arrays": record_of(SENT | BUFFERS if sent is None else sent)})
        (reply,) = self.grid.send_and_receive([Message(content, dst_node_id=node, message_type=kind)])
        return reply

    def shares(self, node: int = 1) -> Tensors:
        reply = self.answers(node=node)
        assert not reply.has_error(), reply.error
        return tensors_of(reply.content.array_records["arrays"])


def fixed(message: Message, context: Context) -> torch.Generator:
    return generator("mod")


OF_UPDATES = [defense for defense in EVERY if isinstance(defense, UpdateDefense)]


@pytest.mark.parametrize("kind", ["gradient", "delta"])
@pytest.mark.parametrize("defense", OF_UPDATES, ids=repr)
def test_updates_are_defended_as_they_are_here(defense, kind):
    shared = Client([as_mod(defense, kind, fixed)], MOVED).shares()
    assert same(shared, defense.change(Update(MOVED), generator("mod")).parameters)
    assert not same(shared, MOVED)


@pytest.mark.parametrize("defense", OF_UPDATES, ids=repr)
def test_of_weights_the_change_is_defended(defense):
    shared = Client([as_mod(defense, "weights", fixed)], weights()).shares()
    change = Update({name: weights()[name].double() - SENT[name].double() for name in SENT})
    expected = defense.change(change, generator("mod")).parameters
    for name, tensor in shared.items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor.double(), SENT[name].double() + expected[name], atol=1e-6)


@pytest.mark.parametrize("kind", ["gradient", "delta", "weights"])
def test_without_strength_the_reply_is_as_it_was_to_the_last_bit(kind):
    answer = weights() if kind == "weights" else MOVED
    assert same(Client([as_mod(GaussianNoise(std=0), kind)], answer).shares(), answer)


@pytest.mark.parametrize("kind", ["gradient", "delta", "weights"])
def test_running_statistics_and_counters_pass(kind):
    answer = (weights() if kind == "weights" else MOVED) | BUFFERS
    shared = Client([as_mod(GaussianNoise(std=1), kind)], answer).shares()
    assert list(shared) == list(answer)
    assert same({name: shared[name] for name in BUFFERS}, BUFFERS)
    assert not torch.equal(shared["layer.bias"], answer["layer.bias"])


def test_what_passes_can_be_said():
    shared = Client([as_mod(GaussianNoise(std=1), "delta", passes=lambda name: name == "layer.bias")], MOVED).shares()
    assert torch.equal(shared["layer.bias"], MOVED["layer.bias"])
    assert not torch.equal(shared["layer.weight"], MOVED["layer.weight"])


def test_metrics_stay():
    reply = Client([as_mod(Sign(), "delta")], MOVED).answers()
    assert dict(reply.content.metric_records["metrics"]) == {"loss": 0.5}


def test_clipped_weights_are_flower_s_own():
    """On weights, where Flower's mod is right: the same change, clipped to the same norm."""
    flowers = LocalDpMod(clipping_norm=0.4, sensitivity=0.0, epsilon=1.0, delta=1e-5)
    theirs = Client([flowers], weights()).answers(sent=SENT)
    ours = Client([as_mod(NormClipping(max_norm=0.4), "weights")], weights()).shares()
    for name, tensor in tensors_of(theirs.content.array_records["arrays"]).items():
        assert torch.allclose(ours[name], tensor, atol=1e-6)


def test_deltas_are_clipped_where_flower_s_own_clips_their_difference_from_the_weights():
    flowers = LocalDpMod(clipping_norm=0.4, sensitivity=0.0, epsilon=1.0, delta=1e-5)
    theirs = tensors_of(Client([flowers], MOVED).answers(sent=SENT).content.array_records["arrays"])
    ours = Client([as_mod(NormClipping(max_norm=0.4), "delta")], MOVED).shares()
    assert float(Update(ours).flat().norm()) == pytest.approx(0.4)
    assert float(Update(theirs).flat().norm()) > 1


def test_the_first_mod_acts_last():
    clip, noise = as_mod(NormClipping(max_norm=0.1), "delta"), as_mod(GaussianNoise(std=1), "delta")
    assert float(Update(Client([clip, noise], MOVED).shares()).flat().norm()) == pytest.approx(0.1)
    assert float(Update(Client([noise, clip], MOVED).shares()).flat().norm()) > 0.5


def test_noise_is_drawn_anew_for_every_reply():
    client = Client([as_mod(GaussianNoise(std=1), "delta")], MOVED)
    assert not same(client.shares(), client.shares())


def test_only_training_is_defended():
    reply = Client([as_mod(GaussianNoise(std=1), "weights")], MOVED).answers("evaluate")
    assert same(tensors_of(reply.content.array_records["arrays"]), MOVED)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: RecordDict({"arrays": record_of(MOVED), "more": record_of(MOVED)}), "2 array records"),
        (lambda: RecordDict({}), "0 array records"),
        ({"other": torch.ones(2)}, "'other' of shape"),
        ({"layer.bias": torch.ones(2)}, "'layer.bias' of shape"),
    ],
)
def test_replies_that_cannot_be_defended_are_errors(answer, reason):
    """And never sent undefended."""
    reply = Client([as_mod(Sign(), "weights")], answer).answers()
    assert reply.has_error()
    assert reason in reply.error.reason


def test_a_client_s_own_error_is_sent_on():
    def fails() -> RecordDict:
        raise RuntimeError("no data")

    assert "no data" in Client([as_mod(Sign(), "delta")], fails).answers().error.reason


@pytest.mark.parametrize("kind", ["gradient", "weights"])
@pytest.mark.parametrize("defense", [MagnitudePruning(keep=0.2), Sign(), Quantization(bits=2)], ids=repr)
def test_with_error_feedback_nothing_is_lost(defense, kind):
    """What was shared in all rounds and what is still held back sum to the updates of all rounds."""
    client = Client([as_mod(defense, kind, remembers="held back")], weights() if kind == "weights" else MOVED)
    total = {name: torch.zeros_like(tensor) for name, tensor in SENT.items()}
    for _ in range(6):
        for name, tensor in client.shares().items():
            total[name] += tensor - SENT[name] if kind == "weights" else tensor
    held = tensors_of(client.grid._contexts[1].state.array_records["held back"])
    for name, tensor in MOVED.items():
        assert torch.allclose((total[name] + held[name]).float(), 6 * tensor, atol=1e-5)


def test_error_feedback_shares_what_pruning_alone_never_does():
    plain, feedback = (as_mod(MagnitudePruning(keep=0.1), "delta", remembers=name) for name in ("", "held back"))

    def ever_shared(mod: Mod) -> int:
        client = Client([mod], MOVED)
        return int(sum((Update(client.shares()).flat() != 0) for _ in range(40)).count_nonzero())

    assert ever_shared(plain) == 2 + 1, "a tenth of 12, rounded up, and of 3"
    assert ever_shared(feedback) > 10


def test_every_client_remembers_its_own():
    client = Client([as_mod(MagnitudePruning(keep=0.1), "delta", remembers="held back")], MOVED)
    first = client.shares(node=1)
    client.shares(node=1)
    assert same(client.shares(node=2), first)


def test_a_defense_of_the_step_is_no_mod():
    with pytest.raises(ValueError, match="needs the model and the examples"):
        as_mod(Mixup(alpha=1), "delta")
    assert {type(defense) for defense in OF_UPDATES} == {d for d in DEFENSES.values() if issubclass(d, UpdateDefense)}


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(Exception, match="'weights'"):  # under test by the check of types, before ours
        as_mod(Sign(), "weight")  # pyright: ignore[reportArgumentType]


def test_a_mod_travels_as_flower_s_do():
    mod = pickle.loads(pickle.dumps(as_mod(Sign(), "delta")))
    assert same(Client([mod], MOVED).shares(), Sign().change(Update(MOVED), generator(0)).parameters)


def test_a_record_under_another_name_is_defended():
    def answer() -> RecordDict:
        return RecordDict({"gradient": ArrayRecord(dict(record_of(MOVED).items()))})

    reply = Client([as_mod(Sign(scale="one"), "gradient")], answer).answers()
    shared = tensors_of(reply.content.array_records["gradient"])
    assert torch.equal(shared["layer.weight"], MOVED["layer.weight"].sign())


def test_the_readme_s_client_is_defended():
    """A tenth of each tensor stays, clipped to a norm of 1, and noise of deviation .01 is over all."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if "as_mod" in block)
    names: dict = {}
    exec(code, names)
    client = Client(names["app"]._mods, weights({name: 10 * tensor for name, tensor in MOVED.items()}))
    change = Update({name: tensor - SENT[name] for name, tensor in client.shares().items()}).flat()
    kept = change.abs() > 0.06
    assert int(kept.sum()) == 2 + 1
    assert float(change.norm()) == pytest.approx(1, abs=0.05)
    assert int((change != 0).sum()) == 15
