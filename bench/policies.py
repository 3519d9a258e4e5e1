"""Transformation policies (ATS) for the network and pictures of studies/defenses.toml, searched with pictures of no client.

    CURIOUS_DATA=.data python -m bench.policies

A thousand pictures of MNIST's test set train the network by which privacy is scored; ten more are transformed. Prints the
five most private of fifty random policies of three transforms, after the half with the worse accuracy scores is left out,
as TOML, and beside them what the untransformed pictures score.
"""

import torch

from defenses.transformation_search import accuracy_score, privacy_score, search
from learning.data import MNIST, pictures_of
from learning.models import MLP
from learning.tensors import generator, parameters_of
from learning.training import Training, local_update


def main() -> None:
    torch.set_num_threads(1)
    pictures = pictures_of(MNIST())
    order = torch.randperm(len(pictures.test), generator=generator("policies"))
    own, tried = pictures.test.batch(order[:1000]), pictures.test.batch(order[1000:1010])
    untrained, trained = (MLP().build(pictures.image_shape, pictures.classes, 0) for _ in range(2))
    work = Training(shared="delta", batch_size=4, epochs=2, learning_rate=0.1)
    moved = local_update(trained, own, work, generator("training")).parameters
    with torch.no_grad():
        for name, tensor in parameters_of(trained).items():
            tensor.add_(moved[name])
    privacy, accuracy = privacy_score(trained, tried, generator("noise")), accuracy_score(untrained, tried.images)
    print(f"untransformed: privacy {privacy:.3f} (lower hides more), accuracy {accuracy:.0f} (higher is learnt better)")
    for found in search(trained, untrained, tried, generator("search"))[:5]:
        policy = ", ".join(f'{{name = "{t.name}", strength = {t.strength}}}' for t in found.defense.policy)
        print(f"privacy {found.privacy:.3f}, accuracy {found.accuracy:.0f}: policy = [{policy}]")


if __name__ == "__main__":
    main()
