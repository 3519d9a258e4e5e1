"""What a trained model still gives away of its labels, up to memorisation: every restoration, the guess, and a ceiling.

    CURIOUS_DATA=.data python -m bench.labels_memorised              LeNet-5 on CIFAR-10 and CIFAR-100
    CURIOUS_DATA=.data python -m bench.labels_memorised --vgg        VGG-16 on a few CIFAR-100 pictures

One shared gradient of a batch of 24. A model is trained (SGD, momentum .9, batches of 64, or a fourth of fewer pictures) until
its accuracy on all pictures it trains with first passes each of the levels, looked at every 25 steps or once an epoch; then
until its mean loss on them is below .001. Training pictures: 5,170 of CIFAR-10, 2,400 of CIFAR-100, those in the data folder.
`train` batches are drawn from them, `held out` batches from the test part, whose next 500 pictures are public (CIFAR-100's
test part has 600).
The server sees the whole gradient, of VGG-16 that of the last layer: `auto` takes apart what it can (`examples_apart`).
`--vgg`: VGG-16 with fully connected layers of 512 units and no dropout, so that it memorises `--pictures` pictures in time;
the same 200 public pictures for all batches.

A line a method: mean instance recall and half of its 95 % interval over all batches of all initialisations, exact batches,
and of how many batches the method claims `identifiable` (or says nothing). `null` draws classes at random, `even` gives each
class the same share. `rlu-same` is RLU with other pictures of the client's own training set for public ones, a grant that
no server has: the model answers them as it answers the batch. A refusal counts as an empty answer and as not identifiable.

The ceiling is worked out here, with the truth in hand. Each example's own part of the update, all layers, is computed in
float32 as a client does. `own entry`: p - y is exactly zero at the example's class. `gone`: its part is exactly zero. `under
rounding`: no entry of its part reaches half a unit in the last place of the update's entry, so that the update is the same
without it. `faint`: its part's norm is below 1e-7 of the update's. Recall if all other labels were read right and those
guessed by the class shares stands beside the last two.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks import Granted
from attacks.attack import Attack
from attacks.controls import Null
from attacks.labels import ILRG, LLG, RLG, RLU, AutoLabels, GengLabels, GradInversionLabels, RankOneLabels
from attacks.labels.counts import rows_of, whole_counts
from bench.labels import attempted, drawn, observed, scored
from learning.data import CIFAR10, CIFAR100, Examples, Pictures, pictures_of
from learning.models import VGG16, Architecture, LeNet5
from learning.tensors import Batch, generator
from learning.training import Training, accuracy

METHODS: dict[str, Attack] = {
    "ilrg": ILRG(), "ilrg-non-negative": ILRG(solver="non-negative"), "rank-one": RankOneLabels(), "geng": GengLabels(),
    "geng-weights": GengLabels(form="weights"), "llg": LLG(), "llg-model": LLG(knowledge="model"),
    "llg-public": LLG(knowledge="public"), "gradinversion-labels": GradInversionLabels(), "rlg": RLG(), "rlu": RLU(),
    "auto": AutoLabels(), "null": Null(),
}  # fmt: skip
SIZE, LEVELS, MEMORISED = 24, (0.4, 0.65, 0.9, 0.99), 1e-3
VANISHING = ("own entry", "gone", "under rounding", "faint")


@dataclass
class Seen:
    """Of one state of the model: every method's scores and claims, and the ceilings, one entry a batch."""

    recall: dict[str, list[float]] = field(default_factory=dict)
    exact: dict[str, list[float]] = field(default_factory=dict)
    claims: dict[str, list[bool | None]] = field(default_factory=dict)
    vanished: dict[str, list[float]] = field(default_factory=dict)
    accuracies: list[str] = field(default_factory=list)


def states(
    architecture: Architecture, pictures: Pictures, seed: int, rate: float, end: float
) -> Iterator[tuple[str, int, float, float, nn.Module]]:
    """A model untrained, when it first passes each level, and memorised: name, steps, accuracy and loss on all it trains with.

    The learning rate is halved at the third level. Stops early at the processor's time `end`; the last state is then named so.
    """
    model = architecture.build(pictures.image_shape, pictures.classes, seed)
    everything = pictures.train.batch(torch.arange(len(pictures.train)))
    few = drawn(pictures.train, min(500, len(pictures.train)), "few", seed)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    found = accuracy(model, everything.images, everything.labels, Training())
    yield "untrained", 0, *found, model
    wanted, step, rng = list(LEVELS), 0, generator("memorised", seed)
    size = min(64, len(everything) // 4)
    every = min(25, len(everything) // size)
    while wanted or found[1] > MEMORISED:
        for part in torch.randperm(len(everything), generator=rng).split(size):
            optimizer.zero_grad()
            functional.cross_entropy(model.train()(everything.images[part]), everything.labels[part]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            late = time.process_time() > end
            if step % (every if wanted else 8 * every) and not late:
                continue
            if wanted and not late and accuracy(model, few.images, few.labels, Training())[0] < wanted[0] - 0.05:
                continue  # far off: not worth asking all pictures
            found = accuracy(model, everything.images, everything.labels, Training())
            while wanted and found[0] >= wanted[0]:
                yield f"accuracy {wanted[0]}", step, *found, model
                wanted.pop(0)
                optimizer.param_groups[0]["lr"] = rate / (2 if len(wanted) < 2 else 1)
            if late:
                yield "time is up", step, *found, model
                return
            if not wanted and found[1] <= MEMORISED:
                break
    yield f"loss {MEMORISED}", step, *found, model


def ceiling(model: nn.Module, batch: Batch, classes: int) -> dict[str, float]:
    """Shares of examples that leave no trace, and the recall that is left if they are guessed."""
    parameters = list(model.parameters())
    whole = torch.autograd.grad(functional.cross_entropy(model(batch.images), batch.labels), parameters)
    size = math.sqrt(sum(float(part.double().square().sum()) for part in whole))
    half = [torch.from_numpy(np.spacing(part.abs().numpy())) / 2 for part in whole]
    vanished: dict[str, list[bool]] = {name: [] for name in VANISHING}
    for index in range(len(batch)):
        scores = model(batch.images[index : index + 1])
        loss = functional.cross_entropy(scores, batch.labels[index : index + 1])
        error, *own = torch.autograd.grad(loss, [scores, *parameters])
        own = [part / len(batch) for part in own]
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in own))
        vanished["own entry"].append(float(error[0, batch.labels[index]]) == 0)
        vanished["gone"].append(norm == 0)
        vanished["under rounding"].append(all(bool((part.abs() <= unit).all()) for part, unit in zip(own, half, strict=True)))
        vanished["faint"].append(norm < 1e-7 * size)
    shares = {name: sum(found) / len(batch) for name, found in vanished.items()}
    for name in ("under rounding", "faint"):
        hidden = torch.bincount(batch.labels[torch.tensor(vanished[name])], minlength=classes)
        guessed = whole_counts(torch.full((classes,), int(hidden.sum()) / classes), int(hidden.sum()))
        shares[f"recall, {name}"] = 1 - float((hidden - guessed).clamp_min(0).sum()) / len(batch)
    return shares


class Remembering(nn.Module):
    """The same model, which answers pictures that it has seen from memory: public ones are asked by many methods."""

    def __init__(self, model: nn.Module):
        super().__init__()
        name = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
        parent, _, own = name.rpartition(".")
        self.body, self.last = copy.deepcopy(model), copy.deepcopy(model.get_submodule(name))
        setattr(self.body.get_submodule(parent), own, nn.Identity())
        self.features: dict[tuple[int, float], Tensor] = {}

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        key = (len(images), float(images.double().square().sum()))
        if key not in self.features:
            self.features[key] = self.body(images)
        return self.last(self.features[key])


def look(
    seen: Seen,
    model: nn.Module,
    asked: nn.Module,
    batch: Batch,
    public: Batch,
    same: Batch,
    classes: int,
    seed: tuple[int, ...],
) -> None:
    """All methods on one batch. `asked`: the model, or the same with a memory."""
    granted = Granted(public=public.images, public_labels=public.labels)
    shown = observed(asked, batch, classes, granted=granted, whole=asked is model)
    known = Granted(public=same.images, public_labels=same.labels)
    for name, attack in {**METHODS, "rlu-same": RLU()}.items():
        if name == "rlu-same" and len(same) < classes:
            continue
        found = attempted(attack, replace(shown, granted=known) if name == "rlu-same" else shown, name, *seed)
        score = scored(found, batch.labels, classes)
        seen.recall.setdefault(name, []).append(score.recall)
        seen.exact.setdefault(name, []).append(score.exact)
        seen.claims.setdefault(name, []).append(False if found is None else found.identifiable)
    even = torch.bincount(rows_of(whole_counts(torch.full((classes,), SIZE / classes), SIZE)).argmax(1), minlength=classes)
    overlap = torch.minimum(even, torch.bincount(batch.labels, minlength=classes)).sum()
    seen.recall.setdefault("even", []).append(float(overlap) / SIZE)
    for name, value in ceiling(model, batch, classes).items():
        seen.vanished.setdefault(name, []).append(value)


def printed(title: str, seen: Seen) -> None:
    """One block of lines."""
    print(f"\n{title}; {'; '.join(seen.accuracies)}")
    for name, values in seen.recall.items():
        claims = seen.claims.get(name, [])
        said = f"identifiable {sum(c is True for c in claims)}, not {sum(c is False for c in claims)}" if claims else ""
        said = "" if claims and all(c is None for c in claims) else said
        exact = f"exact {np.mean(seen.exact[name]):.3f}  " if name in seen.exact else ""
        print(f"  {name:22} recall {interval(values)}  {exact}{said}")
    shares = ", ".join(f"{name} {np.mean(values):.4f}" for name, values in seen.vanished.items() if name in VANISHING)
    print(f"  share of examples without a trace: {shares}")
    for name in ("under rounding", "faint"):
        print(f"  ceiling ({name}): recall {interval(seen.vanished[f'recall, {name}'])}", flush=True)


def interval(values: list[float]) -> str:
    half = 1.96 * np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.3f} +- {half:.3f}"


def run(
    name: str, architecture: Architecture, pictures: Pictures, rate: float, public: int, settings: argparse.Namespace
) -> None:
    """Every state of every initialisation; printed anew after each initialisation, over all of them so far."""
    blocks: dict[tuple[str, str], Seen] = {}
    known = drawn(pictures.test, 500, "test accuracy")
    for seed in range(settings.seeds):
        end = time.process_time() + 60 * settings.minutes
        for state, step, right, loss, model in states(architecture, pictures, seed, rate, end):
            model.eval()
            held = accuracy(model, known.images, known.labels, Training())[0]
            for kind in ("train",) if settings.vgg else ("train", "held out"):
                seen = blocks.setdefault((state, kind), Seen())
                seen.accuracies.append(f"step {step} accuracy {right:.3f} (held out {held:.3f}) loss {loss:.2g}")
                asked = Remembering(model).eval() if settings.vgg else model
                for index in range(settings.batches):
                    held_out = generator("held", seed, 0 if settings.vgg else index)
                    order = torch.randperm(len(pictures.test), generator=held_out)
                    own = torch.randperm(len(pictures.train), generator=generator("own", seed, index))
                    batch = pictures.train.batch(own[:SIZE]) if kind == "train" else pictures.test.batch(order[:SIZE])
                    shown = pictures.test.batch(order[SIZE : SIZE + public])
                    same = pictures.train.batch(own[SIZE : SIZE + (0 if settings.vgg else public)])
                    look(seen, model, asked, batch, shown, same, pictures.classes, (seed, index))
                printed(f"{name}, {state}, {kind} batches", seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=20, help="of each initialisation, state and kind")
    parser.add_argument("--seeds", type=int, default=2, help="initialisations")
    parser.add_argument("--minutes", type=float, default=30, help="of training and looking, for each initialisation")
    parser.add_argument("--pictures", type=int, default=60, help="that VGG-16 trains with")
    parser.add_argument("--vgg", action="store_true")
    parser.add_argument("--only", default="", help="data whose name holds this")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.vgg:
        whole = pictures_of(CIFAR100())
        chosen = torch.randperm(len(whole.train), generator=generator("vgg"))[: settings.pictures]
        few = Examples(whole.train.images[chosen], whole.train.labels[chosen])
        run("VGG-16 CIFAR-100", VGG16(hidden=512, dropout=0.0), Pictures(few, whole.test, 100), 0.02, 200, settings)
        return
    for name, data in (("CIFAR-10", CIFAR10()), ("CIFAR-100", CIFAR100())):
        if settings.only in name:
            run(f"LeNet-5 {name}", LeNet5(), pictures_of(data), 0.02, 500, settings)


if __name__ == "__main__":
    main()
