"""How near the best attack comes to the ceiling of identification, and that it never comes above it.

    python -m bench.ceilings                              half a minute on one core
    python -m bench.ceilings --rates .1 --trials 1000     with sampling, minutes

A Gaussian mechanism shares one of K orthogonal contributions of the largest norm, in 1 or 100 rounds, all of them or sampled;
`mu` is that norm over the noise's deviation, all rounds together as if none were left out. The attack is the matched one
(the likelihood over all rounds), simulated `--trials` times. A line a case: the ceiling, the attack with its 95 % interval
(Clopper-Pearson), and the gap. Ends with the largest gap, and with exit code 1 if an attack's interval lies above its ceiling.
"""

import argparse
import math
import sys
import time

import numpy as np
from scipy import stats

from studies.ceilings import identification_ceiling, simulated_identification


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, nargs="*", default=[10, 256, 1000])
    parser.add_argument("--rates", type=float, nargs="*", default=[1.0], help="with which the picture is in a round")
    settings = parser.parse_args()
    began, rng, gaps, above = time.perf_counter(), np.random.default_rng(0), [], 0
    for rate in settings.rates:
        for candidates in settings.candidates:
            for mu in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0):
                for rounds in (1, 100):
                    each = mu / math.sqrt(rounds)
                    ceiling = identification_ceiling(candidates, each, rounds, rate)
                    right = simulated_identification(candidates, each, rounds, rate, settings.trials, rng)
                    low, high = stats.binomtest(right, settings.trials).proportion_ci()
                    attack = right / settings.trials
                    gaps.append(ceiling - attack)
                    above += low > ceiling
                    print(
                        f"K {candidates:4} mu {mu:.1f} rounds {rounds:3} rate {rate:g}: ceiling {ceiling:.3f}, "
                        f"attack {attack:.3f} ({low:.3f} to {high:.3f}), gap {ceiling - attack:+.3f}",
                        flush=True,
                    )
    print(f"{len(gaps)} cases in {time.perf_counter() - began:.0f} s: largest gap {max(gaps):.3f}, {above} above their ceiling")
    sys.exit(above > 0)


if __name__ == "__main__":
    main()
