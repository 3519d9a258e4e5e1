"""What a second attack worker is worth: the same attacks on the same updates in a pool of one Ray actor, and of two.

    python -m bench.workers

Digits, a small network, inverting gradients. The pools take turns, each is up and has attacked before its time is taken, and
what the server does meanwhile (reading updates, scoring, writing results) is part of the time, as it is in a run. The
efficiency is one worker's time over twice two workers'.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
import warnings
from pathlib import Path

from attacks.matching import InvertingGradients
from attacks.workers import RayPool, start_ray, stop_ray
from curious.simulation import simulate
from studies.attacking import Interrogation
from studies.config import Grants, NamedAttack, make_plan
from studies.ledger import Ledger

STUDY = {
    "name": "workers",
    "data": "digits",
    "model": "mlp",
    "training": {"batch_size": 4},
    "federation": {"clients": 20, "clients_per_round": 20, "rounds": 1},
    "resources": {"engine": "inline"},
}


def attacked(ledger: Ledger, workers: int, name: str, iterations: int) -> float:
    """Seconds that a pool of so many workers needs for all updates of the ledger, its start left out."""
    over = threading.Event()
    over.set()
    pool = RayPool(workers, 1, 0.0, 8, 3600.0)
    try:
        ledger.add_attacks([NamedAttack(f"before {name}", InvertingGradients(iterations=1))], Grants())
        Interrogation(ledger, pool).run(over)
        ledger.add_attacks([NamedAttack(name, InvertingGradients(iterations=iterations))], Grants())
        begin = time.perf_counter()
        Interrogation(ledger, pool).run(over)
        return time.perf_counter() - begin
    finally:
        pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=300, help="of each attack")
    settings = parser.parse_args()
    warnings.simplefilter("ignore")
    plan = make_plan(STUDY)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, Ledger.create(Path(folder), plan, "", {}) as ledger:
        simulate(ledger, plan.study.resources)
        start_ray(cpus=os.cpu_count() or 1, workers=2)
        try:
            for turn in range(settings.turns):
                for workers in (1, 2) if turn % 2 else (2, 1):
                    seconds[workers].append(attacked(ledger, workers, f"{workers} in turn {turn}", settings.iterations))
        finally:
            stop_ray()
        failed = ledger.counts()["failed attacks"]
    for workers, taken in seconds.items():
        print(f"{workers} workers: {', '.join(f'{second:.2f}' for second in taken)} s")
    efficiency = [one / (2 * two) for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(f"efficiency: {statistics.median(efficiency):.3f} by the median of {len(efficiency)} turns, "
          f"{min(efficiency):.3f} to {max(efficiency):.3f}; {failed} attacks failed")  # fmt: skip


if __name__ == "__main__":
    main()
