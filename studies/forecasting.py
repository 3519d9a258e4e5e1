"""Will the exact attacks of a study succeed? Said before it runs, and held against what happened."""

from attacks import NotApplicable
from attacks.exact import EXACT
from attacks.exact.forecast import FORECAST, Forecast, forecasts
from defenses import defended_update
from learning.data import pictures_of, public_examples
from learning.tensors import Update, generator
from studies.config import Cell
from studies.ledger import Ledger
from studies.preparation import initial_model


def forecast(ledger: Ledger, cell: Cell) -> None:
    """Keeps a cell's forecasts, before it is trained, unless they or those of the same cell with another seed are there."""
    alike = [one.index for one in ledger.plan.cells if (one.setting, one.defense.name) == (cell.setting, cell.defense.name)]
    if not ledger.forecasts().keys() & set(alike):
        for attack, said in forecasts_of(cell).items():
            ledger.record_forecast(cell.index, attack, said)


def forecasts_of(cell: Cell) -> dict[str, Forecast]:
    """By the study's names of its exact attacks: the odds that all pictures of an update come back exactly.

    They are those of the model before the first round and of a stand-in from the public test pictures, as large as what is
    behind the first recorded update, behind the cell's defenses. Empty where the set has too few pictures for one.
    """
    study, names = cell.study, {EXACT[name]: name for name in FORECAST}
    chosen = {named.name: names[type(named.attack)] for named in study.attacks if type(named.attack) in names}
    if not chosen or not cell.recorded():
        return {}
    round, client = cell.recorded()[0]
    examples = sum(len(cell.batch(round, one)) for one in cell.behind(round, client))
    stand_in = public_examples(study.data, examples, cell.seed, skip=study.granted.public)
    if len(stand_in) < examples:
        return {}
    model, compute = initial_model(cell), defended_update(cell.defense.chain, study.training)

    def share() -> Update:
        try:
            return compute(model, stand_in, generator(cell.seed, "forecast"))
        except (ValueError, RuntimeError) as error:  # as it will for the clients, whose failures the report lists
            raise NotApplicable(f"the client fails: {error}") from None

    found = forecasts(model, pictures_of(study.data).classes, stand_in, study.training, share)
    return {name: found[attack] for name, attack in chosen.items()}
