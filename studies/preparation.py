"""What a study needs before its first round: data that is there, parts for all clients, a model that fits, its start."""

from pathlib import Path

from torch import nn

from learning.catalogue import SettingsError
from learning.data import client_parts, pictures_of
from learning.tensors import derived_seed, load_state, read_checkpoint
from studies.config import Cell, Plan, place_of
from studies.perceptual import perceiver


def initial_model(cell: Cell) -> nn.Module:
    """The global model before the federation's first round. Raises `ValueError` if it does not fit data or checkpoint."""
    pictures = pictures_of(cell.study.data)
    model = cell.study.model.build(pictures.image_shape, pictures.classes, derived_seed(cell.seed, "model"))
    if cell.study.start.checkpoint:
        load_state(model, read_checkpoint(Path(cell.study.start.checkpoint)))
    return model


def prepare(plan: Plan) -> None:
    """Makes sure that every cell can start. Raises `SettingsError` that names the place and the remedy."""
    prepare_scores(plan)
    seen = set()
    for cell in plan.cells:
        key = (cell.study.data, cell.study.model, cell.study.start, cell.study.client_data, cell.seed)
        if (known := repr(key)) in seen:
            continue
        seen.add(known)
        place = "data"
        try:
            pictures_of(cell.study.data)
            place = "partition"
            client_parts(cell.study.client_data, cell.seed)
            place = "start.checkpoint" if cell.study.start.checkpoint else "model"
            initial_model(cell)
        except ValueError as error:
            raise SettingsError(f"{place_of(cell.axes)}{place}: {error}") from None


def prepare_scores(plan: Plan) -> None:
    """Makes sure that what comes back can be scored. Raises `SettingsError` as `prepare` does."""
    if any(cell.study.metrics.lpips for cell in plan.cells):
        try:
            perceiver()
        except ValueError as error:
            raise SettingsError(f"metrics.lpips: {error}") from None
