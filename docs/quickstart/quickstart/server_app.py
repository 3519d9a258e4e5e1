"""The server: plain FedAvg, with one line around it."""

from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from curious.auditor import Auditor
from learning.training import Training
from quickstart.task import MOMENTUM, Net
from server import CuriousStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains the network, and audits what the clients send."""
    run = context.run_config
    training = Training(
        shared="delta",
        batch_size=run["batch-size"],
        epochs=run["local-epochs"],
        learning_rate=run["learning-rate"],
        momentum=MOMENTUM,
        batch_norm="train",
    )
    shown = {"image_shape": (1, 32, 32), "classes": 10, "mean": (0.5,), "deviation": (0.5,)}
    with Auditor(Net, training=training, pages=Path(run["pages"]), **shown) as auditor:
        strategy = FedAvg(fraction_train=run["fraction-train"], fraction_evaluate=0.0)
        strategy = CuriousStrategy(strategy, auditor)  # the line
        strategy.start(
            grid,
            ArrayRecord(Net().state_dict()),
            num_rounds=run["num-server-rounds"],
            train_config=ConfigRecord({"learning-rate": run["learning-rate"]}),
        )
    for seen in auditor.seen:
        for line in seen.lines():
            print(f"round {seen.round}, client {seen.client}: {line}")
