"""The network, the digits and the training loop: nothing here knows that the server is curious."""

from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

MOMENTUM = 0.9


class Net(nn.Module):
    """Two convolutions and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.pool(functional.relu(self.conv1(pictures)))
        features = self.pool(functional.relu(self.conv2(features)))
        features = functional.relu(self.fc1(features.flatten(1)))
        return self.fc3(functional.relu(self.fc2(features)))


@lru_cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, drawn 32 pixels large, in [0, 1], and their classes."""
    pictures, classes = load_digits(return_X_y=True)
    small = torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return functional.interpolate(small, size=32, mode="bilinear"), torch.tensor(classes)


def load_data(partition: int, partitions: int, examples: int, batch_size: int) -> DataLoader:
    """The first `examples` digits of a client's part, normalised."""
    pictures, classes = digits()
    mine = slice(partition, partition + partitions * examples, partitions)
    return DataLoader(TensorDataset((pictures[mine] - 0.5) / 0.5, classes[mine]), batch_size, shuffle=True)


def train(net: Net, loader: DataLoader, epochs: int, rate: float) -> float:
    """Trains the network, and returns its mean loss."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)
    losses = []
    for _ in range(epochs):
        for pictures, classes in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(pictures), classes)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)
