"""The pool of workers that attack: Ray actors beside Flower's own, or this process itself. The only file that knows Ray.

A worker gets a `Job` (an attack, an observation, a seed) and gives back an `Outcome`. Neither holds any truth.
"""

import os
import sys
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import torch
from torch import nn

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.helpers import Helpers, with_helpers
from learning.tensors import Update

RESOURCE = "curious_attack"
START = 300.0  # seconds in which a worker must be up


@dataclass(frozen=True)
class Job:
    """One attack on one observation. `key` says which to the caller, and is all that a worker learns of the run."""

    key: Hashable
    attack: Attack
    observation: Observation
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job. `status`: "ok", "not applicable" or "failed", with the reason of the last two."""

    key: Hashable
    status: str
    reason: str = ""
    reconstruction: Reconstruction | None = None
    seconds: float = 0.0


def run_job(job: Job) -> Outcome:
    """Does the work. An attack's exception becomes a failed outcome that names it."""
    start = time.perf_counter()
    try:
        rng = torch.Generator().manual_seed(job.seed)
        reconstruction = job.attack.reconstruct(job.observation, rng)
    except NotApplicable as reason:
        return Outcome(job.key, "not applicable", str(reason), seconds=time.perf_counter() - start)
    except Exception as error:
        return Outcome(job.key, "failed", f"{type(error).__name__}: {error}", seconds=time.perf_counter() - start)
    return Outcome(job.key, "ok", reconstruction=reconstruction, seconds=time.perf_counter() - start)


def run_jobs(jobs: Sequence[Job]) -> list[Outcome]:
    """Does jobs of one attack together, each in its share of the time; if one cannot be done, one after the other."""
    if len(jobs) == 1:
        return [run_job(jobs[0])]
    start = time.perf_counter()
    rngs = [torch.Generator().manual_seed(job.seed) for job in jobs]
    try:
        found = jobs[0].attack.reconstruct_all([job.observation for job in jobs], rngs)
    except Exception:
        return [run_job(job) for job in jobs]
    seconds = (time.perf_counter() - start) / len(jobs)
    return [Outcome(job.key, "ok", reconstruction=one, seconds=seconds) for job, one in zip(jobs, found, strict=True)]


class Pool(ABC):
    """Takes jobs and gives back outcomes in whatever order they come. `workers`: how many hands it has."""

    capacity: int
    workers: int

    @abstractmethod
    def submit(self, *jobs: Job) -> None:
        """Hands over a job, or several of one attack to be done together; the caller keeps `capacity` of either in flight."""

    @abstractmethod
    def collect(self, timeout: float) -> list[Outcome]:
        """The outcomes that are there, waiting up to `timeout` seconds for the first."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers."""


class InlinePool(Pool):
    """Every job is done when it is collected, in this process, by `threads` threads."""

    capacity = workers = 1

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._waiting: list[tuple[Job, ...]] = []

    def submit(self, *jobs: Job) -> None:
        self._waiting.append(jobs)

    def collect(self, timeout: float) -> list[Outcome]:
        torch.set_num_threads(self._threads)  # PyTorch counts threads for each thread that calls it
        return run_jobs(self._waiting.pop(0)) if self._waiting else []

    def close(self) -> None:
        self._waiting.clear()


def start_ray(cpus: int, workers: int, address: str | None = None) -> None:
    """Starts Ray on this machine, or joins a running cluster, with room for the attack workers beside Flower's clients.

    Workers hold an own resource and no CPU: Flower's pool of clients takes every CPU for as long as a run lasts, and
    whatever else asked for one would wait for ever.
    """
    if ray.is_initialized():
        return
    path = os.pathsep.join(part for part in [str(Path.cwd()), *sys.path] if part)
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": {"PYTHONPATH": path}},
    }
    if address:
        ray.init(address=address, **common)
    else:
        own: dict[str, Any] = {"num_cpus": cpus, "resources": {RESOURCE: workers}, "include_dashboard": False}
        if scratch := os.environ.get("CURIOUS_SCRATCH"):
            own["_temp_dir"] = scratch
        ray.init(**own, **common)


def stop_ray() -> None:
    """Leaves Ray; a cluster that this process started goes down."""
    ray.shutdown()


class Worker:
    """What a Ray actor is made of: a worker, which has as many of its kind to help it as are asked for."""

    def __init__(self, threads: int, gpus: float = 0.0, resources: dict[str, float] | None = None, helpers: int = 0):
        torch.set_num_threads(threads)
        self._device = torch.device("cuda") if gpus > 0 and torch.cuda.is_available() else None  # the one that Ray leaves it
        self._helpers = _RayHelpers([_actor(threads, gpus, resources or {}, restarts=-1) for _ in range(helpers)])

    def ready(self) -> None:
        """Answers once the worker and its helpers are up."""
        ray.get([actor.ready.remote() for actor in self._helpers.actors])

    def run(self, jobs: Sequence[Job], *parts: Any) -> list[Outcome]:
        """Does jobs whose observations were left without their large parts, which come beside them, job by job."""
        each = len(parts) // len(jobs)
        whole = [_with_parts(job, parts[each * index : each * (index + 1)]) for index, job in enumerate(jobs)]
        with with_helpers(self._helpers):
            return run_jobs(whole) if self._device is None else run_on(self._device, whole)

    def part(self, work: Callable[..., Any], given: tuple[Any, ...], part: Any) -> Any:
        """Does a part of another worker's job."""
        return work(*given, part)


def _actor(threads: int, gpus: float, resources: dict[str, float], restarts: int, helpers: int = 0) -> Any:
    options = {"num_cpus": 0, "num_gpus": gpus, "resources": resources, "max_restarts": restarts}
    return ray.remote(Worker).options(**options).remote(threads, gpus, resources, helpers)  # pyright: ignore


class _RayHelpers(Helpers):
    """Workers that Ray starts again where they die, and ends with the one that they help."""

    def __init__(self, actors: list[Any]):
        self.actors, self.count = actors, len(actors)
        self._given: tuple[tuple[Any, ...] | None, Any] = (None, None)

    def call(self, work: Callable[..., Any], given: tuple[Any, ...], each: Sequence[Any]) -> list[Any]:
        theirs = self._begun(work, given, each[1:])
        return [*[work(*given, part) for part in each[:1]], *[answer() for answer in theirs]]

    def turns(self, work: Callable[..., Any], given: tuple[Any, ...], part: Callable[[], Any]) -> Iterator[list[Any]]:
        ahead = self._begun(work, given, [part() for _ in self.actors])
        while True:
            theirs, ahead = ahead, self._begun(work, given, [part() for _ in self.actors])
            yield [work(*given, part()), *[answer() for answer in theirs]]

    def _begun(self, work: Callable[..., Any], given: tuple[Any, ...], parts: Sequence[Any]) -> list[Callable[[], Any]]:
        """The parts are with the helpers; what waits for their answers, and does the part of one that is lost itself."""
        if self._given[0] is not given:
            self._given = given, ray.put(given)

        def begun(actor: Any, part: Any) -> Callable[[], Any]:
            reference = actor.part.remote(work, self._given[1], part)

            def answer() -> Any:
                try:
                    return ray.get(reference)
                except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.ObjectLostError):
                    return work(*given, part)

            return answer

        return [begun(actor, part) for actor, part in zip(self.actors, parts, strict=False)]


def run_on(device: torch.device, jobs: Sequence[Job]) -> list[Outcome]:
    """Does jobs on that device as `run_jobs` does, and brings what it found back from there."""
    outcomes = run_jobs([replace(job, observation=job.observation.on(device)) for job in jobs])
    return [one if one.reconstruction is None else replace(one, reconstruction=one.reconstruction.on_cpu()) for one in outcomes]


def _parts(job: Job) -> tuple[Any, ...]:
    """What of a job is large, and the same in other jobs: the model of all the round's, the update of all attacks on it."""
    observation = job.observation
    return observation.model, observation.update, observation.granted.public


EMPTY = (nn.Identity(), Update({}), None)  # what stands for them on the way


def _with_parts(job: Job, parts: tuple[Any, ...]) -> Job:
    model, update, public = parts
    granted = replace(job.observation.granted, public=public)
    return replace(job, observation=replace(job.observation, model=model, update=update, granted=granted))


class _Store:
    """Ray's object store, into which each object goes once for as long as somebody in this process holds it."""

    def __init__(self) -> None:
        self._references: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._references)

    def reference(self, thing: Any) -> Any:
        """The thing's reference there; nothing's is nothing."""
        if thing is None:
            return None
        if id(thing) not in self._references:
            self._references[id(thing)] = ray.put(thing)
            weakref.finalize(thing, self._references.pop, id(thing), None)
        return self._references[id(thing)]


@dataclass
class _Running:
    jobs: tuple[Job, ...]
    worker: int
    tries: int
    deadline: float


class RayPool(Pool):
    """`workers` Ray actors of `threads` threads and a fraction of a GPU each, with a bounded queue before them.

    Each has so many `helpers`, actors of the same kind, for attacks whose work falls into parts. A worker that is given a
    fraction attacks on its GPU; one without computes on processors.

    Models, updates and public pictures go into Ray's object store once, however many jobs are about them: jobs are to hold the
    same objects, not equal ones.

    A worker that dies, alone or with its machine, is replaced and its job tried once more, without others; a job that kills
    two workers, or outlasts `timeout` seconds on a worker that is up, is a failed outcome. A worker that does not come up is
    tried again, and fails one job where no other worker is up.
    """

    def __init__(self, workers: int, threads: int, gpus: float, queue: int, timeout: float, helpers: int = 0):
        self.capacity, self.workers = max(queue, workers), workers
        self._threads, self._gpus, self._helpers, self._timeout = threads, gpus, helpers, timeout
        self._workers: list[Any] = [None] * workers
        self._starting: dict[Any, tuple[int, float]] = {}
        self._idle: list[int] = []
        self._waiting: list[tuple[tuple[Job, ...], int]] = []
        self._running: dict[Any, _Running] = {}
        self._store = _Store()
        for worker in range(workers):
            self._start(worker)

    def submit(self, *jobs: Job) -> None:
        self._waiting.append((jobs, 1))
        self._dispatch()

    def collect(self, timeout: float) -> list[Outcome]:
        outcomes = []
        under_way = [*self._running, *self._starting]
        done, _ = ray.wait(under_way, num_returns=1, timeout=timeout) if under_way else ([], [])
        for reference in done:
            if reference in self._starting:
                outcomes += self._came_up(reference)
                continue
            running = self._running.pop(reference)
            try:
                outcomes += ray.get(reference)
                self._idle.append(running.worker)
            except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.ObjectLostError):
                outcomes += self._died(running, "the worker died")
            except ray.exceptions.RayError as error:
                self._idle.append(running.worker)
                outcomes += [Outcome(job.key, "failed", f"{type(error).__name__}") for job in running.jobs]
        for reference, running in list(self._running.items()):
            if time.monotonic() > running.deadline:
                del self._running[reference]
                ray.kill(self._workers[running.worker])
                self._start(running.worker)
                reason = f"gave up after {self._timeout:g} seconds; raise resources.timeout"
                outcomes += [Outcome(job.key, "failed", reason, seconds=self._timeout) for job in running.jobs]
        for reference, (worker, deadline) in list(self._starting.items()):
            if time.monotonic() > deadline:
                del self._starting[reference]
                ray.kill(self._workers[worker])
                outcomes += self._not_up(worker, f"no attack worker started within {START:g} seconds")
        self._dispatch()
        return outcomes

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)

    def _died(self, running: _Running, reason: str) -> list[Outcome]:
        ray.kill(self._workers[running.worker])  # where its outcome was lost on the way it is still there
        self._start(running.worker)
        if running.tries == 1:
            self._waiting[:0] = [((job,), 2) for job in running.jobs]
            return []
        return [Outcome(job.key, "failed", f"{reason}, and so did the one that tried again") for job in running.jobs]

    def _start(self, worker: int) -> None:
        wanted = len(self._workers) * (1 + self._helpers)
        enough = ray.cluster_resources().get(RESOURCE, 0) >= wanted  # fewer, where a machine is gone
        resources = {RESOURCE: 1.0} if enough else {}
        self._workers[worker] = _actor(self._threads, self._gpus, resources, 0, self._helpers)
        self._starting[self._workers[worker].ready.remote()] = (worker, time.monotonic() + START)

    def _came_up(self, reference: Any) -> list[Outcome]:
        worker, _ = self._starting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            return self._not_up(worker, f"an attack worker did not start: {type(error).__name__}")
        self._idle.append(worker)
        return []

    def _not_up(self, worker: int, reason: str) -> list[Outcome]:
        self._start(worker)
        if self._idle or self._running or not self._waiting:
            return []
        return [Outcome(job.key, "failed", reason) for job in self._waiting.pop(0)[0]]

    def _dispatch(self) -> None:
        while self._idle and self._waiting:
            worker, (jobs, tries) = self._idle.pop(), self._waiting.pop(0)
            parts = [self._store.reference(part) for job in jobs for part in _parts(job)]
            reference = self._workers[worker].run.remote([_with_parts(job, EMPTY) for job in jobs], *parts)
            deadline = time.monotonic() + self._timeout * len(jobs)
            self._running[reference] = _Running(jobs, worker, tries, deadline)
