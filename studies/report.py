"""The report of a run: one page that stands alone, for people, and a table, for programs.

Everything in the page comes from the ledger; the clients' pictures are drawn again, as the clients drew them. Names and
texts are escaped by the template, drawings are matplotlib's.
"""

import json
import shlex
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor

from defenses import DEFENSES
from learning.catalogue import name_of
from learning.data import DATA, pictures_of
from learning.models import MODELS, has_batch_norm
from learning.partitions import PARTITIONS
from studies.attacking import truth
from studies.config import Cell, Grants, Plan, Start
from studies.evidence import Evidence, Picked, Point
from studies.exactness import exact_tables
from studies.knowing import GAINED, knowledge
from studies.ledger import Ledger, Result, Victim
from studies.pictures import data_uri
from studies.plots import NAMED_ALONE, Plot, plots_of, restorations_by_state
from studies.prices import PRICED, prices
from studies.restorations import RestorationLine, lines
from studies.scores import DRAWN_TO
from studies.summary import write_csv
from studies.template import TEMPLATE
from studies.tradeoffs import LOSSES, tradeoffs
from studies.wording import about_of, along, at, code, number, percent, plural, settings_of, signed

SHOWN_SETTINGS = 6  # points of the grid that get pictures and plots; the tables have all of them
SHOWN_SENTENCES = 8  # findings that are told in sentences; more become a table
UNFOLDED_TABLES = 8  # of results; where there are more, all but the first are folded
SHOWN_PICTURES = 8  # of one batch
SHOWN_FAILURES = 40
LARGEST_PICTURE = 96  # pixels a side; larger ones are scaled down for the page
PICTURE_BYTES = 5_000_000  # of all pictures together


def write_report(ledger: Ledger) -> Path:
    """Writes `report.html` and `results.csv` into the run's folder, finished or not. Returns the page's path."""
    write_csv(ledger, ledger.folder / "results.csv")
    path = ledger.folder / "report.html"
    unfinished = path.with_name(".report.html")
    unfinished.write_text(page(ledger), encoding="utf-8")
    return unfinished.replace(path)


def page(ledger: Ledger) -> str:
    """The report as it stands now; nothing is written."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    filters = {"number": number, "percent": percent, "signed": signed, "plural": plural, "code": code, "along": along}
    environment.filters |= filters
    environment.globals["at"] = at
    template = environment.from_string(TEMPLATE)
    evidence = Evidence(ledger)
    points = [Point(evidence, setting) for setting in evidence.settings]
    pictures, pictures_left_out = _galleries(evidence)
    restorations = lines(evidence)
    return template.render(
        study=ledger.plan.study,
        progress=progress(ledger),
        points=points,
        sentences=sum(len(point.findings) for point in points) <= SHOWN_SENTENCES,
        folded=sum(len(point.tables) for point in points) > UNFOLDED_TABLES,
        shown=SHOWN_SETTINGS,
        seeds=ledger.plan.study.seeds,
        restorations=restorations,
        restoration_plots=_restoration_plots(evidence, restorations),
        exact=exact_tables(evidence),
        galleries=pictures,
        galleries_left_out=pictures_left_out,
        plots={point.setting: plots_of(point, place) for place, point in enumerate(points[:SHOWN_SETTINGS])},
        tradeoffs={setting: found for setting in evidence.settings if (found := tradeoffs(evidence, setting))},
        losses=LOSSES,
        named_alone=NAMED_ALONE,
        knowledge=knowledge(evidence),
        gained=GAINED,
        prices=prices(evidence),
        priced=PRICED,
        drawn_to=DRAWN_TO,
        perceived=any(cell.study.metrics.lpips for cell in ledger.plan.cells),
        failures=_failures(evidence),
        threat=_threat(evidence),
        attacks=evidence.attacks.values(),
        parts=_parts(ledger.plan),
        repeat=_repeat(ledger),
    )


def _restoration_plots(evidence: Evidence, found: list[RestorationLine]) -> list[Plot]:
    by_place: dict[tuple[str, str], list[RestorationLine]] = defaultdict(list)
    for line in found:
        by_place[line.setting, line.defense].append(line)
    shown = [line for (setting, _), line in by_place.items() if setting in evidence.settings[:SHOWN_SETTINGS]]
    drawn = (restorations_by_state(line, place) for place, line in enumerate(shown))
    return [plot for plot in drawn if plot is not None]


# how far the run is


def progress(ledger: Ledger) -> dict[str, Any]:
    """The ledger's counts beside what the study comes to in all; `over`: whether nothing is left to do."""
    counts, plan = ledger.counts(), ledger.plan
    rounds = sum(cell.study.rounds for cell in plan.cells)
    updates = sum(len(cell.recorded()) for cell in plan.cells)
    attacks = ledger.asked_for()
    return counts | {
        "cells": len(plan.cells),
        "rounds in all": rounds,
        "updates in all": updates,
        "results in all": attacks,
        "over": counts["rounds"] >= rounds and counts["results"] >= attacks,
    }


# pictures


@dataclass(frozen=True)
class Shown:
    """One picture on the page: where from, its words for who cannot see it, its score in words."""

    source: str
    words: str
    score: str
    side: int


@dataclass(frozen=True)
class Sheet:
    """One update: the true pictures, and below them what was restored under each defense.

    `lines`: heading, mean PSNR in words, whether it is a control, the pictures (none: no result).
    """

    title: str
    note: str
    truth: list[Shown]
    lines: list[tuple[str, str, bool, list[Shown]]]


@dataclass(frozen=True)
class Gallery:
    """One attack at one point of the grid: its best, median and worst update."""

    setting: str
    attack: str
    chosen_by: str
    victims: int
    sheets: list[Sheet]


def _galleries(evidence: Evidence) -> tuple[list[Gallery], list[str]]:
    """The pictures, and what was left out, in words."""
    galleries: list[Gallery] = []
    left_out, spent = [], 0
    if len(evidence.settings) > SHOWN_SETTINGS:
        rest = len(evidence.settings) - SHOWN_SETTINGS
        left_out.append(f"Pictures are shown for the first {SHOWN_SETTINGS} settings; {plural(rest, 'more')} left out.")
    for setting in evidence.settings[:SHOWN_SETTINGS]:
        for attack in (a.name for a in evidence.attacks.values() if not a.control):
            if spent > PICTURE_BYTES:
                left_out.append(f"To keep the page small, the pictures of {attack}{at(setting)} are left out.")
                continue
            try:
                gallery = _gallery(evidence, setting, attack)
            except ValueError as error:  # the data is not on this machine
                left_out.append(f"The pictures of {attack}{at(setting)} cannot be shown: {error}.")
                continue
            if gallery is not None:
                galleries.append(gallery)
                spent += sum(len(shown.source) for sheet in gallery.sheets for shown in _all_shown(sheet))
    return galleries, left_out


def _all_shown(sheet: Sheet) -> Iterable[Shown]:
    return [*sheet.truth, *(shown for *_, line in sheet.lines for shown in line)]


def _gallery(evidence: Evidence, setting: str, attack: str) -> Gallery | None:
    order = [evidence.first_defense, *(name for name in evidence.defenses if name != evidence.first_defense)]
    by_defense = {defense: evidence.values(setting, defense, attack, "psnr") for defense in order}
    chosen_by = next((defense for defense, values in by_defense.items() if values), None)
    if chosen_by is None:
        return None
    ranked = sorted(by_defense[chosen_by], key=lambda key: (-by_defense[chosen_by][key], key))
    titles = dict(zip(_places(len(ranked)), ("Best", "Median", "Worst"), strict=False))
    if len(ranked) == 1:
        titles = {0: "The only update"}
    elif len(ranked) == 2:
        titles = {0: "Better of two", 1: "Worse of two"}
    sheets = [_sheet(evidence, setting, attack, chosen_by, ranked[place], title) for place, title in titles.items()]
    return Gallery(setting, attack, chosen_by, len(ranked), sheets)


def _places(count: int) -> list[int]:
    return list(dict.fromkeys((0, count // 2, count - 1)))


def _sheet(evidence: Evidence, setting: str, attack: str, chosen_by: str, picked: Picked, title: str) -> Sheet:
    cell = evidence.cells[setting, chosen_by, picked.seed]
    true = truth(cell, Victim(cell.index, picked.round, picked.client)).images
    count = min(SHOWN_PICTURES, len(true))
    behind = cell.behind(picked.round, picked.client)
    whose = f"client {picked.client}" if len(behind) == 1 else f"the sum of {len(behind)} clients"
    who = f"{whose}, round {picked.round}, seed {picked.seed}"
    note = who if count == len(true) else f"{who}; the first {count} of {len(true)} pictures"
    originals = [_shown(true[i], f"True picture {i + 1} of {who}", "") for i in range(count)]
    lines = []
    wanted = [(defense, attack, defense, False) for defense in evidence.defenses]
    wanted += [(chosen_by, c.name, c.name, True) for c in evidence.controls() if c.control == "mean"]
    for defense, name, heading, is_control in wanted:
        result = evidence.results(setting, defense, name).get(picked)
        if is_control and (result is None or "psnr" not in result.scores):
            continue
        pictures, score = [], "no result"
        if result is not None:
            score = result.status
        if result is not None and "psnr" in result.scores:
            pictures = _restored(evidence.ledger, result, true, count, f"{who} under {defense}")
            score = f"{statistics.fmean(result.scores['psnr']):.1f} dB"
        lines.append((heading, score, is_control, pictures))
    return Sheet(title, note, originals, lines)


def _restored(ledger: Ledger, result: Result, true: Tensor, count: int, who: str) -> list[Shown]:
    images = ledger.reconstruction(result.victim, result.attack).images
    images = torch.empty(0, *true.shape[1:]) if images is None else images
    matches, decibels = result.scores["matches"], result.scores["psnr"]
    grey = torch.full(true.shape[1:], 0.5)
    return [
        _shown(
            images[matches[i]] if matches[i] < len(images) else grey,
            f"Picture {i + 1} of {who}, restored by {result.attack}, PSNR {decibels[i]:.1f} dB",
            f"{decibels[i]:.1f}",
        )
        for i in range(count)
    ]


def _shown(image: Tensor, words: str, score: str) -> Shown:
    return Shown(data_uri(image, LARGEST_PICTURE), words, score, max(image.shape[1:]))


# failures


def _failures(evidence: Evidence) -> dict[str, Any]:
    clients = [
        (cell.setting, cell.defense.name, cell.seed, failure.victim.round, failure.victim.client, failure.reason)
        for failure in evidence.ledger.failures()
        for cell in [evidence.plan.cells[failure.victim.cell]]
    ]
    attacks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in evidence.ledger.results():
        if result.status == "failed":
            cell, victim = evidence.plan.cells[result.victim.cell], result.victim
            where = f"{cell.defense.name}{at(cell.setting)}, seed {cell.seed}, round {victim.round}, client {victim.client}"
            attacks[result.attack, result.reason].append(where)
    return {
        "clients": clients[:SHOWN_FAILURES],
        "clients in all": len(clients),
        "attacks": [(*key, len(where), where[0]) for key, where in attacks.items()][:SHOWN_FAILURES],
        "attacks in all": sum(len(where) for where in attacks.values()),
        "kinds in all": len(attacks),
    }


# the threat model


def _threat(evidence: Evidence) -> dict[str, Any]:
    """What the settings say about what the server knows, gathered over the points of the grid."""
    cells = evidence.plan.cells
    studies = list({id(cell.study): cell.study for cell in cells}.values())
    models = [_model(cell) for cell in {repr((c.study.model, c.study.data)): c for c in cells}.values()]

    def each(value: Callable[[Any], object]) -> str:
        return " or ".join(dict.fromkeys(str(value(study)) for study in studies))

    starts = dict.fromkeys(
        f"weights from the checkpoint {Path(s.start.checkpoint).name}"
        if s.start.checkpoint
        else f"trained for {plural(s.start.after_rounds, 'round')} of the same federation before the first attack"
        + _trained_how(s.start)
        if s.start.after_rounds
        else "untrained: weights are drawn from the seed"
        for s in studies
    )
    told = [attack.name for attack in evidence.attacks.values() if attack.knows_defense]
    kept = "The others are not" if told else "No attack is"
    return {
        "knowing": (f"Told how the client defends itself: {', '.join(told)}. " if told else "")
        + f"{kept} told the defense or fitted to it; one that knows it may do better.",
        "data": each(lambda s: name_of(DATA, s.data)),
        "architectures": each(lambda s: name_of(MODELS, s.model)),
        "shared": sorted({study.training.shared for study in studies}),
        "batch_sizes": each(lambda s: s.training.batch_size),
        "rates": each(lambda s: f"{s.training.learning_rate:g}"),
        "momentums": each(lambda s: f"{s.training.momentum:g}"),
        "work": each(
            lambda s: plural(s.training.steps, "local step") if s.training.steps else plural(s.training.epochs, "epoch")
        ),
        "norm": sorted({study.training.batch_norm for study in studies}),
        "buffers": sorted({study.training.buffers for study in studies}),
        "has_norm": any(model[1] for model in models if model is not None),
        "norm_known": all(model is not None for model in models),
        "models": [model for model in models if model is not None],
        "starts": list(starts),
        "strategy": each(lambda s: s.federation.strategy),
        "secure": sorted({study.federation.secure_aggregation for study in studies}),
        "clients": each(lambda s: s.federation.clients),
        "per_round": each(lambda s: s.federation.clients_per_round),
        "rounds": each(lambda s: s.federation.rounds),
        "grants": sorted({attack.granted for attack in evidence.attacks.values()} - {"nothing"}),
    }


def _trained_how(start: Start) -> str:
    """How the rounds before the attacks were trained, where not as those that are attacked."""
    if start.training is None:
        return ""
    return f", with {', '.join(f'{name} = {value}' for name, value in settings_of(start.training))}"


def _model(cell: Cell) -> tuple[str, bool, int] | None:
    """The model's name, whether it has BatchNorm, and its number of parameters; None where the data is not at hand."""
    try:
        pictures = pictures_of(cell.study.data)
        network = cell.study.model.build(pictures.image_shape, pictures.classes, seed=0)
    except ValueError:
        return None
    return name_of(MODELS, cell.study.model), has_batch_norm(network), sum(p.numel() for p in network.parameters())


@dataclass(frozen=True)
class Part:
    """A defense, the model, the data or the partition, with its settings and what it is."""

    role: str
    name: str
    settings: list[tuple[str, str]]
    about: str


def _parts(plan: Plan) -> list[Part]:
    study, parts = plan.study, []
    for defense in study.defenses:
        for link in defense.chain:
            parts.append(Part(f"defense {defense.name}", name_of(DEFENSES, link), settings_of(link), about_of(type(link))))
        if not defense.chain:
            parts.append(Part("defense", defense.name, [], "The update is shared as it was computed."))
    kinds: list[tuple[str, Mapping[str, type]]] = [("model", MODELS), ("data", DATA), ("partition", PARTITIONS)]
    for role, catalogue in kinds:
        for value in {repr(found): found for cell in plan.cells for found in [getattr(cell.study, role)]}.values():
            parts.append(Part(role, name_of(catalogue, value), settings_of(value), about_of(type(value))))
    return parts


# how to repeat it


def _repeat(ledger: Ledger) -> dict[str, Any]:
    toml, plan = ledger.meta("toml"), ledger.plan
    overrides = _overrides(tomllib.loads(toml.removeprefix("\ufeff")), plan.raw)
    folder = ledger.folder.resolve().name
    command = ["curious", "run", f"{folder}/study.toml", "--out", f"{folder}-again"]
    for override in overrides:
        command += ["--set", override]
    own = {named.name for named in plan.study.attacks}
    later = [(table, grants) for name, (table, grants) in ledger.attacks().items() if name not in own]
    return {
        "command": shlex.join(command),
        "overridden": bool(overrides),
        "toml": toml,
        "later": [_campaign(*one) for one in later],
        "environment": _flat(json.loads(ledger.meta("environment"))),
        "digest": ledger.digest(),
    }


def _overrides(written: Any, meant: Any, path: str = "") -> list[str]:
    """The `--set`s that make the study as it ran of the TOML as it was written; where the work was done is left out."""
    if written == meant and json.dumps(written, default=str) == json.dumps(meant, default=str):
        return []
    both = isinstance(written, dict) and isinstance(meant, dict) and set(written) <= set(meant) | {"resources"}
    if both and (not path or not any("." in key for key in meant)):
        keys = [key for key in meant if path or key != "resources"]
        return [o for key in keys for o in _overrides(written.get(key), meant[key], f"{path}.{key}" if path else key)]
    if isinstance(written, list) and isinstance(meant, list) and len(written) == len(meant) and isinstance(meant[0], dict):
        pairs = enumerate(zip(written, meant, strict=True))
        return [o for place, (old, new) in pairs for o in _overrides(old, new, f"{path}.{place}")]
    return [f"{path}={_toml(meant)}"]


def _toml(value: Any) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def _campaign(table: Any, grants: Grants) -> str:
    keys = {"name": table} if isinstance(table, str) else {"name": table["name"], **table}
    lines = ["[[attacks]]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    lines += ["[granted]", *(f"{key} = {_toml(value)}" for key, value in grants.model_dump().items())]
    return "\n".join(lines)


def _flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, item in value.items():
        flat += _flat(item) if isinstance(item, Mapping) else [(f"{before}{key}", str(item))]
    return flat
