"""The pool: outcomes for everything, a dead worker replaced, a stuck one given up."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from attacks import Attack, Granted, NotApplicable, Null, Observation, Reconstruction
from attacks.helpers import helpers
from attacks.matching import InvertingGradients
from attacks.workers import InlinePool, Job, Outcome, Pool, RayPool, run_job, run_jobs, run_on, start_ray, stop_ray
from learning.catalogue import settings
from learning.models import MLP
from learning.tensors import Batch, Update
from learning.training import Training, gradient


@settings
class Sleeps(Attack):
    seconds: float = 60.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        time.sleep(self.seconds)
        return Reconstruction()


@settings
class Dies(Attack):
    """Kills its worker as often as there are files named in the folder."""

    folder: str

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        for lives in sorted(Path(self.folder).iterdir()):
            lives.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return Reconstruction(labels=torch.eye(10)[:1])


@settings
class Raises(Attack):
    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        raise ZeroDivisionError("by nought")


@settings
class Declines(Attack):
    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        raise NotApplicable("there is no such layer")


@settings
class Counts(Attack):
    """Says how many victims it was given at once, and refuses where one of them is client 9."""

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        return self.reconstruct_all([observation], [rng])[0]

    def reconstruct_all(self, observations: Sequence[Observation], rngs: Sequence[torch.Generator]) -> list[Reconstruction]:
        if any(one.client == 9 for one in observations):
            raise NotApplicable("not client 9")
        return [Reconstruction(loss=float(len(observations))) for _ in observations]


@settings
class Threads(Attack):
    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        return Reconstruction(loss=float(torch.get_num_threads()))


@settings
class Holds(Attack):
    """Says what it was given: the model's, the update's and the public pictures' entries in one sum."""

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        public = observation.granted.public
        assert public is not None
        given = [*observation.model.parameters(), *observation.update.parameters.values(), public]
        return Reconstruction(loss=float(sum(tensor.double().sum() for tensor in given)))


@settings
class Shares(Attack):
    """Parts, for everybody and three times, or in three turns; says in how many processes.

    A helper dies if there is such a file.
    """

    file: str
    turns: bool

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        given = (os.getpid(), self.file)
        if self.turns:
            turns = helpers().turns(process, given, lambda: 1)
            processes = [next(turns) for _ in range(3)]
        else:
            processes = [helpers().call(process, given, [0, 1]) for _ in range(3)]
        assert [len(call) for call in processes] == [2, 2, 2]
        return Reconstruction(loss=float(len({number for call in processes for number in call})))


def process(leader: int, file: str, part: int) -> int:
    if os.getpid() != leader and Path(file).exists():
        Path(file).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def observation() -> Observation:
    model = MLP(width=4).build((1, 8, 8), 10, seed=0)
    update = Update(gradient(model, Batch(torch.rand(1, 1, 8, 8), torch.tensor([3]))))
    return Observation(1, 0, model, update, Training(), 1, (1, 8, 8), 10)


def all_of(pool: Pool, jobs: list[Job], seconds: float = 120) -> dict[object, Outcome]:
    for job in jobs:
        pool.submit(job)
    return collected(pool, len(jobs), seconds)


def collected(pool: Pool, count: int, seconds: float = 120) -> dict[object, Outcome]:
    outcomes: dict[object, Outcome] = {}
    deadline = time.monotonic() + seconds
    while len(outcomes) < count:
        if time.monotonic() > deadline:
            pool.close()  # or the next test's pool would wait for what this one holds of the cluster
            pytest.fail(f"only {sorted(map(str, outcomes))} came back")
        outcomes |= {outcome.key: outcome for outcome in pool.collect(timeout=0.5)}
    return outcomes


def test_an_attacks_exception_and_its_refusal_are_outcomes():
    seen = observation()
    assert run_job(Job("a", Raises(), seen, 0)).reason == "ZeroDivisionError: by nought"
    assert run_job(Job("a", Raises(), seen, 0)).status == "failed"
    declined = run_job(Job("b", Declines(), seen, 0))
    assert (declined.status, declined.reason) == ("not applicable", "there is no such layer")
    assert run_job(Job("c", Null(), seen, 0)).status == "ok"


def test_an_observation_moves_whole_and_its_original_stays():
    granted = Granted(labels=torch.tensor([3]), public=torch.rand(2, 1, 8, 8), public_labels=torch.tensor([1, 2]))
    seen = replace(observation(), granted=granted, earlier=(observation(),))
    moved = seen.on(torch.device("meta"))
    for one, device in ((moved, "meta"), (moved.earlier[0], "meta"), (seen, "cpu"), (seen.earlier[0], "cpu")):
        given = one.granted
        tensors = [*one.model.parameters(), *one.model.buffers(), *one.update.parameters.values(), *one.update.buffers.values()]
        tensors += [tensor for tensor in (given.labels, given.public, given.public_labels) if tensor is not None]
        assert {tensor.device.type for tensor in tensors} == {device}
    assert moved.granted.public_labels is not None
    assert moved.granted.defense is None


def test_an_attack_on_a_device_finds_the_same_and_brings_it_back():
    job = Job("a", InvertingGradients(iterations=3), observation(), 1)
    here, there = run_job(job).reconstruction, run_on(torch.device("cpu"), [job])[0].reconstruction
    assert here is not None
    assert there is not None
    assert here.images is not None
    assert there.images is not None
    assert torch.equal(here.images, there.images)
    assert here.loss == there.loss


def test_the_seed_decides_the_outcome():
    seen = observation()
    first, again, other = (run_job(Job("c", Null(), seen, seed)).reconstruction for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.images is not None
    assert again.images is not None
    assert other.images is not None
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def jobs_of(attack: Attack, *clients: int) -> list[Job]:
    return [Job(client, attack, replace(observation(), client=client), client) for client in clients]


def test_jobs_are_done_together_and_share_the_time(monkeypatch):
    clock = iter([10.0, 16.0])
    monkeypatch.setattr("attacks.workers.time.perf_counter", lambda: next(clock))
    outcomes = run_jobs(jobs_of(Counts(), 1, 2, 3))
    assert [outcome.key for outcome in outcomes] == [1, 2, 3]
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert [outcome.reconstruction.loss for outcome in outcomes] == [3, 3, 3]
    assert [outcome.seconds for outcome in outcomes] == [2.0, 2.0, 2.0]


def test_where_one_job_cannot_be_done_each_is_done_alone():
    outcomes = run_jobs(jobs_of(Counts(), 1, 9, 3))
    assert [outcome.status for outcome in outcomes] == ["ok", "not applicable", "ok"]
    assert outcomes[0].reconstruction.loss == 1
    assert outcomes[1].reason == "not client 9"


def test_each_of_several_jobs_has_its_own_seed():
    together = run_jobs(jobs_of(Null(), 1, 2))
    for job, outcome in zip(jobs_of(Null(), 1, 2), together, strict=True):
        alone = run_job(job).reconstruction
        assert torch.equal(outcome.reconstruction.images, alone.images)
    assert not torch.equal(together[0].reconstruction.images, together[1].reconstruction.images)


def test_the_inline_pool_does_jobs_together():
    pool = InlinePool()
    pool.submit(*jobs_of(Counts(), 1, 2))
    pool.submit(*jobs_of(Counts(), 3))
    assert [outcome.reconstruction.loss for outcome in pool.collect(0.0)] == [2, 2]
    assert [outcome.reconstruction.loss for outcome in pool.collect(0.0)] == [1]


def test_the_inline_pool_does_every_job():
    outcomes = all_of(InlinePool(), [Job(key, Null(), observation(), key) for key in range(3)])
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}


@pytest.fixture(scope="module")
def ray_on_two_cpus():
    start_ray(cpus=2, workers=2)
    yield
    stop_ray()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("ray_on_two_cpus")
class TestRayPool:
    def test_every_job_has_an_outcome_whatever_becomes_of_it(self, tmp_path):
        once, twice = tmp_path / "once", tmp_path / "twice"
        once.mkdir()
        twice.mkdir()
        (once / "1").touch()
        (twice / "1").touch()
        (twice / "2").touch()
        seen = observation()
        jobs = [Job(("null", key), Null(), seen, key) for key in range(8)]
        jobs += [
            Job("dies once", Dies(folder=str(once)), seen, 0),
            Job("dies twice", Dies(folder=str(twice)), seen, 0),
            Job("raises", Raises(), seen, 0),
            Job("declines", Declines(), seen, 0),
        ]
        pool = RayPool(workers=2, threads=1, gpus=0.0, queue=4, timeout=60.0)
        outcomes = all_of(pool, jobs)
        pool.close()
        assert all(outcomes["null", key].status == "ok" for key in range(8))
        assert outcomes["dies once"].status == "ok"
        assert outcomes["dies twice"].status == "failed"
        assert "died" in outcomes["dies twice"].reason
        assert outcomes["raises"].reason == "ZeroDivisionError: by nought"
        assert outcomes["declines"].status == "not applicable"

    def test_jobs_that_are_done_together_come_back_and_are_tried_alone_where_their_worker_dies(self, tmp_path):
        (tmp_path / "1").touch()
        pool = RayPool(workers=1, threads=1, gpus=0.0, queue=4, timeout=60.0)
        pool.submit(*jobs_of(Counts(), 1, 2, 3))
        pool.submit(*[replace(job, key=10 + job.key) for job in jobs_of(Dies(folder=str(tmp_path)), 1, 2)])
        pool.submit(*[replace(job, key=20 + job.key) for job in jobs_of(Holds(), 1, 2)])
        outcomes = collected(pool, 7)
        pool.close()
        assert [outcomes[key].reconstruction.loss for key in (1, 2, 3)] == [3, 3, 3]
        assert [outcomes[key].status for key in (11, 12, 21, 22)] == ["ok", "ok", "failed", "failed"]
        assert not list(tmp_path.iterdir())

    def test_a_job_that_never_ends_is_given_up_and_its_worker_replaced(self):
        pool = RayPool(workers=1, threads=1, gpus=0.0, queue=1, timeout=20.0)
        outcomes = all_of(pool, [Job("stuck", Sleeps(seconds=600), observation(), 0), Job("next", Null(), observation(), 0)])
        pool.close()
        assert outcomes["stuck"].status == "failed"
        assert "gave up after 20 seconds; raise resources.timeout" in outcomes["stuck"].reason
        assert outcomes["next"].status == "ok"

    def test_a_worker_has_the_threads_that_are_asked_for(self):
        pool = RayPool(workers=1, threads=2, gpus=0.0, queue=1, timeout=60.0)
        outcomes = all_of(pool, [Job("threads", Threads(), observation(), 0)])
        pool.close()
        reconstruction = outcomes["threads"].reconstruction
        assert reconstruction is not None
        assert reconstruction.loss == 2

    @pytest.mark.parametrize("turns", [False, True])
    @pytest.mark.parametrize("lost", [False, True])
    def test_a_worker_has_helpers_and_does_the_part_of_one_that_is_lost(self, tmp_path, lost, turns):
        if lost:
            (tmp_path / "lost").touch()
        pool = RayPool(workers=1, threads=1, gpus=0.0, queue=1, timeout=60.0, helpers=1)
        outcomes = all_of(pool, [Job("shares", Shares(file=str(tmp_path / "lost"), turns=turns), observation(), 0)])
        pool.close()
        assert outcomes["shares"].status == "ok"
        assert outcomes["shares"].reconstruction is not None
        assert lost or outcomes["shares"].reconstruction.loss == 2
        assert not (tmp_path / "lost").exists()

    def test_the_pool_gives_the_bits_of_this_process(self):
        seen = observation()
        jobs = [Job(key, Null(), seen, key) for key in range(4)]
        pool = RayPool(workers=2, threads=1, gpus=0.0, queue=4, timeout=60.0)
        outcomes = all_of(pool, jobs)
        pool.close()
        for job in jobs:
            here, there = run_job(job).reconstruction, outcomes[job.key].reconstruction
            assert here is not None
            assert there is not None
            assert here.images is not None
            assert there.images is not None
            assert torch.equal(here.images, there.images)

    def test_what_jobs_are_about_goes_into_the_object_store_once_and_leaves_it_again(self, monkeypatch):
        put, stored = ray.put, []
        monkeypatch.setattr(ray, "put", lambda thing: [put(thing), stored.append(type(thing).__name__)][0])
        first, public = observation(), torch.rand(5, 1, 8, 8)
        first = replace(first, granted=Granted(public=public))
        second = replace(first, client=1, update=first.update.map(torch.neg))
        jobs = [Job((seen.client, key), Holds(), seen, key) for seen in (first, second) for key in range(3)]
        pool = RayPool(workers=2, threads=1, gpus=0.0, queue=4, timeout=60.0)
        outcomes = all_of(pool, jobs)
        assert sorted(stored) == ["Sequential", "Tensor", "Update", "Update"]
        for job in jobs:
            here, there = run_job(job).reconstruction, outcomes[job.key].reconstruction
            assert here is not None
            assert there is not None
            assert here.loss == there.loss
        assert len(pool._store) == 4
        del first, second, jobs, job, public
        assert len(pool._store) == 0
        pool.close()
