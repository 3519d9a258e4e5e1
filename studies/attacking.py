"""Attacks every recorded update that has no result yet, and scores what comes back.

The ledger is the queue: training writes updates into it, and this loop takes them out, so that training never waits for an
attack, memory holds no more than is in flight, and a run that was killed goes on with what is left.
"""

import copy
import math
import threading
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from attacks import ATTACKS, Granted, Observation
from attacks.workers import Job, Outcome, Pool
from defenses import BatchDefense, Known, defended_update
from learning.catalogue import name_of
from learning.data import pictures_of, public_examples
from learning.tensors import Batch, Update, derived_seed, load_state
from learning.training import Training, plain_step, set_mode
from studies.config import Cell, Grants, named_attack
from studies.ledger import Ledger, Result, Victim
from studies.scores import GALLERY, score


class Interrogation:
    """Attacks a ledger's updates in a pool of workers."""

    def __init__(self, ledger: Ledger, pool: Pool):
        self._ledger, self._pool = ledger, pool
        self._attacks = {name: (named_attack(table), granted) for name, (table, granted) in ledger.attacks().items()}
        self._in_flight: dict[tuple[Victim, str], Victim] = {}  # and the first of the victims that it is together with
        self._waiting = 0  # attacks that wait for the rest of their round
        self._at_once: dict[tuple[int, int, str, int], int] = {}
        # attacks on an update, and updates of a round, come one after the other, and are about the same objects
        kept = 2 + max((granted.earlier for _, granted in self._attacks.values()), default=0)
        self._model = lru_cache(maxsize=kept)(self._model_as_sent)
        self._update = lru_cache(maxsize=kept)(ledger.update)

    def run(self, no_more: threading.Event) -> None:
        """Works until `no_more` is set (training is over) and every recorded update has a result of every attack."""
        while True:
            last = no_more.is_set()
            self._fill(last)
            if not self._in_flight:
                if last:
                    return
                no_more.wait(0.1)
                continue
            for outcome in self._pool.collect(timeout=0.2):
                self._keep(outcome)

    def _fill(self, last: bool) -> None:
        """Hands over what there is room for. `last`: no more updates will come."""
        room = self._pool.capacity - len({(first, name) for (_, name), first in self._in_flight.items()})
        if room <= 0:
            return
        passed_over = len(self._in_flight) + self._waiting
        self._waiting = 0
        for victim, name in self._ledger.pending(self._pool.capacity + passed_over):
            if room == 0 or (victim, name) in self._in_flight:
                continue
            victims = self._together(victim, name, last)
            if victims:
                self._pool.submit(*[self._job(one, name) for one in victims])
                self._in_flight |= {(one, name): victims[0] for one in victims}
                room -= 1
            else:
                self._waiting += 1

    def _together(self, victim: Victim, name: str, last: bool) -> list[Victim]:
        """The victims of the round to attack at once, this one among them; none where there may be more of them soon.

        The same for all of these, and every worker has some, so that a study repeated with as many workers gives the same bits.
        """
        most = self._victims_at_once(victim, name)
        if most == 1:
            return [victim]
        if not last and not self._ledger.is_over(victim.cell, victim.round):
            return []
        named, cell = self._attacks[name][0], self._ledger.plan.cells[victim.cell]
        alike = [one for one in self._ledger.alike(victim) if named.undergone_by(cell, one.round, one.client)]
        size = min(most, math.ceil(len(alike) / self._pool.workers))
        first = alike.index(victim) // size * size
        return alike[first : first + size]

    def _victims_at_once(self, victim: Victim, name: str) -> int:
        key = (victim.cell, victim.round, name, self._ledger.examples(victim))
        if key not in self._at_once:
            job = self._job(victim, name)
            self._at_once[key] = job.attack.at_once(job.observation)
        return self._at_once[key]

    def _job(self, victim: Victim, name: str) -> Job:
        named, grants = self._attacks[name]
        cell = self._ledger.plan.cells[victim.cell]
        kind = name_of(ATTACKS, named.attack)  # not its own name: the same attack with other settings has the same start
        seed = derived_seed(cell.seed, "attack", kind, cell.study.counted(victim.round), victim.client)
        observation = self.observation(victim, grants)
        if named.knows_defense:
            observation = _knowing(observation, cell)
        return Job((victim, name), named.attack, observation, seed)

    def observation(self, victim: Victim, grants: Grants) -> Observation:
        """What the server knew of that update, and what the study grants beside it."""
        earlier = [self._observation(before, grants) for before in self._ledger.before(victim, grants.earlier)]
        return replace(self._observation(victim, grants), earlier=tuple(earlier))

    def _observation(self, victim: Victim, grants: Grants) -> Observation:
        cell = self._ledger.plan.cells[victim.cell]
        pictures = pictures_of(cell.study.data)
        return Observation(
            round=victim.round,
            client=victim.client,
            model=self._model(victim.cell, victim.round),
            update=self._update(victim),
            training=_as_of_one_client(cell),
            examples=self._ledger.examples(victim),
            image_shape=pictures.image_shape,
            classes=pictures.classes,
            granted=_granted(cell, victim, grants),
        )

    def _model_as_sent(self, cell: int, round: int) -> nn.Module:
        study = self._ledger.plan.cells[cell].study
        pictures = pictures_of(study.data)
        model = study.model.build(pictures.image_shape, pictures.classes, seed=0)
        load_state(model, self._ledger.model(cell, round))
        return set_mode(model, study.training)

    def _keep(self, outcome: Outcome) -> None:
        key = outcome.key
        assert isinstance(key, tuple)
        victim, name = key
        scores, loss, reason, found = {}, None, outcome.reason, outcome.reconstruction
        if found is not None:
            cell = self._ledger.plan.cells[victim.cell]
            classes, others = pictures_of(cell.study.data).classes, gallery(cell, self._attacks[name][1])
            proven = found.certified is not None and found.images is not None
            seen = given(cell, victim, self._model(victim.cell, victim.round)) if proven else None
            scores = score(found, truth(cell, victim), classes, others, seen, cell.study.metrics.lpips).row()
            reason, loss = found.verdict, found.loss
        result = Result(victim, name, outcome.status, reason, scores, loss, outcome.seconds)
        self._ledger.record_result(result, found)
        del self._in_flight[key]


def truth(cell: Cell, victim: Victim) -> Batch:
    """The examples behind an update, drawn again as the clients drew them."""
    clients = cell.behind(victim.round, victim.client)
    batches = [cell.batch(victim.round, client) for client in clients]
    return Batch(torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches]))


def given(cell: Cell, victim: Victim, model: nn.Module) -> Tensor | None:
    """The pictures behind an update as defenses changed them for the model, drawn again; None where no defense does.

    `model`: as the server sent it.
    """
    if not any(isinstance(defense, BatchDefense) for defense in cell.defense.chain):
        return None
    seen: list[Tensor] = []

    def step(model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        seen.append(batch.images.detach())
        return plain_step(model, batch, rng)

    for client in cell.behind(victim.round, victim.client):
        compute = defended_update(cell.defense.chain, cell.study.training, step)
        compute(copy.deepcopy(model), cell.batch(victim.round, client), cell.draws(victim.round, client))
    return torch.cat(seen) if seen else None


def _as_of_one_client(cell: Cell) -> Training:
    """The work behind an update: of clients whose updates were added up, as one client with batches of all of theirs."""
    study = cell.study
    together = study.federation.clients_per_round if study.federation.secure_aggregation else 1
    return replace(study.training, batch_size=together * study.training.batch_size)


def gallery(cell: Cell, grants: Grants) -> Tensor:
    """The pictures from which a restored one is to be told: of the test set, and none that the attacker was granted.

    A small test set gives fewer than `GALLERY` less one.
    """
    return public_examples(cell.study.data, GALLERY - 1, cell.seed, skip=grants.public).images


def _knowing(observation: Observation, cell: Cell) -> Observation:
    """The same, and the earlier ones with it, with the client's defense granted."""
    granted = replace(observation.granted, defense=Known(cell.defense.chain))
    return replace(observation, granted=granted, earlier=tuple(_knowing(one, cell) for one in observation.earlier))


def _granted(cell: Cell, victim: Victim, grants: Grants) -> Granted:
    labels = truth(cell, victim).labels.sort().values if grants.labels else None
    if not grants.public:
        return Granted(labels=labels)
    public = public_examples(cell.study.data, grants.public, cell.seed)
    return Granted(labels=labels, public=public.images, public_labels=public.labels)
