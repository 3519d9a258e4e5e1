"""A study: one TOML file that says what is trained, how it is defended, and how it is attacked."""

import copy
import itertools
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
import pydantic
import torch
from pydantic import AfterValidator, BeforeValidator, Field

from attacks import ATTACKS, Attack
from defenses import DEFENSES, Defense, defended_update
from learning.catalogue import (
    Count,
    Index,
    NotNegative,
    Positive,
    SettingsError,
    build,
    choices,
    chosen_from,
    describe,
    name_of,
    placed,
    table_of,
)
from learning.data import DATA, ClientData, Data, client_batch
from learning.models import MODELS, Architecture
from learning.partitions import IID, PARTITIONS, Partition
from learning.tensors import Batch, derived_seed, generator
from learning.training import Training
from studies.wording import plural


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._,+=%-]{0,59}", value):
        raise SettingsError(f"{value!r} should be 1 to 60 letters, digits, spaces or ._,+=%-, the first a letter or digit")
    return value


Name: TypeAlias = Annotated[str, AfterValidator(_name)]


class Table(pydantic.BaseModel):
    """A table of the study's TOML: unknown keys and wrong types are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


def _training(value: Any) -> Any:
    return Training(**value) if isinstance(value, Mapping) else value


class Federation(Table):
    """Who takes part: `clients` hold the data, `clients_per_round` of them train in each of `rounds` rounds.

    `examples_per_round`: how many of its examples a client uses in a round; 0 is all (and the batch, where a gradient is
    shared). `same_examples`: a client uses the same ones in every round. `strategy`: the Flower strategy that aggregates.
    `test_examples`: how many examples of the test set measure the global accuracy after every `evaluate_every`-th round, the
    last one, and the last before the first attack; 0 is all. `timeout`: seconds to wait for nodes, and for a round's replies.
    `secure_aggregation`: the server sees the mean of a round's updates by their examples and no single one, and nothing of a
    round in which a client fails.
    """

    clients: Count = 10
    clients_per_round: Count = 2
    rounds: Count = 3
    examples_per_round: Index = 0
    same_examples: bool = False
    strategy: Literal["fedavg", "fedavgm", "fedadam", "fedadagrad", "fedyogi", "fedmedian", "fedtrimmedavg", "krum"] = "fedavg"
    test_examples: Index = 1000
    evaluate_every: Count = 1
    timeout: Positive = 600.0
    secure_aggregation: bool = False


class Start(Table):
    """The global model's state when the attacks begin.

    Untrained by default; `after_rounds` trains that many rounds of the same federation first, which are not recorded (the
    recorded ones have the same pictures as without them); `training` is how, where not as [training] says: a model with
    BatchNorm learns in train mode only, whatever mode it is attacked in. `checkpoint` is a file of weights, safetensors or
    PyTorch's (read with `weights_only`), relative to the study's folder.
    """

    after_rounds: Index = 0
    training: Annotated[Training | None, BeforeValidator(_training)] = None
    checkpoint: str | None = None


class Record(Table):
    """Which updates the server keeps and attacks: rounds are counted from 1 after `start.after_rounds`."""

    rounds: Literal["all"] | Annotated[list[Count], Field(min_length=1)] = "all"
    clients: Literal["all"] | Annotated[list[Index], Field(min_length=1)] = "all"


class Grants(Table):
    """What the attacker is given beyond the protocol: the true labels; a number of public pictures of the same kind.

    `earlier`: how many of a client's recorded rounds before come with an update, as rounds of the same examples.
    """

    labels: bool = False
    public: Index = 0
    earlier: Index = 0

    def in_words(self) -> list[str]:
        """What is given, one phrase each."""
        labels = ["the true labels"] if self.labels else []
        public = [f"{plural(self.public, 'public picture')} with labels"] if self.public else []
        earlier = [f"{plural(self.earlier, 'earlier round')} of the same examples"] if self.earlier else []
        return labels + public + earlier


class Metrics(Table):
    """What restored pictures are held against the true ones by, beside what always is.

    `lpips`: the distance that AlexNet sees (`studies.perceptual`), for which its weights must be there or to be downloaded.
    """

    lpips: bool = False


class Resources(Table):
    """Where the work is done.

    `engine`: "ray" runs clients and attacks in Ray actors; "ray-attacks" runs the attacks there and the clients in this
    process, one after the other, which is faster where a client's step takes less than its messages; "inline" runs everything
    in one process, for debugging.
    `when`: attacks run "live", while training goes on, or "after" it. `workers`: attack workers; `threads`: of each.
    `helpers`: further workers, of each of these, for the attacks whose work can be split (`spear`, `spear-plus`): in Ray.
    `worker_gpus`, `client_gpus`: fractions of a GPU of each worker and client. `client_cpus`: of each client.
    `queue`: attacks in flight at most; those on several victims of one round at once count as one. `timeout`: seconds after
    which one attack is given up.
    """

    engine: Literal["ray", "ray-attacks", "inline"] = "ray"
    when: Literal["live", "after"] = "live"
    workers: Count = 1
    threads: Count = 1
    helpers: Index = 0
    worker_gpus: NotNegative = 0.0
    client_cpus: Count = 1
    client_gpus: NotNegative = 0.0
    queue: Count = 8
    timeout: Positive = 3600.0

    @property
    def attackers(self) -> int:
        """Attack workers and their helpers."""
        return self.workers * (1 + self.helpers)

    @pydantic.model_validator(mode="after")
    def _helpers_are_in_ray(self) -> Self:
        if self.helpers and self.engine == "inline":
            raise ValueError(
                f'helpers = {self.helpers}: they are in Ray; choose engine = "ray" or "ray-attacks", or no helpers'
            )
        return self


@dataclass(frozen=True)
class NamedDefense:
    """A chain of defenses, the first closest to the data, under the name that the report gives it. None is no defense."""

    name: str
    chain: tuple[Defense, ...]

    @property
    def kind(self) -> str:
        """The names of the chain's techniques, without their strengths; its own name where there are none."""
        return " + ".join(name_of(DEFENSES, link) for link in self.chain) or self.name


@dataclass(frozen=True)
class NamedAttack:
    """An attack under the name that the report gives it. `knows_defense`: whether it is told how the client defends itself.

    `sample`: the share of the recorded updates that undergo it, in (0, 1].
    """

    name: str
    attack: Attack
    knows_defense: bool = False
    sample: float = 1.0

    def table(self) -> dict[str, Any]:
        """The attack as a TOML table with every setting in it, so that it stays what it is when a default changes."""
        told: dict[str, Any] = {"knows_defense": True} if self.knows_defense else {}
        share = {"sample": self.sample} if self.sample < 1 else {}
        return {"as": self.name, **told, **share, **table_of(ATTACKS, self.attack)}

    def undergone_by(self, cell: "Cell", round: int, client: int) -> bool:
        """Whether an update is in the sample: the same ones behind every defense, and in every larger sample."""
        return self.sample >= 1 or _drawn(cell.seed, cell.study.counted(round), client) < self.sample


@lru_cache(maxsize=1 << 20)
def _drawn(seed: int, round: int, client: int) -> float:
    return float(np.random.default_rng(derived_seed(seed, "sample", round, client)).random())


def _table(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise SettingsError(f"{value!r} should be a table")
    return dict(value)


def _named_defense(value: Any) -> NamedDefense:
    if isinstance(value, NamedDefense):
        return value
    table = _table(value)
    own_name = table.pop("as", None)
    if "chain" in table or table.get("name") == "none":
        links = table.pop("chain", [])
        others = [key for key in table if (key, table[key]) != ("name", "none")]
        if others:
            raise SettingsError(f"{others[0]}: unknown key beside a chain or 'none'; put it into a table of the chain")
        if not isinstance(links, list):
            raise SettingsError(f"chain = {links!r} should be a list of tables, one a defense")
        chain = tuple(_link(index, link) for index, link in enumerate(links))
    else:
        links, chain = [table], (build({"none": Defense} | DEFENSES, table),)
    return NamedDefense(_own_name(own_name, "+".join(_table(link)["name"] for link in links) or "none"), chain)


def _link(index: int, table: object) -> Defense:
    try:
        return build(DEFENSES, table)
    except SettingsError as error:
        raise placed(f"chain[{index}]", error) from None


def named_attack(value: Any) -> NamedAttack:
    if isinstance(value, NamedAttack):
        return value
    table = _table(value)
    own_name, knows, sample = table.pop("as", None), table.pop("knows_defense", False), table.pop("sample", 1.0)
    if not isinstance(knows, bool):
        raise SettingsError(f"knows_defense = {knows!r} should be true or false")
    if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 < sample <= 1:
        raise SettingsError(f"sample = {sample!r} should be the share of the updates to attack, more than 0 and at most 1")
    attack = build(ATTACKS, table)
    if knows and not attack.adapts:
        able = ", ".join(name for name, cls in ATTACKS.items() if cls.adapts)
        raise SettingsError(
            f"knows_defense = true: this attack makes no use of it; leave it out, or choose one that does: {able}"
        )
    return NamedAttack(_own_name(own_name, str(table.get("name"))), attack, knows, float(sample))


def _own_name(given: object, otherwise: str) -> str:
    if given is not None and not isinstance(given, str):
        raise SettingsError(f"as = {given!r} should be a string")
    try:
        return _name(otherwise if given is None else given)
    except SettingsError as error:
        raise SettingsError(f"as = {error}") from None


def _unique(kind: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"{kind}: two are called '{twice[0]}'; give one of them another name with the key `as`")


class Study(Table):
    """Everything that decides what a run computes. `[grid]` and the seeds multiply it into cells.

    `reference`: the attack whose results at the grid's first point the report prices all others against.
    """

    name: Name
    description: str = ""
    seeds: Annotated[list[Index], Field(min_length=1)] = [0]
    data: Annotated[Data, BeforeValidator(chosen_from(DATA))]
    partition: Annotated[Partition, BeforeValidator(chosen_from(PARTITIONS))] = IID()
    model: Annotated[Architecture, BeforeValidator(chosen_from(MODELS))]
    start: Start = Start()
    training: Annotated[Training, BeforeValidator(_training)] = Training()
    federation: Federation = Federation()
    record: Record = Record()
    granted: Grants = Grants()
    defenses: Annotated[list[Annotated[NamedDefense, BeforeValidator(_named_defense)]], Field(min_length=1)] = [
        NamedDefense("none", ())
    ]
    attacks: list[Annotated[NamedAttack, BeforeValidator(named_attack)]] = []
    reference: str = ""
    metrics: Metrics = Metrics()
    resources: Resources = Resources()
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        federation, start = self.federation, self.start
        if federation.clients_per_round > federation.clients:
            raise SettingsError(
                f"federation.clients_per_round = {federation.clients_per_round} is more than "
                f"federation.clients = {federation.clients}; lower it"
            )
        for place, training in self._trainings.items():
            _check_training(place, training)
        if self.training.shared == "gradient" and federation.examples_per_round not in (0, self.training.batch_size):
            raise SettingsError(
                f"federation.examples_per_round = {federation.examples_per_round} does not fit a shared gradient, "
                f"which is of one batch: leave it out, or set training.batch_size to it"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise SettingsError(f"seeds = {self.seeds} names a seed twice; the same run is no second sample, leave it out")
        if start.after_rounds and start.checkpoint:
            raise SettingsError("start.after_rounds and start.checkpoint exclude each other; leave one out")
        if start.training and start.checkpoint:
            raise SettingsError("start.training and start.checkpoint exclude each other; leave one out")
        if self.record.clients != "all" and max(self.record.clients) >= federation.clients:
            raise SettingsError(
                f"record.clients = {self.record.clients} names a client beyond the last, {federation.clients - 1}"
            )
        if self.record.clients != "all" and federation.secure_aggregation:
            raise SettingsError(
                f"record.clients = {self.record.clients} picks clients, and under federation.secure_aggregation the server "
                f"sees none on its own; leave it out"
            )
        if self.record.rounds != "all" and max(self.record.rounds) > federation.rounds:
            raise SettingsError(
                f"record.rounds = {self.record.rounds} names a round beyond federation.rounds = {federation.rounds}"
            )
        _unique("defenses", [defense.name for defense in self.defenses])
        names = [attack.name for attack in self.attacks]
        _unique("attacks", names)
        check_grants(self.attacks, self.granted)
        check_earlier(self.granted, federation)
        if self.reference and self.reference not in names:
            raise SettingsError(f"reference = '{self.reference}' is no attack of this study; {choices(self.reference, names)}")
        for index, defense in enumerate(self.defenses):
            for training in self._trainings.values():
                try:
                    defended_update(defense.chain, training)
                except ValueError as error:
                    raise SettingsError(f"defenses[{index}] ('{defense.name}'): {error}") from None
        return self

    @property
    def _trainings(self) -> dict[str, Training]:
        """Every table that says how clients train, by its place."""
        return {"training": self.training} | ({"start.training": self.start.training} if self.start.training else {})

    def training_in(self, round: int) -> Training:
        """What the server orders in a round, counted from the federation's first."""
        before = round <= self.start.after_rounds
        return self.start.training if before and self.start.training else self.training

    @property
    def client_data(self) -> ClientData:
        """What the clients hold and how many examples each uses in a round that may be attacked."""
        return self.client_data_in(self.rounds)

    def client_data_in(self, round: int) -> ClientData:
        """What the clients hold and how many examples each uses in a round, counted from the federation's first."""
        training = self.training_in(round)
        examples = training.batch_size if training.shared == "gradient" else self.federation.examples_per_round
        return ClientData(
            data=self.data,
            partition=self.partition,
            clients=self.federation.clients,
            examples=examples,
            repeated=self.federation.same_examples,
        )

    @property
    def rounds(self) -> int:
        """All rounds of one federation, those before the attacks begin included."""
        return self.start.after_rounds + self.federation.rounds

    def counted(self, round: int) -> int:
        """A round's number: 1 for the first that may be attacked, and -1, -2 and so on for those before, from the first.

        Chance is drawn by it: what comes before the attacks changes the model that is attacked, and not the clients, their
        pictures and their draws, so that an attack on an untrained and on a trained model is asked of the same victims.
        """
        after = self.start.after_rounds
        return round - after if round > after else -round

    def recorded(self, round: int, client: int) -> bool:
        """Whether the update of that client in that round (counted from the federation's first) is kept and attacked."""
        counted = self.counted(round)
        right_round = counted >= 1 and (self.record.rounds == "all" or counted in self.record.rounds)
        return right_round and (self.record.clients == "all" or client in self.record.clients)


def _check_training(place: str, training: Training) -> None:
    if training.shared == "gradient" and (training.epochs, training.steps, training.momentum) != (1, 0, 0.0):
        raise SettingsError(
            f"{place}.shared = 'gradient' is one step: leave out epochs, steps and momentum, or share a 'delta'"
        )
    if training.steps and training.epochs != 1:
        raise SettingsError(f"{place}.steps = {training.steps} takes the place of {place}.epochs; leave one out")


class Campaign(Table):
    """Attacks on a federation that was recorded before: what `curious attack` reads."""

    attacks: Annotated[list[Annotated[NamedAttack, BeforeValidator(named_attack)]], Field(min_length=1)]
    granted: Grants = Grants()
    resources: Resources = Resources()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("attacks", [attack.name for attack in self.attacks])
        check_grants(self.attacks, self.granted)
        return self


def check_grants(attacks: list[NamedAttack], granted: Grants) -> None:
    """Raises `SettingsError` if an attack is built on something that is not granted."""
    remedies = {
        "labels": "needs the labels; set `labels = true` in the table [granted]",
        "public": "needs public pictures; set `public = 100` in the table [granted]",
    }
    for index, named in enumerate(attacks):
        parts = [named.attack, getattr(named.attack, "labels", None)]
        needs = [need for part in parts if isinstance(part, Attack) for need in part.needs]
        if lacking := [need for need in needs if not getattr(granted, need)]:
            raise SettingsError(f"attacks[{index}] ('{named.name}') {remedies[lacking[0]]}")


def check_earlier(granted: Grants, federation: Federation) -> None:
    """Raises `SettingsError` if earlier rounds of the same examples are granted, and there are none."""
    if granted.earlier and not federation.same_examples:
        raise SettingsError(
            f"granted.earlier = {granted.earlier} is rounds of the same examples, and clients draw others in every round; set "
            f"`same_examples = true` in the table [federation]"
        )
    if granted.earlier and federation.secure_aggregation:
        raise SettingsError(
            f"granted.earlier = {granted.earlier} is rounds of one client, and under federation.secure_aggregation the "
            f"server sees none on its own; leave one out"
        )


@dataclass(frozen=True)
class Cell:
    """One federation: a point of the grid, under one defense, with one seed.

    `axes`: the grid's values by key. `study` has them set.
    """

    index: int
    axes: dict[str, Any]
    study: Study
    defense: NamedDefense
    seed: int

    def chosen(self, round: int) -> list[int]:
        """The clients that train in a round, in order: they depend on the seed and the round alone, not on the defense."""
        federation = self.study.federation
        rng = np.random.default_rng(derived_seed(self.seed, "clients", self.study.counted(round)))
        return sorted(rng.choice(federation.clients, size=federation.clients_per_round, replace=False).tolist())

    def seen(self, round: int) -> list[int]:
        """The clients under whose numbers the server sees updates: all that train, or the first, who stands for their sum."""
        chosen = self.chosen(round)
        return chosen[:1] if self.study.federation.secure_aggregation else chosen

    def behind(self, round: int, client: int) -> list[int]:
        """The clients whose examples are in the update that the server sees under that number."""
        return self.chosen(round) if self.study.federation.secure_aggregation else [client]

    def recorded(self) -> list[tuple[int, int]]:
        """Rounds and clients whose updates are kept and attacked, if no client fails."""
        rounds = range(1, self.study.rounds + 1)
        return [(round, client) for round in rounds for client in self.seen(round) if self.study.recorded(round, client)]

    def batch(self, round: int, client: int) -> Batch:
        """The examples that a client trains on in a round."""
        return client_batch(self.study.client_data_in(round), client, self.study.counted(round), self.seed)

    def draws(self, round: int, client: int) -> torch.Generator:
        """Where a client's training and its defenses take their chance from in a round: afresh at every call."""
        return generator(self.seed, "client", client, self.study.counted(round))

    @property
    def setting(self) -> str:
        """The grid's point in words; empty where there is no grid."""
        return ", ".join(_axis(key, value) for key, value in self.axes.items())


def place_of(axes: Mapping[str, Any]) -> str:
    """Where in the grid a fault is, to begin a message with; empty where there is no grid."""
    return f"at {', '.join(f'{key} = {_shown(value)}' for key, value in axes.items())}: " if axes else ""


def _axis(key: str, value: Any) -> str:
    if _of_its_own(key, value):
        return str(value["as"])
    name = key.split(",")[0].split(".")[-1].replace("_", " ")
    return _shown(value) if isinstance(value, Mapping) or name in ("model", "data", "partition") else f"{name} {value}"


def _shown(value: object) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    named = [str(value[key]) for key in ("name", "shared") if key in value]
    return " ".join(named + [f"{key}={part}" for key, part in value.items() if key not in ("name", "shared")])


@dataclass(frozen=True)
class Plan:
    """A study as it was written and what it means: `raw` is the TOML with the overrides, `cells` what it multiplies to."""

    raw: dict[str, Any]
    study: Study
    cells: tuple[Cell, ...]

    def canonical(self) -> str:
        """The study as one line of JSON, the same for the same study; where the work is done is not part of it."""
        ordered = json.loads(json.dumps(self._asked(), sort_keys=True))
        if "grid" in self.raw:  # its order is the cells' order
            ordered["grid"] = {axis: ordered["grid"][axis] for axis in self.raw["grid"]}
        return json.dumps(ordered, separators=(",", ":"))

    def differs_from(self, other: "Plan") -> list[str]:
        """The top-level keys in which two studies differ; where the work is done is not compared."""
        mine, its = json.loads(self.canonical()), json.loads(other.canonical())
        return sorted(key for key in mine | its if json.dumps(mine.get(key)) != json.dumps(its.get(key)))

    def _asked(self) -> dict[str, Any]:
        return {key: value for key, value in self.raw.items() if key != "resources"}


def read_plan(path: Path, overrides: list[str] | None = None) -> Plan:
    """Reads a study's TOML, with `key=value` overrides put in. Raises `SettingsError` that names the file and the place."""
    raw = read_toml(path)
    try:
        for override in overrides or []:
            _override(raw, override)
        _resolve_checkpoints(raw, path.parent)
        return make_plan(raw)
    except SettingsError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def _resolve_checkpoints(raw: dict[str, Any], folder: Path) -> None:
    """Makes the paths of checkpoints absolute, those on the grid's axes too.

    Raises `SettingsError` for a relative path that leaves the study's folder: a study from elsewhere reads nothing around it.
    """

    def resolved(path: str) -> str:
        found = (folder / path).resolve()
        if not Path(path).is_absolute() and not found.is_relative_to(folder.resolve()):
            raise SettingsError(
                f"start.checkpoint = '{path}': leaves the study's folder; give an absolute path if that is meant, or put the "
                f"checkpoint beside the study"
            )
        return str(found)

    grid = raw.get("grid")
    axes = grid if isinstance(grid, dict) else {}
    starts = axes.get("start")
    for start in [raw.get("start"), *(starts if isinstance(starts, list) else [])]:
        if isinstance(start, dict) and isinstance(start.get("checkpoint"), str):
            start["checkpoint"] = resolved(start["checkpoint"])
    checkpoints = axes.get("start.checkpoint")
    if isinstance(checkpoints, list):
        axes["start.checkpoint"] = [resolved(c) if isinstance(c, str) else c for c in checkpoints]
    for table in (value for values in axes.values() if isinstance(values, list) for value in values):
        if isinstance(table, dict) and isinstance(table.get("start.checkpoint"), str):
            table["start.checkpoint"] = resolved(table["start.checkpoint"])


def read_campaign(path: Path, overrides: list[str] | None = None) -> Campaign:
    """Reads a TOML of attacks. Raises `SettingsError` that names the file and the place."""
    raw = read_toml(path)
    try:
        for override in overrides or []:
            _override(raw, override)
        try:
            return Campaign(**raw)
        except pydantic.ValidationError as error:
            raise SettingsError(describe(error, Campaign, raw)) from None
    except SettingsError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises `SettingsError` that names the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"cannot read the file '{path}': {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"'{path}' is not a text file in UTF-8; a study is TOML") from None
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: a number may be too long, a nesting too deep
        raise SettingsError(f"'{path}' is not TOML: {error}") from None


@lru_cache(maxsize=8)
def plan_from_json(text: str) -> Plan:
    """The plan of a study that `Plan.canonical` wrote."""
    return make_plan(json.loads(text))


AXES = ("data", "partition", "model", "start", "training", "federation", "record")


def make_plan(raw: dict[str, Any]) -> Plan:
    """Checks the study at every point of its grid. Raises `SettingsError`."""
    study = _validated(raw)
    cells: list[Cell] = []
    seen: set[str] = set()
    points = math.prod(len(values) for values in study.grid.values()) * len(study.defenses) * len(study.seeds)
    if points > 100_000:
        raise SettingsError(f"grid: {points} cells are too many; split the study (100,000 at most)")
    for values in itertools.product(*study.grid.values()):
        axes = dict(zip(study.grid, values, strict=True))
        point = copy.deepcopy({key: value for key, value in raw.items() if key != "grid"})
        keys = [pair for axis, value in axes.items() for pair in _set_by(axis, value)]
        for key, value in sorted(keys, key=lambda pair: pair[0].count(".")):  # a table first, then its keys
            if key.split(".")[0] not in AXES:
                raise SettingsError(f"grid.'{key}': an axis may not vary this; {choices(key, list(AXES))}, and their keys")
            try:
                _put(point, key, copy.deepcopy(value))  # another axis may write into the table
            except SettingsError as error:
                raise SettingsError(f"grid.'{key}': {error}") from None
        where = place_of(axes)
        at_point = _validated(point, where)
        if (meant := repr(at_point)) in seen:
            raise SettingsError(f"{where}grid: another point is the same study; leave one of them out")
        seen.add(meant)
        cells += [
            Cell(len(cells) + i, axes, _trained(at_point, defense), defense, seed)
            for i, (defense, seed) in enumerate(itertools.product(at_point.defenses, at_point.seeds))
        ]
    return Plan(raw, study, tuple(cells))


def _trained(study: Study, defense: NamedDefense) -> Study:
    """The study with the model that its clients train behind the defense."""
    model = study.model
    for link in defense.chain:
        model = link.architecture(model)
    return study if model is study.model else study.model_copy(update={"model": model})


def _set_by(axis: str, value: Any) -> list[tuple[str, Any]]:
    """The keys that a value of an axis sets: one, each of "a, b", or all in the table of an axis of its own."""
    if _of_its_own(axis, value):
        if not isinstance(value.get("as"), str):
            raise SettingsError(f"grid.{axis}: {_shown(value)} needs a name for the report; set it with the key `as`")
        return [(key, part) for key, part in value.items() if key != "as"]
    return [(key.strip(), value) for key in axis.split(",")]


def _of_its_own(axis: str, value: object) -> bool:
    """Whether the axis is none of the study's keys, and its values are tables of such keys."""
    return isinstance(value, Mapping) and re.split(r"[.,]", axis)[0].strip() not in AXES


def _validated(raw: dict[str, Any], where: str = "") -> Study:
    try:
        return Study(**raw)
    except pydantic.ValidationError as error:
        raise SettingsError("\n".join(where + line for line in describe(error, Study, raw).splitlines())) from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"--set {override}: should be key=value, like federation.rounds=1")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    try:
        _put(raw, key.strip(), value)
    except SettingsError as error:
        raise SettingsError(f"--set {override}: {error}") from None


def _put(raw: dict[str, Any], key: str, value: object) -> None:
    """Sets a dotted key; a list of tables is entered by position or by its tables' `as` or `name`."""
    at: Any = raw
    *path, last = key.split(".")
    for part in path:
        place = _place(at, part, key)
        if isinstance(at, dict):
            at.setdefault(place, {})
        if isinstance(at[place], str):  # a bare name is short for a table
            at[place] = {"name": at[place]}
        at = at[place]
    at[_place(at, last, key)] = value


def _place(at: object, part: str, key: str) -> str | int:
    """Where `part` leads in a table or a list of tables."""
    if isinstance(at, dict):
        return part
    if not isinstance(at, list):
        raise SettingsError(f"'{key}' leads into a value that is not a table")
    names = [str(t.get("as", t.get("name", i))) if isinstance(t, dict) else str(t) for i, t in enumerate(at)]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(at):
        return int(part)
    raise SettingsError(f"'{key}': there is no '{part}'; {choices(part, names)}, or a position, from 0")
