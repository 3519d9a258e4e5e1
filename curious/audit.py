"""One update of anybody's model, audited: does it fit the model, which labels and pictures does it give away?

from curious.audit import audit
found = audit(model, update, image_shape=(3, 32, 32), classes=10, examples=8)
for line in found.lines:
    print(line.attack, line.status, line.told)
found.write_page(Path("audit.html"))
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import torch
from torch import Tensor, nn

from attacks import ATTACKS, Attack, Granted, Observation, Reconstruction
from attacks.consistency import foreign, misfits
from attacks.exact.forecast import FORECAST, Forecast, forecasts
from attacks.workers import Job, run_job
from learning.catalogue import SettingsError, build
from learning.tensors import Batch, Update, buffers_of, derived_seed, generator, parameters_of
from learning.training import Training, local_update, set_mode
from studies.pictures import data_uri

DEFAULT_ATTACKS = ("auto", "extreme-points", "inverting-gradients", "feature-inversion")
MOST_PICTURES = 16  # on the page
HOPELESS = 0.01  # odds below which no exact attack is among the usual ones
Kind = Literal["gradient", "delta", "weights"]


class Normalized(nn.Module):
    """A model that is fed with normalised pictures, as a model of pictures in [0, 1]."""

    def __init__(self, model: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]):
        super().__init__()
        self.model, self._mean, self._deviation = model, mean, deviation

    def forward(self, images: Tensor) -> Tensor:
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in (self._mean, self._deviation))
        return self.model((images - mean) / deviation)


@dataclass(frozen=True)
class Line:
    """What one attack made of the update. `told`: in a sentence."""

    attack: str
    status: str
    told: str
    seconds: float
    reconstruction: Reconstruction | None


@dataclass(frozen=True)
class Audit:
    """`misfits`: what does not fit between update, model and training; `lines`: the attacks; `about`: what was audited.

    `forecasts`: the odds of each exact attack to restore all pictures exactly, said before any attack.
    """

    about: dict[str, str]
    misfits: list[str]
    forecasts: dict[str, Forecast]
    lines: list[Line]

    def write_page(self, path: Path) -> None:
        """Writes a page that stands alone."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
        pictures = {
            line.attack: [data_uri(image) for image in line.reconstruction.images[:MOST_PICTURES]]
            for line in self.lines
            if line.reconstruction is not None and line.reconstruction.images is not None
        }
        path.write_text(template.render(audit=self, pictures=pictures), encoding="utf-8")


def audit(
    model: nn.Module,
    update: Mapping[str, Tensor],
    *,
    image_shape: tuple[int, int, int],
    classes: int,
    examples: int,
    kind: Kind = "gradient",
    training: Training | None = None,
    attacks: Mapping[str, Attack] | None = None,
    seed: int = 0,
) -> Audit:
    """Audits one update: first whether it fits, then each attack on it.

    `model`: as it was sent, fed with pictures in [0, 1] (see `Normalized`). `update`: by parameter name, in that `kind`:
    "weights" are those that came back, from which the delta is taken. `training`: the client's work; a gradient needs none,
    and for others it says the learning rate, the batch size and the epochs or steps. `examples`: how many the client used.
    The usual attacks are labels by `auto`, `extreme-points`, Inverting Gradients, feature inversion, and the exact attack with
    the best forecast.
    Attacks are run even where something does not fit, and one that fails is a line of its own. Raises `SettingsError` where
    a kind and a training exclude each other or names and shapes do not fit.
    """
    training = training or Training(shared="gradient" if kind == "gradient" else "delta", batch_size=examples)
    if (kind == "gradient") != (training.shared == "gradient"):
        raise SettingsError(f"kind = '{kind}' does not fit training.shared = '{training.shared}'; say the same of both")
    observation = Observation(
        round=1,
        client=0,
        model=set_mode(model, training),
        update=_update(model, update, kind),
        training=training,
        examples=examples,
        image_shape=image_shape,
        classes=classes,
        granted=Granted(),
    )
    if unknown := foreign(observation):
        raise SettingsError("the update does not fit the model: " + "; ".join(unknown[:4]))
    odds = _forecasts(observation, seed)
    chosen = attacks or {name: build(ATTACKS, {"name": name}) for name in (*DEFAULT_ATTACKS, *_best(odds))}
    lines = [_line(name, attack, observation, derived_seed(seed, "audit", name)) for name, attack in chosen.items()]
    size = sum(tensor.numel() for tensor in observation.update.parameters.values())
    about = {
        "model": f"{type(model).__name__}, {size:,} parameters",
        "update": f"{kind} of {examples} examples, {observation.steps} local steps",
        "pictures": "×".join(map(str, image_shape)) + f", {classes} classes",
    }
    return Audit(about, misfits(observation), odds, lines)


def _forecasts(observation: Observation, seed: int) -> dict[str, Forecast]:
    """By exact attack; random pixels stand in for the client's pictures. A model that cannot be trained on them has no odds."""
    rng = generator(seed, "audit", "stand-in")
    some = next(iter(observation.update.parameters.values()))
    images = torch.rand(observation.examples, *observation.image_shape, generator=rng).to(some)
    labels = torch.randint(observation.classes, (observation.examples,), generator=rng).to(some.device)
    stand_in = Batch(images, labels)

    def share() -> Update:
        return local_update(observation.model, stand_in, observation.training, rng)

    try:
        return forecasts(observation.model, observation.classes, stand_in, observation.training, share)
    except (ValueError, RuntimeError) as error:
        reason = f"no forecast: {error}"
        return {name: Forecast(0.0, reason) for name in FORECAST}


def _best(odds: dict[str, Forecast]) -> list[str]:
    """The exact attack with the best odds, where it has any."""
    name = max(odds, key=lambda attack: odds[attack].probability)
    return [name] if odds[name].probability > HOPELESS else []


def _update(model: nn.Module, tensors: Mapping[str, Tensor], kind: Kind) -> Update:
    own, buffers = parameters_of(model), buffers_of(model)
    prefix = "model." if isinstance(model, Normalized) and not any(name in own for name in tensors) else ""
    named = {prefix + name: tensor.detach() for name, tensor in tensors.items()}
    if kind == "weights":
        named = {
            n: (t.double() - own[n].double()).to(own[n]) if n in own and own[n].shape == t.shape else t
            for n, t in named.items()
        }
    parameters = {n: t for n, t in named.items() if n not in buffers and not n.endswith("num_batches_tracked")}
    return Update(parameters, {n: t for n, t in named.items() if n in buffers})


def _line(name: str, attack: Attack, observation: Observation, seed: int) -> Line:
    outcome = run_job(Job(name, attack, observation, seed))
    return Line(name, outcome.status, outcome.reason or _told(outcome.reconstruction), outcome.seconds, outcome.reconstruction)


def _told(found: Reconstruction | None) -> str:
    assert found is not None
    told = []
    if found.labels is not None:
        counts = torch.bincount(found.labels.argmax(1), minlength=found.labels.shape[1])
        present = [(i, count) for i, count in enumerate(counts.tolist()) if count]
        told.append("labels: " + ", ".join(f"{count} × class {i}" for i, count in present))
    if found.images is not None:
        told.append(f"{len(found.images)} pictures" + (f", matching loss {found.loss:.3g}" if found.loss is not None else ""))
    return "; ".join([*told, *([found.verdict] if found.verdict else [])]) or "nothing"


def model_from(place: str) -> nn.Module:
    """The model that `module:function` builds, the module being found from the current folder. Raises `SettingsError`."""
    module_name, colon, function_name = place.partition(":")
    if not colon or not module_name or not function_name:
        raise SettingsError(f"--model {place}: should be module:function, like my_app.task:Net")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made: Any = getattr(importlib.import_module(module_name), function_name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise SettingsError(f"--model {place}: {error}; it is imported from this folder and called without arguments") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(made, nn.Module):
        raise SettingsError(f"--model {place}: gave a {type(made).__name__} and not a torch.nn.Module")
    return made
