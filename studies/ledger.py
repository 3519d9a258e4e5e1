"""Everything that a run sees and finds, written the moment it exists: SQLite for rows, safetensors for tensors.

A ledger holds no truth: no client's picture, no label (scores are numbers). It is written so that a run can be killed at
any point and go on: a file is complete before a row speaks of it, every row has a natural key, and writing the same fact
again changes nothing.
"""

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock
import torch

from attacks import Reconstruction
from attacks.exact.forecast import Forecast
from learning.catalogue import SettingsError
from learning.tensors import Tensors, Update, read_tensors, write_tensors
from studies.config import Grants, NamedAttack, Plan, named_attack, plan_from_json

LOCK_SECONDS = 15.0  # a run that was killed takes a moment to let go of its folder
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attacks (name TEXT PRIMARY KEY, settings TEXT NOT NULL, granted TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS forecasts (
    cell INTEGER, attack TEXT, probability REAL NOT NULL, sentence TEXT NOT NULL, PRIMARY KEY (cell, attack));
CREATE TABLE IF NOT EXISTS rounds (
    cell INTEGER, round INTEGER, accuracy REAL, loss REAL, PRIMARY KEY (cell, round));
CREATE TABLE IF NOT EXISTS observations (
    cell INTEGER, round INTEGER, client INTEGER, examples INTEGER NOT NULL, PRIMARY KEY (cell, round, client));
CREATE TABLE IF NOT EXISTS failures (
    cell INTEGER, round INTEGER, client INTEGER, reason TEXT NOT NULL, PRIMARY KEY (cell, round, client));
CREATE TABLE IF NOT EXISTS results (
    cell INTEGER, round INTEGER, client INTEGER, attack TEXT, status TEXT NOT NULL, reason TEXT NOT NULL,
    scores TEXT NOT NULL, loss REAL, seconds REAL NOT NULL, PRIMARY KEY (cell, round, client, attack));
"""


@dataclass(frozen=True, order=True)
class Victim:
    """One recorded update: which federation, which round, which client."""

    cell: int
    round: int
    client: int


@dataclass(frozen=True)
class Round:
    """The global model after a round (round 0: before the first); accuracy and loss are None where they were not measured."""

    cell: int
    round: int
    accuracy: float | None
    loss: float | None


@dataclass(frozen=True)
class Failure:
    """A client whose round came to nothing, and why."""

    victim: Victim
    reason: str


@dataclass(frozen=True)
class Result:
    """What one attack made of one update. `status`: "ok", "not applicable" or "failed".

    `reason`: why there is no result; where there is one, the attack's own verdict on it, if it has any.

    `scores`: of `studies.scores.Scores.row`; empty where there are none. `seconds`: of the attack alone.
    """

    victim: Victim
    attack: str
    status: str
    reason: str
    scores: dict[str, Any]
    loss: float | None
    seconds: float


class Ledger:
    """A run's folder. One process writes, any number read."""

    def __init__(self, folder: Path, *, write: bool):
        """Opens a run's folder. Raises `SettingsError` if it holds no run, or if another process is writing it."""
        self.folder = folder
        path = folder / "ledger.sqlite"
        if not path.exists():
            raise SettingsError(f"'{folder}' holds no run (there is no ledger.sqlite in it); give the folder of a run")
        self._lock = filelock.FileLock(folder / ".lock") if write else None
        if self._lock is not None:
            try:
                self._lock.acquire(timeout=LOCK_SECONDS)
            except filelock.Timeout:
                raise SettingsError(f"another process is writing '{folder}'; wait for it, or stop it") from None
        self._mutex = threading.RLock()
        with self._legible():
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=30)
        try:
            with self._legible():
                if write:
                    self._database.execute("PRAGMA journal_mode = WAL")
                    self._database.execute("PRAGMA synchronous = NORMAL")
                    self._database.executescript(SCHEMA)
                    for unfinished in folder.glob("cells/*/*/.*"):  # a kill in the middle of a file
                        unfinished.unlink()
            study = self.meta("study")
            with self._legible():
                self.plan = plan_from_json(study)
            self._database.create_function("undergoes", 4, self._undergoes, deterministic=True)
        except SettingsError:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path, plan: Plan, toml: str, environment: Mapping[str, Any]) -> Self:
        """A new run of a study in a folder that holds none. `toml` and `environment` are kept beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(folder / "ledger.sqlite", timeout=30) as database:
            database.executescript(SCHEMA)
            rows = {"study": plan.canonical(), "toml": toml, "environment": json.dumps(environment)}
            database.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", rows.items())
        database.close()
        (folder / "study.toml").write_text(toml, encoding="utf-8")
        ledger = cls(folder, write=True)
        ledger.add_attacks(plan.study.attacks, plan.study.granted)
        return ledger

    def close(self) -> None:
        """Gives the folder free for another writer."""
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: TracebackType | BaseException | type | None) -> None:
        self.close()

    # what the run is

    def meta(self, key: str) -> str:
        """A fact about the run: "study", "toml", "environment". Raises `SettingsError` if it is not there."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        with self._legible():
            if not rows:
                raise ValueError(f"it does not say its {key}")
            return str(rows[0][0])

    def add_attacks(self, attacks: list[NamedAttack], granted: Grants) -> None:
        """Adds attacks to those that every recorded update undergoes.

        Raises `SettingsError` if another attack of that name, or the same with other grants, was run before.
        """
        for named in attacks:
            row = (named.name, json.dumps(named.table(), sort_keys=True), granted.model_dump_json())
            known = self._rows("SELECT settings, granted FROM attacks WHERE name = ?", named.name)
            # a ledger of an earlier version does not hold grants that were added since
            if known and (known[0][0], Grants(**json.loads(known[0][1]))) != (row[1], granted):
                raise SettingsError(
                    f"attack '{named.name}' was run before with other settings or grants; give this one a name of its own "
                    f"with the key `as`"
                )
            self._write("INSERT OR IGNORE INTO attacks VALUES (?, ?, ?)", *row)

    def attacks(self) -> dict[str, tuple[Any, Grants]]:
        """Every attack's table and grants, by name, in the order in which they were added."""
        rows = self._rows("SELECT name, settings, granted FROM attacks ORDER BY rowid")
        with self._legible():
            return {name: (json.loads(settings), Grants(**json.loads(granted))) for name, settings, granted in rows}

    def record_forecast(self, cell: int, attack: str, forecast: Forecast) -> None:
        """Keeps what is to be expected of an attack on a cell's updates, before there are any."""
        values = (cell, attack, forecast.probability, forecast.sentence)
        self._write("INSERT OR IGNORE INTO forecasts VALUES (?, ?, ?, ?)", *values)

    def forecasts(self) -> dict[int, dict[str, Forecast]]:
        """What was to be expected of attacks, by cell and name; only cells that were asked about."""
        found: dict[int, dict[str, Forecast]] = {}
        if self._rows("SELECT 1 FROM sqlite_master WHERE name = 'forecasts'"):  # runs of earlier versions have none
            for cell, attack, probability, sentence in self._rows("SELECT * FROM forecasts ORDER BY cell, rowid"):
                found.setdefault(cell, {})[attack] = Forecast(probability, sentence)
        return found

    # what the server sees

    def record_model(self, cell: int, round: int, tensors: Tensors) -> None:
        """Keeps the global model as it is sent in that round."""
        write_tensors(self._model_path(cell, round), tensors)

    def model(self, cell: int, round: int) -> Tensors:
        """The global model as it was sent in that round."""
        return read_tensors(self._model_path(cell, round))

    def forget_model(self, cell: int, round: int) -> None:
        """Deletes a model that nothing needs any more."""
        self._model_path(cell, round).unlink(missing_ok=True)

    def record_update(self, victim: Victim, update: Update, examples: int) -> None:
        """Keeps what a client shared."""
        write_tensors(self._update_path(victim), update.named())
        self._write(
            "INSERT OR REPLACE INTO observations VALUES (?, ?, ?, ?)", victim.cell, victim.round, victim.client, examples
        )

    def update(self, victim: Victim) -> Update:
        """What a client shared."""
        return Update.of(read_tensors(self._update_path(victim)))

    def record_failure(self, failure: Failure) -> None:
        """Keeps that a client's round came to nothing."""
        victim = failure.victim
        self._write(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", victim.cell, victim.round, victim.client, failure.reason
        )

    def forget_failures(self, cell: int, round: int) -> None:
        """Deletes the failures of a round that is tried again."""
        self._write("DELETE FROM failures WHERE (cell, round) = (?, ?)", cell, round)

    def finish_round(self, row: Round) -> None:
        """Keeps that a round is over: a run that goes on does not repeat it."""
        self._write("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?)", row.cell, row.round, row.accuracy, row.loss)

    def rounds(self, cell: int | None = None) -> list[Round]:
        """The rounds that are over, of one cell or of all."""
        where = "" if cell is None else f" WHERE cell = {cell:d}"
        return [Round(*row) for row in self._rows(f"SELECT * FROM rounds{where} ORDER BY cell, round")]

    def failures(self) -> list[Failure]:
        """The clients' failures, in order."""
        return [Failure(Victim(*row[:3]), row[3]) for row in self._rows("SELECT * FROM failures ORDER BY cell, round, client")]

    def observations(self) -> dict[Victim, int]:
        """Every recorded update, with the number of examples that the client reported."""
        return {Victim(*row[:3]): row[3] for row in self._rows("SELECT * FROM observations ORDER BY cell, round, client")}

    def examples(self, victim: Victim) -> int:
        """How many examples the client reported for that update."""
        return self._rows("SELECT examples FROM observations WHERE (cell, round, client) = (?, ?, ?)", *_key(victim))[0][0]

    def before(self, victim: Victim, count: int) -> list[Victim]:
        """The last so many recorded updates of the same client in earlier rounds, in their order."""
        found = self._rows(
            "SELECT round FROM observations WHERE cell = ? AND round < ? AND client = ? ORDER BY round DESC LIMIT ?",
            *_key(victim), count,
        )  # fmt: skip
        return [replace(victim, round=round) for (round,) in reversed(found)]

    def alike(self, victim: Victim) -> list[Victim]:
        """The recorded updates of the same round and of as many examples, this one among them, in order."""
        found = self._rows(
            "SELECT client FROM observations WHERE (cell, round, examples) = "
            "(SELECT cell, round, examples FROM observations WHERE (cell, round, client) = (?, ?, ?)) ORDER BY client",
            *_key(victim),
        )
        return [replace(victim, client=client) for (client,) in found]

    def is_over(self, cell: int, round: int) -> bool:
        """Whether the round is: then no more of its updates will come."""
        return bool(self._rows("SELECT 1 FROM rounds WHERE (cell, round) = (?, ?)", cell, round))

    # what the attacks find

    def expected(self) -> int:
        """How many results there will be if no client fails."""
        return sum(
            named.undergone_by(cell, *place)
            for named in self.named_attacks().values()
            for cell in self.plan.cells
            for place in cell.recorded()
        )

    def asked_for(self) -> int:
        """How many results the updates that are recorded come to."""
        query = (
            "SELECT COUNT(*) FROM observations o CROSS JOIN attacks a WHERE undergoes(a.settings, o.cell, o.round, o.client)"
        )
        return self._rows(query)[0][0]

    def named_attacks(self) -> dict[str, NamedAttack]:
        """Every attack of the run by its name, in the order in which they were added."""
        return {name: named_attack(table) for name, (table, _) in self.attacks().items()}

    def _undergoes(self, settings: str, cell: int, round: int, client: int) -> bool:
        return _attack_of(settings).undergone_by(self.plan.cells[cell], round, client)

    def pending(self, limit: int) -> list[tuple[Victim, str]]:
        """Up to `limit` recorded updates and attacks on them that have no result yet, in order."""
        rows = self._rows(
            "SELECT o.cell, o.round, o.client, a.name FROM observations o CROSS JOIN attacks a "
            "WHERE undergoes(a.settings, o.cell, o.round, o.client) AND NOT EXISTS (SELECT 1 FROM results r WHERE "
            "r.cell = o.cell AND r.round = o.round AND r.client = o.client AND r.attack = a.name) "
            "ORDER BY o.cell, o.round, o.client, a.rowid LIMIT ?",
            limit,
        )
        return [(Victim(*row[:3]), row[3]) for row in rows]

    def record_result(self, result: Result, reconstruction: Reconstruction | None) -> None:
        """Keeps an attack's result and, where there is one, its reconstruction."""
        if reconstruction is not None:
            tensors = {"history": torch.tensor(reconstruction.history, dtype=torch.float64)}
            tensors |= {} if reconstruction.images is None else {"images": reconstruction.images}
            tensors |= {} if reconstruction.labels is None else {"labels": reconstruction.labels}
            tensors |= {} if reconstruction.certified is None else {"certified": reconstruction.certified}
            if reconstruction.counts_interval is not None:
                tensors |= dict(zip(("counts_low", "counts_high"), reconstruction.counts_interval, strict=True))
            write_tensors(self._result_path(result.victim, result.attack), tensors)
        scores = json.dumps(result.scores, sort_keys=True)
        row = (*_key(result.victim), result.attack, result.status, result.reason, scores, result.loss, result.seconds)
        self._write("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *row)

    def results(self) -> list[Result]:
        """Every result, in order of victims and attacks."""
        rows = self._rows(
            "SELECT r.* FROM results r JOIN attacks a ON a.name = r.attack ORDER BY r.cell, r.round, r.client, a.rowid"
        )
        with self._legible():
            return [Result(Victim(*row[:3]), row[3], row[4], row[5], json.loads(row[6]), row[7], row[8]) for row in rows]

    def reconstruction(self, victim: Victim, attack: str) -> Reconstruction:
        """What an attack restored of a recorded update."""
        tensors = read_tensors(self._result_path(victim, attack))
        history = tuple(tensors["history"].tolist())
        interval = (tensors["counts_low"], tensors["counts_high"]) if "counts_low" in tensors else None
        return Reconstruction(
            tensors.get("images"),
            tensors.get("labels"),
            history=history,
            counts_interval=interval,
            certified=tensors.get("certified"),
        )

    # the whole

    def counts(self) -> dict[str, int]:
        """How far the run is: rounds over (the starts not counted), updates recorded, results, failures."""
        queries = {
            "rounds": "SELECT COUNT(*) FROM rounds WHERE round > 0",
            "observations": "SELECT COUNT(*) FROM observations",
            "results": "SELECT COUNT(*) FROM results",
            "failed clients": "SELECT COUNT(*) FROM failures",
            "failed attacks": "SELECT COUNT(*) FROM results WHERE status = 'failed'",
        }
        return {name: self._rows(query)[0][0] for name, query in queries.items()}

    def digest(self) -> str:
        """SHA-256 of all that the run computed: two runs of one study on one machine have the same.

        Left out is what may differ: durations and the machine; and of a run in progress a model that its training lets go of
        meanwhile.
        """
        total = hashlib.sha256()
        for table in ("attacks", "rounds", "observations", "failures"):
            for row in self._rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3"):
                total.update(repr((table, *row)).encode())
        for result in self.results():
            total.update(repr((result.victim, result.attack, result.status, result.reason, result.loss)).encode())
            total.update(json.dumps(result.scores, sort_keys=True).encode())
        total.update(self.meta("study").encode())
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                content = hashlib.sha256(path.read_bytes()).digest()
                total.update(str(path.relative_to(self.folder)).encode() + content)
        return total.hexdigest()

    def _files(self) -> Iterator[Path]:
        return iter(sorted((self.folder / "cells").glob("**/[!.]*.safetensors")))

    def _model_path(self, cell: int, round: int) -> Path:
        return self.folder / "cells" / f"{cell:04d}" / f"round-{round:04d}" / "model.safetensors"

    def _update_path(self, victim: Victim) -> Path:
        return self._model_path(victim.cell, victim.round).with_name(f"client-{victim.client:04d}.safetensors")

    def _result_path(self, victim: Victim, attack: str) -> Path:
        return self._update_path(victim).with_suffix(f".{attack.replace(' ', '_')}.safetensors")

    @contextlib.contextmanager
    def _legible(self) -> Iterator[None]:
        """Makes a `SettingsError` that names the file of whatever cannot be read of it."""
        try:
            yield
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            path, reason = self.folder / "ledger.sqlite", str(error).splitlines()[0]
            raise SettingsError(f"'{path}' is not a ledger, or is damaged ({reason})") from None

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._mutex, self._legible():
            return self._database.execute(query, values).fetchall()

    def _write(self, query: str, *values: Any) -> None:
        with self._mutex, self._database:
            self._database.execute(query, values)


@lru_cache(maxsize=256)
def _attack_of(settings: str) -> NamedAttack:
    return named_attack(json.loads(settings))


def _key(victim: Victim) -> tuple[int, int, int]:
    return victim.cell, victim.round, victim.client
