"""How often 95 % intervals of RLU, or of another method, hold the true counts, over model states; 2,160 updates by default.

    CURIOUS_DATA=.data python -m bench.labels_calibration                            about six minutes on one core
    CURIOUS_DATA=.data python -m bench.labels_calibration --method simulated-labels --sizes 8 24 --updates 180     half an hour

MLP on MNIST and LeNet-5 on CIFAR-10, untrained, hardly trained and trained; batches of 8, 24 and 64 training pictures, in
half of the updates drawn from all classes alike and in half from three classes; 500 public pictures, drawn anew from the
test set for every update. Covered: the share of all counts (classes x updates) inside their interval. Inside a trained model
the client's pictures are better known than the test set's; accuracies of both are printed. `single`: the share of intervals
that name one number, which are right or wrong and not so in 95 of 100; how many of the others are right is printed at the
end, and `--iterations 100 1000` leaves out the untrained models, where nearly all are such. The last column is the share of
the updates for which the verdict is that labels are not identifiable.
After several local steps none is given.
"""

import argparse

import torch

from attacks.labels import RLU, SimulatedLabels
from bench.labels import drawn, observed, public_of, scored, trained_states
from learning.data import CIFAR10, MNIST, Examples, pictures_of
from learning.models import MLP, LeNet5
from learning.tensors import generator

METHODS = {"rlu": RLU(), "simulated-labels": SimulatedLabels()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=120, help="of each model state and batch size")
    parser.add_argument("--sizes", type=int, nargs="*", default=[8, 24, 64])
    parser.add_argument("--iterations", type=int, nargs="*", default=[0, 100, 1000], help="after which the model is attacked")
    parser.add_argument("--only", default="", help="architectures whose name holds this")
    parser.add_argument("--method", choices=list(METHODS), default="rlu")
    settings = parser.parse_args()
    method = METHODS[settings.method]
    torch.set_num_threads(1)
    covered = asked = updates = wide = wide_covered = 0
    for data, architecture, rate in ((MNIST(), MLP(), 0.02), (CIFAR10(), LeNet5(), 0.05)):
        if settings.only not in architecture.__class__.__name__:
            continue
        pictures = pictures_of(data)
        for iteration, known, held, model in trained_states(architecture, pictures, tuple(settings.iterations), 0, rate):
            for size in settings.sizes:
                inside, recall, width, warned, single = 0, 0.0, 0.0, 0, 0.0
                for index in range(settings.updates):
                    batch = drawn(_few_classes(pictures.train, index) if index % 2 else pictures.train, size, size, index)
                    granted = public_of(pictures, 500, size, index)
                    observation = observed(model, batch, pictures.classes, granted=granted, seed=index)
                    found = method.reconstruct(observation, generator("rlu", index))
                    assert found.counts_interval is not None
                    low, high = found.counts_interval
                    truth = torch.bincount(batch.labels, minlength=pictures.classes)
                    holds = (low <= truth) & (truth <= high)
                    inside += int(holds.sum())
                    wide, wide_covered = wide + int((high > low).sum()), wide_covered + int(holds[high > low].sum())
                    single += float((high == low).double().mean())
                    width += float((high - low).double().mean())
                    recall += scored(found, batch.labels, pictures.classes).recall
                    warned += not found.identifiable
                covered, asked = covered + inside, asked + settings.updates * pictures.classes
                updates += settings.updates
                print(
                    f"{architecture.__class__.__name__:7} iteration {iteration:4} accuracy {known:.3f}/{held:.3f} K={size:2}: "
                    f"covered {inside / settings.updates / pictures.classes:.3f}, width {width / settings.updates:.1f}, "
                    f"single {single / settings.updates:.2f}, "
                    f"IRec {recall / settings.updates:.3f}, not identifiable {warned / settings.updates:.2f}",
                    flush=True,
                )
    print(f"all: {covered / asked:.4f} of {asked} counts of {updates} updates are covered")
    print(f"intervals of more than one number: {wide_covered / max(wide, 1):.4f} of {wide} are right")


def _few_classes(examples: Examples, seed: int) -> Examples:
    chosen = torch.randperm(int(examples.labels.max()) + 1, generator=generator("few", seed))[:3]
    kept = torch.isin(examples.labels, chosen)
    return Examples(examples.images[kept], examples.labels[kept])


if __name__ == "__main__":
    main()
