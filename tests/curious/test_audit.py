"""One update of anybody's model: whether it fits, what comes back, and errors that teach."""

import copy
import dataclasses

import lxml.html
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from attacks.labels import GengLabels
from curious.audit import Audit, Normalized, audit
from curious.cli import app
from learning.catalogue import SettingsError
from learning.data import Digits, pictures_of
from learning.models import MLP
from learning.tensors import Batch, generator, parameters_of
from learning.training import Training, gradient, local_update

SHAPE = (1, 8, 8)
MODEL = MLP(width=16).build(SHAPE, 10, seed=0)
BATCH = pictures_of(Digits()).test.batch(torch.arange(8))
LABELS = {"geng": GengLabels()}
DELTA = Training(shared="delta", batch_size=8, learning_rate=0.1)
APP = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""


def audited(update, **changed) -> Audit:
    return audited_as(MODEL, update, **changed)


def audited_as(model, update, **changed) -> Audit:
    asked = {"image_shape": SHAPE, "classes": 10, "examples": 8, "attacks": LABELS} | changed
    return audit(model, update, **asked)


def restored(found: Audit) -> list[int]:
    (line,) = found.lines
    assert line.reconstruction is not None
    assert line.reconstruction.labels is not None
    return sorted(line.reconstruction.labels.argmax(1).tolist())


def test_a_gradient_that_fits_gives_its_labels_and_no_complaint():
    found = audited(gradient(MODEL, BATCH))
    assert found.misfits == []
    assert restored(found) == sorted(BATCH.labels.tolist())
    assert "× class" in found.lines[0].told


def test_the_exact_attack_of_the_best_forecast_is_among_the_usual_ones(tmp_path):
    model = MLP(width=200).build(SHAPE, 10, seed=0).double()
    batch = Batch(BATCH.images[:4].double(), BATCH.labels[:4])
    found = audited_as(model, gradient(model, batch), examples=4, attacks=None)
    best = max(found.forecasts, key=lambda attack: found.forecasts[attack].probability)
    assert found.forecasts[best].probability > 0.9
    assert [line.attack for line in found.lines] == ["auto", "extreme-points", "inverting-gradients", "feature-inversion", best]
    (exact,) = [line.reconstruction for line in found.lines if line.attack == best]
    assert exact is not None
    assert exact.certified is not None
    assert exact.certified.all()
    found.write_page(tmp_path / "audit.html")
    assert f"{found.forecasts[best].probability:.0%}: " in (tmp_path / "audit.html").read_text().replace(" %", "%")


def test_what_no_exact_attack_can_do_is_forecast_and_not_tried():
    sigmoid = MLP(width=16, activation="sigmoid").build(SHAPE, 10, seed=0)
    found = audited_as(sigmoid, gradient(sigmoid, BATCH), attacks=None)
    assert {said.probability for said in found.forecasts.values()} == {0.0}
    assert all("not applicable: " in said.sentence for said in found.forecasts.values())
    assert [line.attack for line in found.lines] == ["auto", "extreme-points", "inverting-gradients", "feature-inversion"]


def test_weights_that_came_back_are_as_good_as_the_delta():
    delta = local_update(MODEL, BATCH, DELTA, generator("audit")).parameters
    weights = {name: tensor + delta[name] for name, tensor in parameters_of(MODEL).items()}
    for kind, update in (("delta", delta), ("weights", weights)):
        found = audited(update, kind=kind, training=DELTA)
        assert found.misfits == []
        assert restored(found) == sorted(BATCH.labels.tolist())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: {n: -t for n, t in g.items()}, "points uphill"),
        (lambda g: {n: 20 * t for n, t in g.items()}, "the learning rate"),
        (lambda g: {n: t + 0.1 * parameters_of(MODEL)[n] for n, t in g.items()}, "weight decay"),
        (lambda g: {n: 0 * t for n, t in g.items()}, "zero throughout"),
        (lambda g: {n: t.where(t != t.max(), torch.nan) for n, t in g.items()}, "not finite"),
    ],
)
def test_what_does_not_fit_is_said_in_words(change, said):
    assert any(said in sentence for sentence in audited(change(gradient(MODEL, BATCH))).misfits)


@pytest.mark.parametrize("times", [0.1, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_another_learning_rate_than_is_said_is_told_by_how_much(times, seed):
    four = Batch(BATCH.images[seed : seed + 4], BATCH.labels[seed : seed + 4])
    order = Training(shared="delta", batch_size=4, learning_rate=0.1 * times)
    update = local_update(MODEL, four, order, generator("audit")).parameters
    said = Training(shared="delta", batch_size=4, learning_rate=0.1)
    assert audited(update, examples=4, kind="delta", training=order).misfits == []
    (sentence,) = audited(update, examples=4, kind="delta", training=said).misfits
    told = float(sentence.partition("the update is ")[2].partition(" times what it would be")[0])
    assert told == pytest.approx(times, rel=0.05)


@pytest.mark.parametrize(("mean", "deviation"), [((0.5,), (0.5,)), ((0.1307,), (0.3081,))])
def test_another_normalisation_than_is_said_is_read_off_a_black_pixel(mean, deviation):
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    update = gradient(Normalized(inner, mean, deviation), BATCH)
    assert audited_as(Normalized(inner, mean, deviation), update).misfits == []
    (sentence,) = audited_as(inner, {name.removeprefix("model."): tensor for name, tensor in update.items()}).misfits
    assert f"had the value {-mean[0] / deviation[0]:.3g}" in sentence


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_running_statistics_say_how_the_client_normalised(mode):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    order = Training(shared="delta", batch_size=8, learning_rate=0.1, batch_norm=mode, buffers="sent")
    update = local_update(copy.deepcopy(model), BATCH, order, generator("audit"))
    named = update.parameters | update.buffers | {"1.num_batches_tracked": torch.tensor(1)}
    assert audited_as(model, named, kind="delta", training=order).misfits == []
    other = dataclasses.replace(order, batch_norm="eval" if mode == "train" else "train")
    (sentence,) = audited_as(model, named, kind="delta", training=other).misfits
    assert f"(batch_norm = '{mode}')" in sentence


def test_an_update_of_another_model_is_refused_by_name():
    update = gradient(MODEL, BATCH)
    name = next(iter(update))
    with pytest.raises(SettingsError, match=f"lacks the model's parameter '{name}'"):
        audited({n: t for n, t in update.items() if n != name})
    with pytest.raises(SettingsError, match="no parameter of the model"):
        audited(update | {"head.weight": torch.zeros(2)})
    with pytest.raises(SettingsError, match=r"has shape \(3,\)"):
        audited(update | {name: torch.zeros(3)})


@pytest.mark.parametrize("seed", range(5))
def test_a_model_of_normalised_pictures_is_audited_under_its_own_names(seed):
    torch.manual_seed(seed)
    inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    model, one = Normalized(inner, (0.5,), (0.25,)), Batch(BATCH.images[seed : seed + 1], BATCH.labels[seed : seed + 1])
    update = {name.removeprefix("model."): tensor for name, tensor in gradient(model, one).items()}
    found = audit(model, update, image_shape=SHAPE, classes=10, examples=1, attacks=LABELS)
    assert found.misfits == []
    assert restored(found) == one.labels.tolist()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a user's own module, weights that were sent, and an update."""
    (tmp_path / "own_app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    save_file(parameters_of(model), tmp_path / "sent.safetensors")
    save_file(gradient(model, BATCH), tmp_path / "update.safetensors")
    return tmp_path


def called(*changed: str):
    usual = ["--model", "own_app:net", "--sent", "sent.safetensors", "--update", "update.safetensors"]
    usual += ["--input-shape", "1,8,8", "--classes", "10", "--examples", "8", "--attacks", "attacks.toml", *changed]
    return CliRunner().invoke(app, ["audit", *usual], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_the_command_tells_the_labels_and_writes_a_page(here):
    (here / "attacks.toml").write_text(
        '[[attacks]]\nname = "auto"\n[[attacks]]\nname = "inverting-gradients"\niterations = 5\n'
        '[[attacks]]\nas = "<b>"\nname = "idlg"\n'.replace("<b>", "one, alone")
    )
    result = called()
    assert result.exit_code == 0, result.output
    counts = torch.bincount(BATCH.labels, minlength=10).tolist()
    assert ", ".join(f"{count} × class {i}" for i, count in enumerate(counts) if count) in result.output
    assert "one, alone: not applicable: iDLG restores the label of one example" in result.output
    page = lxml.html.fromstring((here / "audit.html").read_text())
    assert [heading.text for heading in page.xpath("//h2")][2:] == ["auto", "inverting-gradients", "one, alone"]
    assert len(page.xpath("//img[starts-with(@src, 'data:image/png;base64,') and @alt]")) == 8


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--model", "own_app"], "should be module:function"),
        (["--model", "own_app:nothing"], "has no attribute 'nothing'"),
        (["--model", "elsewhere:net"], "No module named 'elsewhere'"),
        (["--model", "torch:zeros"], "--model torch:zeros"),
        (["--input-shape", "8,8"], "should be channels,height,width"),
        (["--input-shape", "a,8,8"], "should be numbers"),
        (["--update", "none.safetensors"], "cannot read 'none.safetensors'"),
        (["--kind", "gradients"], "should be gradient, delta or weights"),
        (["--mean", "0.5"], "give both"),
        (["--batch-norm", "off"], "batch_norm"),
        (["--attacks", "none.toml"], "cannot read the file 'none.toml'"),
        (["--sent", "update.txt"], "cannot read 'update.txt'"),
    ],
)
def test_wrong_input_is_refused_with_its_place(here, changed, said):
    (here / "attacks.toml").write_text('[[attacks]]\nname = "auto"\n')
    result = called(*changed)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output
