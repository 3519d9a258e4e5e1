"""Will the exact attacks of a study succeed? Said before it runs, and held against what happened."""

from attacks.exact import EXACT
from attacks.exact.forecast import Forecast, forecasts
from defenses import defended_update
from learning.data import client_batch, pictures_of, public_examples
from learning.tensors import generator
from studies.config import Cell
from studies.preparation import initial_model


def forecasts_of(cell: Cell) -> dict[str, Forecast]:
    """By the study's names of its exact attacks: the odds that all pictures of an update come back exactly.

    They are those of the model before the first round and of a stand-in from the public test pictures, as large as what is
    behind the first recorded update, behind the cell's defenses. Empty where the set has too few pictures for one.
    """
    study, names = cell.study, {kind: name for name, kind in EXACT.items()}
    chosen = {named.name: names[type(named.attack)] for named in study.attacks if type(named.attack) in names}
    if not chosen or not cell.recorded():
        return {}
    round, client = cell.recorded()[0]
    examples = sum(len(client_batch(study.client_data, one, round, cell.seed)) for one in cell.behind(round, client))
    stand_in = public_examples(study.data, examples, cell.seed, skip=study.granted.public)
    if len(stand_in) < examples:
        return {}
    model, compute = initial_model(cell), defended_update(cell.defense.chain, study.training)
    found = forecasts(
        model, pictures_of(study.data).classes, stand_in, study.training,
        lambda: compute(model, stand_in, generator(cell.seed, "forecast")),
    )  # fmt: skip
    return {name: found[attack] for name, attack in chosen.items() if attack in found}
