"""The pictures that the new weights of Flower's quick start give away, and what it costs the attacker that these are rounded.

    python -m bench.quickstart

The app of `docs/quickstart` for one round with all ten clients, two digits each, at falling learning rates. Per rate and
attack: of how many clients' weights it made pictures at all, and of all the clients' pictures (those that did not come back
count as lost) how many are more like their own than like any other digit; the mean PSNR is of those that came back.
"""

import argparse
import importlib
import logging
import statistics
import sys
import time
from pathlib import Path

import torch
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg

from attacks.matching import FeatureInversion, InvertingGradients
from curious.auditor import Auditor
from curious.simulation import InlineGrid
from learning.messages import record_of
from learning.tensors import Batch
from learning.training import Training
from server import CuriousStrategy
from studies.scores import score

CLIENTS, EXAMPLES, MOMENTUM = 10, 2, 0.9
RATES = (0.1, 0.01, 0.001, 0.0001)
ATTACKS = {"inverting-gradients": InvertingGradients(), "feature-inversion": FeatureInversion()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "quickstart"))
    client_app, task = (importlib.import_module(f"quickstart.{name}") for name in ("client_app", "task"))

    digits, classes = task.digits()
    for rate in asked.rates:
        torch.manual_seed(asked.seed)
        began = time.monotonic()
        run = {"examples": EXAMPLES, "batch-size": 32, "local-epochs": 1, "learning-rate": rate}
        training = Training(shared="delta", batch_size=32, learning_rate=rate, momentum=MOMENTUM, batch_norm="train")
        shown = {"image_shape": (1, 32, 32), "classes": 10, "mean": (0.5,), "deviation": (0.5,), "most": CLIENTS}
        with Auditor(task.Net, training=training, attacks=ATTACKS, **shown) as auditor:
            strategy = CuriousStrategy(FedAvg(fraction_train=1.0, fraction_evaluate=0.0), auditor)
            grid = InlineGrid(client_app.app, CLIENTS, run)
            weights = record_of(task.Net().state_dict())
            strategy.start(grid, weights, num_rounds=1, train_config=ConfigRecord({"learning-rate": rate}))
        for place, name in enumerate(ATTACKS):
            came, ratios, own = 0, [], 0.0
            for seen in auditor.seen:
                assert seen.found is not None, seen.reason
                found = seen.found.lines[place].reconstruction
                if found is None or found.images is None:
                    continue
                came += 1
                true = Batch(digits[seen.client - 1 :: CLIENTS][:EXAMPLES], classes[seen.client - 1 :: CLIENTS][:EXAMPLES])
                others = torch.tensor([not any(digit.equal(own) for own in true.images) for digit in digits])
                row = score(found, true, 10, digits[others]).row()
                ratios += row["psnr"]
                own += sum(row["identified"])
            print(
                f"learning rate {rate:g}, {name}: pictures from {came} of {CLIENTS} clients; "
                f"{own:.0f} of {CLIENTS * EXAMPLES} more like their own than like any other of {len(digits):,} digits; "
                f"{statistics.fmean(ratios) if ratios else float('nan'):.1f} dB",
                flush=True,
            )
        print(f"  {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
