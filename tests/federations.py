"""Small federations for tests: in this process, through real Flower messages."""

from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

import clients.app
from curious.simulation import simulate
from studies.config import make_plan
from studies.ledger import Ledger

SMALL: dict[str, Any] = {
    "name": "small",
    "data": "digits",
    "model": {"name": "mlp", "width": 16},
    "training": {"batch_size": 3},
    "federation": {"clients": 5, "clients_per_round": 3, "rounds": 2},
    "granted": {"public": 20},
    "defenses": ["none", {"name": "gaussian-noise", "std": 0.01}],
    "attacks": ["ilrg", {"name": "inverting-gradients", "iterations": 3}, "mean", "null"],
    "resources": {"engine": "inline"},
}


def changed(**tables: Any) -> dict[str, Any]:
    """`SMALL` with other tables: a dict without a `name` is put into the table that is there, anything else in its place."""
    merged = dict(SMALL)
    for key, value in tables.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) and "name" not in value else value
    return merged


def run(folder: Path, raw: dict[str, Any], client_app: ClientApp = clients.app.app) -> Ledger:
    """Runs the study, or goes on with it, in this process; the ledger comes back open."""
    plan = make_plan(raw)
    there = (folder / "ledger.sqlite").exists()
    ledger = Ledger(folder, write=True) if there else Ledger.create(folder, plan, "", {})
    simulate(ledger, plan.study.resources, client_app=client_app)
    return ledger
