"""The client: gets weights, trains, sends its new weights back."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import Net, load_data
from quickstart.task import train as train_net

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round at this client."""
    node, run, order = context.node_config, context.run_config, message.content["config"]
    loader = load_data(node["partition-id"], node["num-partitions"], run["examples"], run["batch-size"])
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = train_net(net, loader, run["local-epochs"], order["learning-rate"])
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(loader.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)
