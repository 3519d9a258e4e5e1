"""What a helper is worth to one exact attack: the same batches in a pool of one Ray actor, and of one with a helper.

    CURIOUS_DATA=.data python -m bench.exact_helpers --attack spear --batch 18

Width 200, CIFAR-10, one thread each. Both pools are up, and have attacked, before a time is taken, and they take turns. The
efficiency is the time of all batches by one worker over twice that with a helper: random searches take very different times
from one batch to the next, and other times with a helper, so that it is the sum over many batches that says something.
"""

import argparse
import os
import time
import warnings

from attacks.workers import Job, Pool, RayPool, start_ray, stop_ray
from bench.exact import attack_of
from bench.exact_speed import observed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", choices=["spear", "spear-plus"], default="spear")
    parser.add_argument("--settings", nargs="*", default=[], help="the attack's own, as name=number")
    parser.add_argument("--batch", type=int, default=18)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--batches", type=int, default=20)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    attack = attack_of(chosen.attack, chosen.settings)
    start_ray(cpus=os.cpu_count() or 1, workers=3)
    pools: dict[int, Pool] = {helpers: RayPool(1, 1, 0.0, 1, 3600.0, helpers) for helpers in (0, 1)}
    seconds, found = dict.fromkeys(pools, 0.0), dict.fromkeys(pools, 0)
    try:
        for pool in pools.values():
            attacked(pool, Job("first", attack, observed(8, chosen.width, 0)[1], 0))
        for index in range(chosen.batches):
            observation = observed(chosen.batch, chosen.width, index)[1]
            taken = {}
            for helpers in (0, 1) if index % 2 else (1, 0):
                began = time.perf_counter()
                whole = attacked(pools[helpers], Job(index, attack, observation, index))
                taken[helpers] = time.perf_counter() - began
                seconds[helpers] += taken[helpers]
                found[helpers] += whole
            print(f"{index}: alone {taken[0]:.2f} s, with a helper {taken[1]:.2f} s", flush=True)
    finally:
        for pool in pools.values():
            pool.close()
        stop_ray()
    print(f"{chosen.attack}, {chosen.batch} examples, width {chosen.width}: alone {seconds[0]:.1f} s and {found[0]} of "
          f"{chosen.batches} certified, with a helper {seconds[1]:.1f} s and {found[1]}; "
          f"efficiency of two over one {seconds[0] / (2 * seconds[1]):.3f}")  # fmt: skip


def attacked(pool: Pool, job: Job) -> bool:
    """Whether the whole batch came back certified."""
    pool.submit(job)
    outcomes = []
    while not outcomes:
        outcomes = pool.collect(timeout=1.0)
    (outcome,) = outcomes
    if outcome.reconstruction is None:
        raise SystemExit(f"{outcome.status}: {outcome.reason}")
    return bool(outcome.reconstruction.identifiable)


if __name__ == "__main__":
    main()
