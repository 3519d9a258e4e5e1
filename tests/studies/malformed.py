"""Studies with one fault each, the place that the message must name, and the remedy that it must give.

A fault of level "config" is found by `studies.config.read_plan`, one of level "preparation" when data, model and checkpoint
are made ready. `Malformed.write` puts the study, and the files that it needs, into a folder.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from learning.models import MLP
from learning.tensors import write_tensors


@dataclass(frozen=True)
class Malformed:
    """A study with one fault.

    `text`: the TOML, with <folder> for the folder that it lies in, or None for a folder in place of the file. `place`: what
    the message begins with, after the file's name. `remedy`: a fragment of what it must go on to say. `files`: writes what
    lies beside the study.
    """

    name: str
    text: str | bytes | None
    place: str
    remedy: str
    level: Literal["config", "preparation"] = "config"
    files: Callable[[Path], object] = lambda folder: None

    def write(self, folder: Path) -> Path:
        """Writes the study into the folder and returns its path."""
        path = folder / "study.toml"
        self.files(folder)
        if self.text is None:
            path.mkdir()
        elif isinstance(self.text, bytes):
            path.write_bytes(self.text)
        else:
            path.write_text(self.text.replace("<folder>", str(folder)), encoding="utf-8")
        return path


def study(tables: str = "", **keys: str | None) -> str:
    """A small study that is right, with these top-level keys put in (None leaves one out) and these tables after them."""
    top = {"name": '"small"', "data": '"digits"', "model": '"mlp"', **keys}
    return "".join(f"{key} = {value}\n" for key, value in top.items() if value is not None) + tables + "\n"


def malformed_studies() -> Iterator[Malformed]:
    """All of them; their names are unique."""
    for name, text, place, remedy in [
        *FILES,
        *TOP,
        *TRAINING,
        *FEDERATION,
        *CHOSEN,
        *DEFENDED,
        *ATTACKED,
        *CONTRADICTORY,
        *GRIDS,
    ]:
        yield Malformed(name, text, place, remedy)
    for name, text, place, remedy, files in PREPARED:
        yield Malformed(name, text, place, remedy, "preparation", files)


Row = tuple[str, str | bytes | None, str, str]

FILES: list[Row] = [
    ("a folder in place of the file", None, "", "cannot read the file"),
    ("not TOML at all", "Dear Curious, please attack my model.", "", "is not TOML"),
    ("JSON", '{"name": "small"}', "", "is not TOML"),
    ("YAML", "name: small\ndata: digits\n", "", "is not TOML"),
    ("an unclosed string", 'name = "small\n', "", "is not TOML"),
    ("a key twice", study(seeds="[1]") + 'name = "again"', "", "is not TOML"),
    ("a table twice", study("[training]\n[training]\n"), "", "is not TOML"),
    ("a bare word", study(model="mlp"), "", "is not TOML"),
    ("a table beside its short form", study('[model]\nname = "mlp"'), "", "is not TOML"),
    ("a number of 5,000 digits", study(seeds=f"[{'9' * 5000}]"), "", "is not TOML"),
    ("nested a thousand deep", study(seeds="[" * 5000 + "]" * 5000), "", "is not TOML"),
    ("bytes that are not UTF-8", study().encode() + b'description = "\xff\xfe"\n', "", "is not a text file in UTF-8"),
    ("UTF-16", study().encode("utf-16"), "", "is not a text file in UTF-8"),
    ("a picture", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "", "is not a text file in UTF-8"),
    ("null bytes", b"\x00" * 64, "", "is not TOML"),
]

TOP: list[Row] = [
    ("no name", study(name=None), "name", "missing; add this key"),
    ("no data", study(data=None), "data", "missing; add this key"),
    ("no model", study(model=None), "model", "missing; add this key"),
    ("an empty name", study(name='""'), "name", "should be 1 to 60 letters"),
    ("a name that is a path", study(name='"../runs"'), "name", "should be 1 to 60 letters"),
    ("a name of two lines", study(name='"a\\nb"'), "name", "should be 1 to 60 letters"),
    ("a long name", study(name=f'"{"x" * 61}"'), "name", "should be 1 to 60 letters"),
    ("a name that is a number", study(name="3"), "name = 3", "should be a valid string"),
    ("a description that is a date", study(description="2020-01-01"), "description", "should be a valid string"),
    ("an unknown table", study("[trainin]\nbatch_size = 2"), "trainin", "did you mean 'training'?"),
    ("an unknown key", study(seed="1"), "seed", "did you mean 'seeds'?"),
    ("an unknown key unlike any", study(zzz="1"), "zzz", "choices: name, description, seeds"),
    ("a key with a hyphen", study(**{"x-y": "1"}), "x-y", "choices: name, description, seeds"),
    ("a key with a capital", study("[Training]"), "Training", "did you mean 'training'?"),
    ("a key with spaces", study(**{'"my key"': "1"}), "'my key'", "choices: name, description, seeds"),
    ("an empty key", study(**{'""': "1"}), "''", "choices: name, description, seeds"),
    ("seeds that are one number", study(seeds="0"), "seeds = 0", "should be a list"),
    ("a reference that is no attack", study(reference='"dgl"', attacks='["dlg"]'), "reference = 'dgl'", "did you mean 'dlg'?"),
    (
        "clients picked behind secure aggregation",
        study("[federation]\nsecure_aggregation = true\n[record]\nclients = [0]"),
        "record.clients = [0]",
        "leave it out",
    ),
    ("no seeds", study(seeds="[]"), "seeds = []", "should have at least 1 item"),
    ("a negative seed", study(seeds="[0, -1]"), "seeds[1] = -1", "should be greater than or equal to 0"),
    ("a seed that is text", study(seeds='["0"]'), "seeds[0] = '0'", "should be a valid integer"),
    ("a seed that is a truth", study(seeds="[true]"), "seeds[0] = True", "should be a valid integer"),
    ("a seed that is a fraction", study(seeds="[0.5]"), "seeds[0] = 0.5", "should be a valid integer"),
    ("a huge seed", study(seeds=f"[{10**30}]"), "seeds[0]", "should be less than or equal to"),
    ("a seed twice", study(seeds="[0, 1, 0]"), "seeds", "names a seed twice"),
]

TRAINING: list[Row] = [
    ("training that is a number", study(training="3"), "training = 3", "should be a table"),
    ("training that is a list", study("[[training]]\nbatch_size = 2"), "training = [", "should be a table"),
    ("training with an unknown key", study("[training]\nbatch_siz = 2"), "training.batch_siz", "did you mean 'batch_size'?"),
    ("a table inside training", study("[training.optimizer]"), "training.optimizer", "choices: shared, batch_size"),
    (
        "an unknown kind of update",
        study('[training]\nshared = "weights"'),
        "training.shared = 'weights'",
        "'gradient' or 'delta'",
    ),
    ("a batch of none", study("[training]\nbatch_size = 0"), "training.batch_size = 0", "greater than or equal to 1"),
    ("a negative batch", study("[training]\nbatch_size = -4"), "training.batch_size = -4", "greater than or equal to 1"),
    ("a huge batch", study("[training]\nbatch_size = 10000000000"), "training.batch_size", "less than or equal to 2147483647"),
    ("a batch that is a truth", study("[training]\nbatch_size = true"), "training.batch_size = True", "valid integer"),
    ("a batch that is text", study('[training]\nbatch_size = "4"'), "training.batch_size = '4'", "valid integer"),
    ("a batch that is a fraction", study("[training]\nbatch_size = 4.0"), "training.batch_size = 4.0", "valid integer"),
    ("a learning rate of zero", study("[training]\nlearning_rate = 0"), "training.learning_rate = 0", "greater than 0"),
    (
        "a learning rate that is no number",
        study("[training]\nlearning_rate = nan"),
        "training.learning_rate = nan",
        "finite number",
    ),
    ("an infinite learning rate", study("[training]\nlearning_rate = inf"), "training.learning_rate = inf", "finite number"),
    (
        "a learning rate that is text",
        study('[training]\nlearning_rate = "0.1"'),
        "training.learning_rate = '0.1'",
        "valid number",
    ),
    (
        "a learning rate that is a truth",
        study("[training]\nlearning_rate = true"),
        "training.learning_rate = True",
        "valid number",
    ),
    ("a momentum of one", study('[training]\nshared = "delta"\nmomentum = 1.0'), "training.momentum = 1.0", "less than 1"),
    ("negative steps", study('[training]\nshared = "delta"\nsteps = -1'), "training.steps = -1", "greater than or equal to 0"),
    ("an unknown mode", study('[training]\nbatch_norm = "off"'), "training.batch_norm = 'off'", "'train' or 'eval'"),
    ("buffers that are a truth", study("[training]\nbuffers = true"), "training.buffers = True", "'kept' or 'sent'"),
]

FEDERATION: list[Row] = [
    ("a federation that is a number", study(federation="10"), "federation = 10", "should be a table"),
    ("a federation with an unknown key", study("[federation]\nclient = 3"), "federation.client", "did you mean 'clients'?"),
    ("no clients", study("[federation]\nclients = 0"), "federation.clients = 0", "greater than or equal to 1"),
    ("no rounds", study("[federation]\nrounds = 0"), "federation.rounds = 0", "greater than or equal to 1"),
    ("negative examples", study("[federation]\nexamples_per_round = -1"), "federation.examples_per_round = -1", "equal to 0"),
    (
        "an unknown strategy",
        study('[federation]\nstrategy = "fedavgg"'),
        "federation.strategy = 'fedavgg'",
        "'fedavg', 'fedavgm'",
    ),
    (
        "a strategy in capitals",
        study('[federation]\nstrategy = "FedAvg"'),
        "federation.strategy = 'FedAvg'",
        "'fedavg', 'fedavgm'",
    ),
    ("a timeout of zero", study("[federation]\ntimeout = 0"), "federation.timeout = 0", "greater than 0"),
    ("an infinite timeout", study("[federation]\ntimeout = inf"), "federation.timeout = inf", "finite number"),
    ("a start that is text", study(start='"weights.pt"'), "start = 'weights.pt'", "should be a table"),
    ("an unknown start", study('[start]\nweights = "a.pt"'), "start.weights", "choices: after_rounds, training, checkpoint"),
    ("a checkpoint that is a number", study("[start]\ncheckpoint = 3"), "start.checkpoint = 3", "should be a valid string"),
    ("negative rounds before", study("[start]\nafter_rounds = -1"), "start.after_rounds = -1", "greater than or equal to 0"),
    ("rounds that are a word", study('[record]\nrounds = "al"'), "record.rounds = 'al'", "'all' or a list"),
    ("rounds that are a number", study("[record]\nrounds = 3"), "record.rounds = 3", "'all' or a list"),
    ("no recorded rounds", study("[record]\nrounds = []"), "record.rounds = []", "at least 1 item"),
    ("a recorded round zero", study("[record]\nrounds = [1, 0]"), "record.rounds[1] = 0", "greater than or equal to 1"),
    ("a recorded client that is text", study('[record]\nclients = ["0"]'), "record.clients[0] = '0'", "valid integer"),
    ("recorded clients that are a table", study("[record.clients]"), "record.clients = {}", "'all' or a list"),
    ("an unknown record", study("[record]\nround = [1]"), "record.round", "did you mean 'rounds'?"),
    ("an unknown grant", study("[granted]\nlabel = true"), "granted.label", "did you mean 'labels'?"),
    ("a grant that is a number", study("[granted]\nlabels = 1"), "granted.labels = 1", "valid boolean"),
    ("a grant that is text", study('[granted]\nlabels = "yes"'), "granted.labels = 'yes'", "valid boolean"),
    ("negative public pictures", study("[granted]\npublic = -1"), "granted.public = -1", "greater than or equal to 0"),
    (
        "an unknown engine",
        study('[resources]\nengine = "slurm"'),
        "resources.engine = 'slurm'",
        "'ray', 'ray-attacks' or 'inline'",
    ),
    ("no workers", study("[resources]\nworkers = 0"), "resources.workers = 0", "greater than or equal to 1"),
    (
        "helpers without Ray",
        study('[resources]\nengine = "inline"\nhelpers = 1'),
        "resources",
        'helpers = 1: they are in Ray; choose engine = "ray"',
    ),
    ("negative GPUs", study("[resources]\nworker_gpus = -0.5"), "resources.worker_gpus = -0.5", "greater than or equal to 0"),
    ("infinite GPUs", study("[resources]\nclient_gpus = inf"), "resources.client_gpus = inf", "finite number"),
    ("an unknown resource", study("[resources]\ngpus = 1"), "resources.gpus", "choices: engine, when, workers"),
]

CHOSEN: list[Row] = [
    ("unknown data", study(data='"cifar-10"'), "data.name = 'cifar-10'", "did you mean 'cifar10'?"),
    ("data that are a number", study(data="10"), "data", "should be a name or a table"),
    ("data without a name", study("[data]\nsize = 8", data=None), "data", "has no `name`; choices: digits"),
    ("a key that the data do not know", study(data='{name = "digits", size = 8}'), "data.size", "nothing to set here"),
    ("a folder without a root", study(data='{name = "image-folder"}'), "data.root", "missing; add this key"),
    ("a picture size of zero", study(data='{name = "image-folder", root = "x", size = 0}'), "data.size = 0", "equal to 1"),
    (
        "a huge picture size",
        study(data='{name = "image-folder", root = "x", size = 99999}'),
        "data.size = 99999",
        "equal to 4096",
    ),
    ("an unknown partition", study(partition='"dirchlet"'), "partition.name = 'dirchlet'", "did you mean 'dirichlet'?"),
    ("an alpha of zero", study(partition='{name = "dirichlet", alpha = 0}'), "partition.alpha = 0", "greater than 0"),
    (
        "an alpha that is no number",
        study(partition='{name = "dirichlet", alpha = nan}'),
        "partition.alpha = nan",
        "finite number",
    ),
    (
        "an infinite alpha",
        study(partition='{name = "quantity-skew", alpha = inf}'),
        "partition.alpha = inf",
        "finite number",
    ),
    ("an alpha for shards", study(partition='{name = "shards", alpha = 1.0}'), "partition.alpha", "choices: per_client"),
    ("no shards", study(partition='{name = "shards", per_client = 0}'), "partition.per_client = 0", "equal to 1"),
    ("an unknown model", study(model='"resnet-18"'), "model.name = 'resnet-18'", "did you mean 'resnet18'?"),
    ("a model in capitals", study(model='"MLP"'), "model.name = 'MLP'", "choices: mlp, lenet"),
    ("a list of models", study(model='["mlp", "lenet"]'), "model", "should be a name or a table"),
    ("a model's name that is a number", study(model="{name = 18}"), "model.name = 18", "choices: mlp, lenet"),
    ("a key with a typo", study(model='{name = "mlp", widht = 8}'), "model.widht", "did you mean 'width'?"),
    ("a width of zero", study(model='{name = "mlp", width = 0}'), "model.width = 0", "equal to 1"),
    ("a width that is text", study(model='{name = "mlp", width = "wide"}'), "model.width = 'wide'", "valid integer"),
    ("a million layers", study(model='{name = "mlp", depth = 1000000}'), "model.depth = 1000000", "equal to 1000"),
    (
        "an unknown activation",
        study(model='{name = "mlp", activation = "gelu"}'),
        "model.activation = 'gelu'",
        "'relu', 'sigmoid'",
    ),
    ("a bias that is a number", study(model='{name = "mlp", bias = 0}'), "model.bias = 0", "valid boolean"),
    ("a dropout of one", study(model='{name = "vgg16", dropout = 1.0}'), "model.dropout = 1.0", "less than 1"),
]

DEFENDED: list[Row] = [
    ("defenses that are a name", study(defenses='"none"'), "defenses = 'none'", "should be a list"),
    ("one defense as a table", study('[defenses]\nname = "none"'), "defenses = {", "should be a list"),
    ("no defenses", study(defenses="[]"), "defenses = []", "at least 1 item"),
    ("a defense that is a number", study(defenses="[3]"), "defenses[0]", "3 should be a table"),
    (
        "a defense without a name",
        study("[[defenses]]\nstd = 0.1"),
        "defenses[0]",
        "has no `name`; choices: none, gaussian-noise",
    ),
    (
        "an unknown defense",
        study(defenses='["none", "gausian-noise"]'),
        "defenses[1].name = 'gausian-noise'",
        "did you mean 'gaussian",
    ),
    ("a defense without its strength", study(defenses='["gaussian-noise"]'), "defenses[0].std", "missing; add this key"),
    ("a negative deviation", study(defenses='[{name = "gaussian-noise", std = -1}]'), "defenses[0].std = -1", "equal to 0"),
    (
        "an infinite deviation",
        study(defenses='[{name = "laplacian-noise", std = inf}]'),
        "defenses[0].std = inf",
        "finite number",
    ),
    (
        "a deviation that is a truth",
        study(defenses='[{name = "gaussian-noise", std = true}]'),
        "defenses[0].std = True",
        "valid number",
    ),
    (
        "a norm of zero",
        study(defenses='[{name = "norm-clipping", max_norm = 0}]'),
        "defenses[0].max_norm = 0",
        "greater than 0",
    ),
    ("a fraction above one", study(defenses='[{name = "magnitude-pruning", keep = 2}]'), "defenses[0].keep = 2", "equal to 1"),
    (
        "an unknown scope",
        study(defenses='[{name = "magnitude-pruning", keep = 0.5, scope = "all"}]'),
        "defenses[0].scope = 'all'",
        "'layer' or 'whole'",
    ),
    (
        "a defense with a typo",
        study(defenses='[{name = "norm-clipping", maxnorm = 1, max_norm = 1}]'),
        "defenses[0].maxnorm",
        "'max_norm'?",
    ),
    ("a strength for none", study(defenses='[{name = "none", std = 0.1}]'), "defenses[0].std", "unknown key beside"),
    (
        "a chain that is a name",
        study(defenses='[{chain = "norm-clipping"}]'),
        "defenses[0].chain",
        "should be a list of tables",
    ),
    (
        "a fault in a chain",
        study(defenses='[{chain = [{name = "norm-clipping"}]}]'),
        "defenses[0].chain[0].max_norm",
        "missing",
    ),
    (
        "an unknown link of a chain",
        study(defenses='["none", {chain = [{name = "norm-clipping", max_norm = 1}, "noise"]}]'),
        "defenses[1].chain[1].name = 'noise'",
        "choices: gaussian-noise",
    ),
    (
        "none in a chain",
        study(defenses='[{chain = ["none"]}]'),
        "defenses[0].chain[0].name = 'none'",
        "choices: gaussian-noise",
    ),
    ("a key beside a chain", study(defenses="[{chain = [], std = 1}]"), "defenses[0].std", "put it into a table of the chain"),
    ("two defenses of one name", study(defenses='["none", {chain = []}]'), "defenses", "two are called 'none'"),
    ("a defense called by a number", study(defenses='[{name = "none", as = 3}]'), "defenses[0].as = 3", "should be a string"),
    (
        "a defense called by a path",
        study(defenses='[{name = "none", as = "a/b"}]'),
        "defenses[0].as = 'a/b'",
        "1 to 60 letters",
    ),
]

ATTACKED: list[Row] = [
    ("attacks that are a name", study(attacks='"dlg"'), "attacks = 'dlg'", "should be a list"),
    ("an attack that is a number", study(attacks="[1]"), "attacks[0]", "1 should be a table"),
    ("an attack without a name", study("[[attacks]]\niterations = 3"), "attacks[0]", "has no `name`; choices: given"),
    (
        "an unknown attack",
        study(attacks='["null", "inverting-gradient"]'),
        "attacks[1].name",
        "did you mean 'inverting-gradients'?",
    ),
    ("no iterations", study(attacks='[{name = "dlg", iterations = 0}]'), "attacks[0].iterations = 0", "equal to 1"),
    (
        "an attack with an unknown key",
        study(attacks='[{name = "dlg", iteration = 9}]'),
        "attacks[0].iteration",
        "'iterations'?",
    ),
    (
        "an unknown label restoration",
        study(attacks='[{name = "dlg", labels = "idlgg"}]'),
        "attacks[0].labels.name",
        "did you mean 'idlg'?",
    ),
    (
        "an attack as a label restoration",
        study(attacks='[{name = "dlg", labels = "null"}]'),
        "attacks[0].labels.name",
        "choices: given",
    ),
    (
        "labels that are a truth",
        study(attacks='[{name = "dlg", labels = true}]'),
        "attacks[0].labels",
        "should be a name or a table",
    ),
    (
        "a label restoration with an unknown key",
        study(attacks='[{name = "dlg", labels = {name = "idlg", steps = 3}}]'),
        "attacks[0].labels.steps",
        "unknown key",
    ),
    ("two attacks of one name", study(attacks='["null", "null"]'), "attacks", "two are called 'null'"),
    ("two attacks called alike", study(attacks='["null", {name = "ilrg", as = "null"}]'), "attacks", "with the key `as`"),
    (
        "labels that are not granted",
        study(attacks='["null", "given"]'),
        "attacks[1] ('given')",
        "`labels = true` in the table [granted]",
    ),
    (
        "labels that are not granted to an inversion",
        study(attacks='[{name = "inverting-gradients", labels = "given"}]'),
        "attacks[0] ('inverting-gradients')",
        "`labels = true` in the table [granted]",
    ),
    (
        "public pictures that are not granted",
        study(attacks='["mean"]'),
        "attacks[0] ('mean')",
        "`public = 100` in the table [granted]",
    ),
    (
        "earlier rounds of other examples",
        study("[granted]\nearlier = 1"),
        "granted.earlier = 1",
        "`same_examples = true` in the table [federation]",
    ),
    (
        "a client's earlier rounds under secure aggregation",
        study("[granted]\nearlier = 1\n[federation]\nsame_examples = true\nsecure_aggregation = true"),
        "granted.earlier = 1",
        "leave one out",
    ),
    ("a negative number of earlier rounds", study("[granted]\nearlier = -1"), "granted.earlier = -1", "or equal to 0"),
]

CONTRADICTORY: list[Row] = [
    (
        "more clients in a round than there are",
        study("[federation]\nclients = 3\nclients_per_round = 4"),
        "federation.clients_per_round = 4",
        "more than federation.clients = 3; lower it",
    ),
    ("a gradient of two epochs", study("[training]\nepochs = 2"), "training.shared = 'gradient'", "or share a 'delta'"),
    ("a gradient of five steps", study("[training]\nsteps = 5"), "training.shared = 'gradient'", "or share a 'delta'"),
    ("a gradient with momentum", study("[training]\nmomentum = 0.9"), "training.shared = 'gradient'", "or share a 'delta'"),
    (
        "a gradient of other examples than its batch",
        study("[training]\nbatch_size = 4\n[federation]\nexamples_per_round = 8"),
        "federation.examples_per_round = 8",
        "set training.batch_size to it",
    ),
    ("steps and epochs", study('[training]\nshared = "delta"\nepochs = 2\nsteps = 3'), "training.steps = 3", "leave one out"),
    ("a checkpoint and rounds", study('[start]\nafter_rounds = 2\ncheckpoint = "a.pt"'), "start.after_rounds", "leave one out"),
    (
        "a checkpoint and training before",
        study('[start]\ncheckpoint = "a.pt"\n[start.training]\nbatch_size = 2'),
        "start.training",
        "leave one out",
    ),
    (
        "a gradient before of several epochs",
        study("[start]\nafter_rounds = 2\n[start.training]\nepochs = 2"),
        "start.training.shared = 'gradient'",
        "one step",
    ),
    (
        "steps and epochs before",
        study('[start]\nafter_rounds = 2\n[start.training]\nshared = "delta"\nepochs = 2\nsteps = 3'),
        "start.training.steps = 3",
        "leave one out",
    ),
    (
        "a wrong mode before",
        study('[start.training]\nbatch_norm = "of"'),
        "start.training.batch_norm = 'of'",
        "'train' or 'eval'",
    ),
    ("a client beyond the last", study("[record]\nclients = [10]"), "record.clients = [10]", "beyond the last, 9"),
    ("a round beyond the last", study("[record]\nrounds = [4]"), "record.rounds = [4]", "beyond federation.rounds = 3"),
]

GRIDS: list[Row] = [
    ("a grid that is a list", study(grid="[1]"), "grid = [1]", "should be a table"),
    (
        "a grid's axis that is a number",
        study('[grid]\n"training.batch_size" = 4'),
        "grid.'training.batch_size' = 4",
        "should be a list",
    ),
    ("a grid's axis that is a table", study("[grid]\ntraining.batch_size = [1, 2]"), "grid.training = {", "should be a list"),
    ("an empty axis", study('[grid]\n"training.batch_size" = []'), "grid.'training.batch_size' = []", "at least 1 item"),
    (
        "an unknown axis",
        study('[grid]\n"training.batch" = [1]'),
        "at training.batch = 1: training.batch",
        "did you mean 'batch_size'?",
    ),
    ("an axis of an unknown table", study('[grid]\n"trainin.batch_size" = [1]'), "grid.'trainin.batch_size'", "choices: data"),
    ("an axis of seeds", study('[grid]\n"seeds" = [[1], [2]]'), "grid.'seeds'", "choices: data, partition, model"),
    ("an axis of names", study('[grid]\n"name" = ["a", "b"]'), "grid.'name'", "choices: data, partition, model"),
    ("an axis of defenses", study('[grid]\n"defenses" = [["none"]]'), "grid.'defenses'", "choices: data, partition, model"),
    ("an axis of an attack", study('[grid]\n"attacks.0.iterations" = [1]'), "grid.'attacks.0.iterations'", "choices: data"),
    ("an axis of resources", study('[grid]\n"resources.workers" = [1]'), "grid.'resources.workers'", "choices: data"),
    ("an axis of a grid", study('[grid]\n"grid.x" = [1]'), "grid.'grid.x'", "choices: data"),
    (
        "a bad value on an axis",
        study('[grid]\n"training.batch_size" = [1, 0]'),
        "at training.batch_size = 0: training.batch_size = 0",
        "equal to 1",
    ),
    (
        "an unknown name on an axis",
        study('[grid]\nmodel = ["mlp", "lenett"]'),
        "at model = lenett: model.name = 'lenett'",
        "did you mean 'lenet'?",
    ),
    (
        "a bad table on an axis",
        study('[grid]\nmodel = [{name = "mlp", width = 0}]'),
        "at model = mlp width=0: model.width = 0",
        "equal to 1",
    ),
    (
        "a contradiction at one point",
        study('[grid]\n"federation.clients" = [10, 1]'),
        "at federation.clients = 1: federation.clients_per_round = 2",
        "more than federation.clients = 1",
    ),
    (
        "an axis into a number",
        study('[training]\nbatch_size = 2\n[grid]\n"training.batch_size.x" = [1]'),
        "grid.'training.batch_size.x'",
        "not a table",
    ),
    (
        "a value twice on an axis",
        study('[grid]\n"training.batch_size" = [1, 2, 1]'),
        "at training.batch_size = 1: grid",
        "leave one",
    ),
    (
        "a model twice on an axis, written in two ways",
        study('[grid]\nmodel = ["mlp", {width = 128, name = "mlp"}]'),
        "at model = mlp width=128: grid",
        "another point is the same study; leave one of them out",
    ),
    (
        "an unknown part of an axis of two keys",
        study('[grid]\n"training.batch_size, seeds" = [1]'),
        "grid.'seeds'",
        "choices: data, partition, model",
    ),
    (
        "a grid of too many cells",
        study(f'[grid]\n"training.batch_size" = {list(range(1, 401))}\n"federation.rounds" = {list(range(1, 401))}'),
        "grid",
        "160000 cells are too many; split the study",
    ),
]


def _weights(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Writes the weights of an MLP for digits, after a change."""

    def write(folder: Path) -> None:
        state = dict(MLP().build((1, 8, 8), 10, 0).state_dict())
        change(state)
        write_tensors(folder / name, state)

    return write


class _Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


def _pictures(*paths: str, broken: str | None = None) -> Callable[[Path], None]:
    """Writes a folder of small pictures, and a file among them that is none."""

    def write(folder: Path) -> None:
        (folder / "pictures").mkdir()
        for index, path in enumerate(paths):
            picture = folder / "pictures" / path
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), index, dtype=np.uint8)).save(picture)
        if broken:
            (folder / "pictures" / broken).parent.mkdir(parents=True, exist_ok=True)
            (folder / "pictures" / broken).write_bytes(b"no picture")

    return write


def _checkpoint(name: str) -> str:
    return study(f'[start]\ncheckpoint = "{name}"')


def _nothing(folder: Path) -> None:
    pass


FOLDER = study(data="{name = 'image-folder', root = '<folder>/pictures'}")

PREPARED: list[tuple[str, str, str, str, Callable[[Path], object]]] = [
    ("a checkpoint that is missing", _checkpoint("gone.pt"), "start.checkpoint", "cannot read", _nothing),
    (
        "a checkpoint that is a folder",
        _checkpoint("w.safetensors"),
        "start.checkpoint",
        "cannot read",
        lambda f: (f / "w.safetensors").mkdir(),
    ),
    (
        "a checkpoint that is empty",
        _checkpoint("w.pt"),
        "start.checkpoint",
        "neither safetensors nor",
        lambda f: (f / "w.pt").touch(),
    ),
    (
        "a checkpoint that is text",
        _checkpoint("w.safetensors"),
        "start.checkpoint",
        "is not a safetensors file",
        lambda f: (f / "w.safetensors").write_text("weights"),
    ),
    (
        "a checkpoint with code in it",
        _checkpoint("w.pt"),
        "start.checkpoint",
        "neither safetensors nor a PyTorch file of weights",
        lambda f: torch.save(_Code(), f / "w.pt"),
    ),
    (
        "a checkpoint that is a list",
        _checkpoint("w.pt"),
        "start.checkpoint",
        "save a model's state_dict()",
        lambda f: torch.save([torch.zeros(1)], f / "w.pt"),
    ),
    (
        "a checkpoint of other shapes",
        _checkpoint("w.safetensors"),
        "start.checkpoint",
        "has shape (7,), the model needs (128,)",
        _weights("w.safetensors", lambda state: state.update({"network.1.bias": torch.zeros(7)})),
    ),
    (
        "a checkpoint of another model",
        _checkpoint("w.safetensors"),
        "start.checkpoint",
        "unknown ['conv1.weight']",
        _weights("w.safetensors", lambda state: state.update({"conv1.weight": torch.zeros(7)})),
    ),
    (
        "a checkpoint with a layer missing",
        _checkpoint("w.safetensors"),
        "start.checkpoint",
        "missing ['network.1.bias']",
        _weights("w.safetensors", lambda state: state.pop("network.1.bias")),
    ),
    (
        "a missing checkpoint on an axis",
        study('[grid]\n"start.checkpoint" = ["gone.pt"]'),
        "at start.checkpoint = /",
        "start.checkpoint: cannot read",
        _nothing,
    ),
    (
        "pictures too small for the model",
        study(model='"convnet"'),
        "model",
        "needs pictures of 9 pixels a side, not 8x8",
        _nothing,
    ),
    (
        "a model on an axis that does not fit",
        study('[grid]\nmodel = ["mlp", "convnet"]'),
        "at model = convnet: model",
        "choose another model or larger pictures",
        _nothing,
    ),
    (
        "a model beyond the memory",
        study(model='{name = "mlp", width = 2000000000}'),
        "model",
        "choose a smaller or another model",
        _nothing,
    ),
    (
        "more clients than examples",
        study("[federation]\nclients = 1439"),
        "partition",
        "1439 clients cannot share 1438 training examples: lower federation.clients",
        _nothing,
    ),
    (
        "two thousand million clients",
        study("[federation]\nclients = 2000000000", partition='"dirichlet"'),
        "partition",
        "lower federation.clients",
        _nothing,
    ),
    (
        "more shards than examples",
        study(partition='{name = "shards", per_client = 144}'),
        "partition",
        "lower per_client or federation.clients",
        _nothing,
    ),
    ("a folder of pictures that is missing", FOLDER, "data", "there is no folder '", _nothing),
    ("a file in place of a folder of pictures", FOLDER, "data", "there is no folder '", lambda f: (f / "pictures").touch()),
    ("an empty folder of pictures", FOLDER, "data", "is not a folder of pictures, one sub-folder a class", _pictures()),
    (
        "pictures without classes",
        FOLDER,
        "data",
        "is not a folder of pictures, one sub-folder a class",
        _pictures("a.png", "b.png"),
    ),
    (
        "a class without pictures",
        FOLDER,
        "data",
        "is not a folder of pictures",
        _pictures("a/0.png", broken="b/notes.txt"),
    ),
    ("a broken picture", FOLDER, "data", "1.png", _pictures("a/0.png", broken="a/1.png")),
    ("three pictures", FOLDER, "data", "give at least 5", _pictures("a/0.png", "a/1.png", "b/2.png")),
    (
        "other classes in the test folder",
        FOLDER,
        "data",
        "give both the same folders",
        _pictures("train/a/0.png", "train/b/1.png", "test/b/2.png"),
    ),
]
