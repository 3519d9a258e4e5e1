"""Studies: what a TOML means, and what is said of one that is wrong."""

import json
from pathlib import Path

import pytest

import studies
from attacks import ATTACKS
from attacks.labels import ILRG
from defenses import GaussianNoise, MagnitudePruning, NormClipping
from learning.catalogue import SettingsError
from learning.data import Digits
from learning.models import MLP, LeNet
from learning.partitions import IID, Dirichlet
from learning.training import Training
from studies.config import (
    Cell,
    Federation,
    Grants,
    Plan,
    Record,
    Resources,
    Start,
    make_plan,
    named_attack,
    plan_from_json,
    read_campaign,
    read_plan,
    read_toml,
)
from studies.preparation import prepare
from tests.studies.malformed import Malformed, malformed_studies, study

MALFORMED = list(malformed_studies())


@pytest.fixture
def planned(tmp_path):
    """Reads a study from its text."""

    def plan(text: str, *overrides: str) -> Plan:
        path = tmp_path / "study.toml"
        path.write_text(text)
        return read_plan(path, list(overrides))

    return plan


@pytest.fixture
def fault(planned):
    """The message about a study, without the file's name."""

    def message(text: str, *overrides: str) -> str:
        with pytest.raises(SettingsError) as error:
            planned(text, *overrides)
        file, _, rest = str(error.value).partition(".toml: ")
        assert file
        return rest

    return message


# What is wrong


def test_there_are_enough_malformed_studies_and_their_names_differ():
    names = [case.name for case in MALFORMED]
    assert len(names) == len(set(names))
    assert len(names) >= 110


@pytest.mark.parametrize("case", [case for case in MALFORMED if case.level == "config"], ids=lambda case: case.name)
def test_a_malformed_study_is_one_line_with_file_place_and_remedy(case: Malformed, tmp_path):
    path = case.write(tmp_path)
    with pytest.raises(SettingsError) as error:
        read_plan(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    if case.place:
        assert message.startswith(f"{path}: {case.place}")
        after = message.removeprefix(f"{path}: {case.place}")
        assert case.place.endswith(("[", "{")) or not (after[:1].isalnum() or after[:1] in "._-["), (
            "the whole place, and no other"
        )
    assert case.remedy in message
    for words in ("Input should", "validation error", "pydantic", "Error("):
        assert words not in message


@pytest.mark.parametrize("case", [case for case in MALFORMED if case.level == "preparation"], ids=lambda case: case.name)
def test_what_only_preparation_can_find_is_told_with_place_and_remedy(case: Malformed, tmp_path):
    plan = read_plan(case.write(tmp_path))
    with pytest.raises(SettingsError) as error:
        prepare(plan)
    assert str(error.value).startswith(case.place)
    assert case.remedy in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"^cannot read the file '.*gone\.toml': No such file or directory$"):
        read_plan(tmp_path / "gone.toml")


def test_an_empty_file_says_all_that_is_missing(fault):
    lines = fault("").splitlines()
    assert [line.rpartition(".toml: ")[2] for line in lines] == [
        f"{key}: missing; add this key" for key in ("name", "data", "model")
    ]


def test_every_fault_has_its_own_line_with_the_file(fault):
    text = fault(study("[training]\nbatch_size = 0\nepoch = 1\n[federation]\nclients = 0", model='"mpl"'))
    lines = [line.rpartition(".toml: ")[2] for line in text.splitlines()]
    assert sorted(line.split(" ")[0] for line in lines) == [
        "federation.clients", "model.name", "training.batch_size", "training.epoch:"
    ]  # fmt: skip


def test_the_base_of_the_malformed_studies_is_right(planned):
    assert planned(study()).study.name == "small"


# What is right


def test_defaults_are_a_gradient_of_an_undefended_untrained_model(planned):
    plan = planned(study())
    assert plan.study.data == Digits()
    assert plan.study.model == MLP()
    assert plan.study.partition == IID()
    assert plan.study.training == Training()
    assert (plan.study.start, plan.study.record, plan.study.granted) == (Start(), Record(), Grants())
    assert (plan.study.federation, plan.study.resources) == (Federation(), Resources())
    assert plan.study.attacks == []
    assert [(cell.index, cell.axes, cell.seed, cell.defense.name, cell.defense.chain) for cell in plan.cells] == [
        (0, {}, 0, "none", ())
    ]
    assert plan.cells[0].setting == ""


def test_tables_and_bare_names_mean_the_same(planned):
    short = planned(study(defenses='["none"]', attacks='["ilrg"]', partition='"dirichlet"')).study
    long = planned(
        'name = "small"\n[data]\nname = "digits"\n[model]\nname = "mlp"\n[partition]\nname = "dirichlet"\nalpha = 0.5\n'
        '[[defenses]]\nname = "none"\n[[attacks]]\nname = "ilrg"\n'
    ).study
    assert short == long
    assert short.partition == Dirichlet(alpha=0.5)
    assert short.attacks[0].attack == ILRG()


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    (tmp_path / "study.toml").write_bytes(b"\xef\xbb\xbf" + study("[training]\nbatch_size = 2").replace("\n", "\r\n").encode())
    assert read_plan(tmp_path / "study.toml").study.training.batch_size == 2


def test_defenses_take_their_names_from_as_or_from_their_links(planned):
    clip, noise = '{name = "norm-clipping", max_norm = 1}', '{name = "gaussian-noise", std = 0.1}'
    found = planned(
        study(
            defenses=f'["none", {clip}, {{chain = [{clip}, {noise}]}}, '
            f'{{as = "both", chain = [{noise}, {clip}]}}, {{as = "open", chain = []}}]'
        )
    ).study.defenses
    assert [(named.name, named.chain) for named in found] == [
        ("none", ()),
        ("norm-clipping", (NormClipping(max_norm=1),)),
        ("norm-clipping+gaussian-noise", (NormClipping(max_norm=1), GaussianNoise(std=0.1))),
        ("both", (GaussianNoise(std=0.1), NormClipping(max_norm=1))),
        ("open", ()),
    ]


def test_attacks_take_their_names_from_as(planned):
    found = planned(study(attacks='[{name = "dlg", as = "DLG, 5 steps", iterations = 5}, "null"]')).study.attacks
    assert [(named.name, type(named.attack)) for named in found] == [
        ("DLG, 5 steps", ATTACKS["dlg"]),
        ("null", ATTACKS["null"]),
    ]


def test_a_shared_gradient_is_of_one_batch(planned):
    gradient = planned(study("[training]\nbatch_size = 4")).study.client_data
    assert gradient.examples == 4
    said = planned(study("[training]\nbatch_size = 4\n[federation]\nexamples_per_round = 4")).study.client_data
    assert said == gradient


def test_a_shared_delta_is_of_the_rounds_examples(planned):
    delta = '[training]\nshared = "delta"\nbatch_size = 4\n'
    assert planned(study(delta)).study.client_data.examples == 0
    assert planned(study(delta + "[federation]\nexamples_per_round = 20\nclients = 5")).study.client_data.examples == 20


def test_what_is_recorded_is_counted_from_the_end_of_the_rounds_before(planned):
    everything = planned(study("[start]\nafter_rounds = 2")).study
    assert everything.rounds == 5
    assert [everything.recorded(round, 0) for round in range(7)] == [False] * 3 + [True] * 4
    some = planned(study("[start]\nafter_rounds = 2\n[record]\nrounds = [1, 3]\nclients = [0, 9]")).study
    assert [round for round in range(1, 6) if some.recorded(round, 9)] == [3, 5]
    assert [client for client in range(10) if some.recorded(3, client)] == [0, 9]


def test_the_clients_of_a_round_depend_on_seed_and_round_alone(planned):
    def chosen(tables: str, cell: int = 0, **keys) -> list[list[int]]:
        return [
            planned(study("[federation]\nclients = 20\nclients_per_round = 5\n" + tables, **keys)).cells[cell].chosen(r)
            for r in (1, 2, 3)
        ]

    plain = chosen("")
    assert all(len(set(clients)) == 5 and clients == sorted(clients) and set(clients) <= set(range(20)) for clients in plain)
    assert plain[0] != plain[1]
    assert chosen("", cell=1, defenses='["none", {name = "gaussian-noise", std = 1}]') == plain
    assert chosen("[training]\nbatch_size = 8") == plain
    assert chosen("", seeds="[1]") != plain


def test_what_comes_before_the_attacks_changes_no_client_no_batch_and_no_draw(planned):
    def of(round: int, client: int, start: int) -> tuple:
        tables = f"[federation]\nclients = 20\nclients_per_round = 5\n[start]\nafter_rounds = {start}"
        cell = planned(study(tables)).cells[0]
        sampled = tuple(named_attack({"name": "null", "sample": 0.5}).undergone_by(cell, round, one) for one in range(20))
        return cell.chosen(round), cell.batch(round, client).images.tolist(), cell.draws(round, client).initial_seed(), sampled

    for round, client in ((1, 0), (2, 0), (1, 7)):
        assert of(round, client, start=0) == of(round + 3, client, start=3)
    for round in (1, 2, 3):
        assert of(round, 4, start=3) == of(round, 4, start=5), "the rounds before are the first ones of a longer start"
    assert len({str(of(round, 4, start=3)) for round in range(1, 7)}) == 6


def test_a_cell_says_what_it_records(planned):
    cell = planned(study("[record]\nrounds = [2]\n[start]\nafter_rounds = 1")).cells[0]
    assert cell.recorded() == [(3, client) for client in cell.chosen(3)]


# The grid


def points(plan: Plan) -> list[tuple]:
    return [(*cell.axes.values(), cell.defense.name, cell.seed) for cell in plan.cells]


def test_cells_are_the_product_in_order_and_the_last_axis_moves_fastest(planned):
    plan = planned(
        study(
            '[grid]\n"training.batch_size" = [1, 2]\nmodel = ["mlp", "lenet"]\n',
            seeds="[7, 5]",
            defenses='["none", {name = "norm-clipping", max_norm = 1}]',
        )
    )
    assert points(plan) == [
        (size, model, defense, seed)
        for size in (1, 2)
        for model in ("mlp", "lenet")
        for defense in ("none", "norm-clipping")
        for seed in (7, 5)
    ]
    assert [cell.index for cell in plan.cells] == list(range(16))


def test_every_cell_has_its_axes_set_in_its_study(planned):
    plan = planned(study('[grid]\n"training.batch_size" = [1, 2]\n"federation.clients" = [5, 6]'))
    for cell in plan.cells:
        assert cell.study.training.batch_size == cell.axes["training.batch_size"]
        assert cell.study.federation.clients == cell.axes["federation.clients"]
    assert plan.cells[1].setting == "batch size 1, clients 6"


def test_an_axis_takes_names_tables_and_whole_tables(planned):
    plan = planned(
        study(
            '[grid]\nmodel = ["lenet", {name = "mlp", width = 8}]\n'
            'training = [{batch_size = 2}, {shared = "delta", epochs = 3}]\npartition = [{name = "dirichlet", alpha = 0.1}]'
        )
    )
    assert [cell.study.model for cell in plan.cells] == [LeNet(), LeNet(), MLP(width=8), MLP(width=8)]
    assert [cell.study.training for cell in plan.cells[:2]] == [Training(batch_size=2), Training(shared="delta", epochs=3)]
    assert plan.cells[2].setting == "mlp width=8, batch_size=2, dirichlet alpha=0.1"


def test_an_axis_sets_a_key_of_a_bare_name(planned):
    assert [cell.study.model for cell in planned(study('[grid]\n"model.width" = [4, 8]')).cells] == [MLP(width=4), MLP(width=8)]


@pytest.mark.parametrize("axes", ['"model.width" = [4]\nmodel = ["mlp"]', 'model = ["mlp"]\n"model.width" = [4]'])
def test_a_table_is_set_before_its_keys_in_whatever_order_they_stand(planned, axes):
    assert [cell.study.model for cell in planned(study(f"[grid]\n{axes}")).cells] == [MLP(width=4)]


def test_an_axis_of_two_keys_sets_both_to_the_same(planned):
    tables = '[training]\nshared = "delta"\n[grid]\n"training.batch_size, federation.examples_per_round" = [4, 8]'
    plan = planned(study(tables))
    assert [(cell.study.training.batch_size, cell.study.federation.examples_per_round) for cell in plan.cells] == [
        (4, 4),
        (8, 8),
    ]
    assert plan.cells[1].setting == "batch size 8"


def test_an_axis_does_not_write_into_anothers_table(planned):
    plan = planned(study('[grid]\nmodel = [{name = "mlp", depth = 2}]\n"model.width" = [4, 8]'))
    assert [cell.study.model for cell in plan.cells] == [MLP(depth=2, width=4), MLP(depth=2, width=8)]
    assert plan.raw["grid"]["model"] == [{"name": "mlp", "depth": 2}]


WORK = """
[grid]
work = [
  {as = "one gradient of 4", "training.batch_size" = 4},
  {as = "two epochs", "training.shared" = "delta", "training.epochs" = 2, "federation.examples_per_round" = 8},
]
"""


def test_an_axis_of_its_own_sets_several_keys_at_once_and_is_told_by_its_names(planned):
    plan = planned(study(WORK))
    assert [cell.setting for cell in plan.cells] == ["one gradient of 4", "two epochs"]
    assert [cell.study.training.batch_size for cell in plan.cells] == [4, 1]
    assert [cell.study.training.epochs for cell in plan.cells] == [1, 2]
    assert [cell.study.federation.examples_per_round for cell in plan.cells] == [0, 8]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ('work = [{"training.batch_size" = 4}]', "needs a name for the report; set it with the key `as`"),
        ('work = [{as = "a", "seeds" = [4]}]', "an axis may not vary this"),
        ('work = [{as = "a", "training.batchsize" = 4}]', "at work = "),
        ("work = [4]", "an axis may not vary this"),
    ],
)
def test_a_fault_in_an_axis_of_its_own_is_named(fault, axis, said):
    text = fault(study(f"[grid]\n{axis}"))
    assert said in text, text


def test_no_two_points_of_a_grid_are_told_in_the_same_words(planned):
    plan = planned(study('[grid]\nmodel = ["mlp", {name = "mlp", width = 8}, "lenet"]\n"federation.rounds" = [1, 11]'))
    assert len({cell.setting for cell in plan.cells}) == 6


def test_an_axis_leaves_the_written_study_as_it_was(planned):
    plan = planned(study('[grid]\n"model.width" = [4, 8]\n"training.batch_size" = [1]'))
    assert plan.raw["model"] == "mlp"
    assert plan.study.model == MLP()
    assert plan.study.training == Training()


def test_one_point_is_checked_by_itself(fault):
    text = fault(study('[grid]\n"training.shared" = ["delta", "gradient"]\n[training]\nshared = "delta"\nepochs = 2'))
    assert text.startswith("at training.shared = gradient: training.shared = 'gradient' is one step")


def test_a_checkpoint_is_looked_for_beside_the_study(tmp_path):
    for text, found in (
        (study('[start]\ncheckpoint = "w.pt"'), lambda plan: plan.study.start.checkpoint),
        (study('[grid]\n"start.checkpoint" = ["w.pt"]'), lambda plan: plan.cells[0].study.start.checkpoint),
        (study('[grid]\nstart = [{checkpoint = "w.pt"}]'), lambda plan: plan.cells[0].study.start.checkpoint),
    ):
        (tmp_path / "study.toml").write_text(text)
        assert found(read_plan(tmp_path / "study.toml")) == str(tmp_path.resolve() / "w.pt")
    (tmp_path / "study.toml").write_text(study('[start]\ncheckpoint = "/else/w.pt"'))
    assert read_plan(tmp_path / "study.toml").study.start.checkpoint == "/else/w.pt"


@pytest.mark.parametrize(
    "table",
    [
        '[start]\ncheckpoint = "../w.pt"',
        '[grid]\n"start.checkpoint" = ["in/../../w.pt"]',
        '[grid]\nstart = [{checkpoint = "../w.pt"}]',
    ],
)
def test_a_relative_checkpoint_may_not_leave_the_studys_folder(tmp_path, table):
    (tmp_path / "study.toml").write_text(study(table))
    with pytest.raises(SettingsError, match=r"start\.checkpoint = '.*w\.pt': leaves the study's folder; give an absolute path"):
        read_plan(tmp_path / "study.toml")


# Overrides

DEFENDED = study(
    defenses='["none", {name = "gaussian-noise", std = 0.1}, {as = "both", chain = [{name = "norm-clipping", max_norm = 1}, '
    '{name = "magnitude-pruning", keep = 0.5}]}]',
    attacks='["dlg", {name = "inverting-gradients", as = "IG", iterations = 3}]',
)


@pytest.mark.parametrize(
    ("override", "found", "value"),
    [
        ("federation.rounds=1", lambda s: s.federation.rounds, 1),
        ("federation.rounds = 1", lambda s: s.federation.rounds, 1),
        ("training.learning_rate=1e-3", lambda s: s.training.learning_rate, 1e-3),
        ("granted.labels=true", lambda s: s.granted.labels, True),
        ("seeds=[1, 2]", lambda s: s.seeds, [1, 2]),
        ("description=plain text = with signs", lambda s: s.description, "plain text = with signs"),
        ('description="3"', lambda s: s.description, "3"),
        ("description=", lambda s: s.description, ""),
        ("model=lenet", lambda s: s.model, LeNet()),
        ("model.width=8", lambda s: s.model, MLP(width=8)),
        ('model={name = "mlp", depth = 2}', lambda s: s.model, MLP(depth=2)),
        ("partition=dirichlet", lambda s: s.partition, Dirichlet()),
        ("record.rounds=[1]", lambda s: s.record.rounds, [1]),
        ("record.rounds=all", lambda s: s.record.rounds, "all"),
        ("defenses.gaussian-noise.std=0.5", lambda s: s.defenses[1].chain, (GaussianNoise(std=0.5),)),
        ("defenses.1.std=0.5", lambda s: s.defenses[1].chain, (GaussianNoise(std=0.5),)),
        ("defenses.both.chain.0.max_norm=9", lambda s: s.defenses[2].chain[0], NormClipping(max_norm=9)),
        ("defenses.both.chain.magnitude-pruning.keep=1", lambda s: s.defenses[2].chain[1], MagnitudePruning(keep=1)),
        ("defenses.2.as=chained", lambda s: s.defenses[2].name, "chained"),
        ("defenses.none.as=plain", lambda s: s.defenses[0].name, "plain"),
        ("defenses.0={name = 'norm-clipping', max_norm = 1}", lambda s: s.defenses[0].name, "norm-clipping"),
        ('defenses=["none"]', lambda s: len(s.defenses), 1),
        ("attacks.IG.iterations=7", lambda s: s.attacks[1].attack.iterations, 7),
        ("attacks.dlg.iterations=7", lambda s: s.attacks[0].attack.iterations, 7),
        ("attacks=[]", lambda s: s.attacks, []),
        ("resources.engine=inline", lambda s: s.resources.engine, "inline"),
    ],
)
def test_an_override_sets_a_typed_value(planned, override, found, value):
    before, after = planned(DEFENDED), planned(DEFENDED, override)
    assert found(after.study) == value
    assert type(found(after.study)) is type(value)
    assert after.raw != before.raw or found(before.study) == value


def test_overrides_are_put_in_in_order(planned):
    assert planned(
        study(), "federation.rounds=5", "federation.rounds=6", "model=lenet", "model.activation=tanh"
    ).study.model == LeNet(activation="tanh")
    assert planned(study(), "federation.rounds=5", "federation.rounds=6").study.federation.rounds == 6


def test_an_override_may_set_an_axis_of_the_grid(planned):
    plan = planned(study('[grid]\n"training.batch_size" = [1, 2]'), 'grid={"training.batch_size" = [4]}')
    assert [cell.study.training.batch_size for cell in plan.cells] == [4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("federation.rounds", "--set federation.rounds: should be key=value, like federation.rounds=1"),
        ("=3", "--set =3: should be key=value"),
        ("federation.rounds=many", "federation.rounds = 'many' should be a valid integer"),
        ("federation.rounds='1'", "federation.rounds = '1' should be a valid integer"),
        ("federation.round=1", "federation.round: unknown key; did you mean 'rounds'?"),
        ("training.batch_size.x=1", "--set training.batch_size.x=1: 'training.batch_size.x' leads into a value"),
        ("defenses.gaussian.std=1", "--set defenses.gaussian.std=1: 'defenses.gaussian.std': there is no 'gaussian'; did"),
        ("defenses.3.std=1", "--set defenses.3.std=1: 'defenses.3.std': there is no '3'; choices: none, gaussian-noise, both"),
        ("defenses.-1.std=1", "--set defenses.-1.std=1: 'defenses.-1.std': there is no '-1'"),
        ("defenses.1.std=-1", "defenses[1].std = -1 should be greater than or equal to 0"),
        ("attacks.1.labels=ilgr", "attacks[1].labels.name = 'ilgr' is not known; did you mean 'ilrg'?"),
        ("model=[1", "model.name = '[1' is not known"),
        ("seeds=" + "9" * 5000, "seeds = '999"),
        ("x y=1", "'x y': unknown key"),
        ("grid.training.batch_size=[1]", "grid.training = {"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told(fault, override, message):
    text = fault(DEFENDED + "[training]\nbatch_size = 2\n", override)
    assert text.startswith(message)
    assert len(text.splitlines()) == 1


# Its canonical form

RICH = study(
    '[grid]\nmodel = ["mlp", {width = 8, name = "mlp"}]\n"federation.rounds" = [2, 1]\n"data" = ["digits"]\n'
    "[granted]\npublic = 3\n",
    seeds="[3, 1]",
    description='"ä"',
    defenses='["none", {chain = [{name = "norm-clipping", max_norm = 1}]}]',
    attacks='["mean", {name = "dlg", iterations = 2}]',
)


def cells(plan: Plan) -> list[Cell]:
    return list(plan.cells)


@pytest.mark.parametrize("text", [study(), RICH, study("[training]\nlearning_rate = 1e-7")])
def test_a_plan_comes_back_from_its_canonical_form(planned, text):
    plan = planned(text)
    back = plan_from_json(plan.canonical())
    assert back == plan
    assert cells(back) == cells(plan)
    assert [list(cell.axes.items()) for cell in back.cells] == [list(cell.axes.items()) for cell in plan.cells], "the order too"
    assert back.canonical() == plan.canonical()


def test_the_canonical_form_is_one_line_and_does_not_hang_on_the_order_of_keys(planned):
    one = planned(
        'name = "a"\ndata = "digits"\n[model]\nname = "mlp"\nwidth = 3\n[training]\nbatch_size = 2\nlearning_rate = 0.5'
    )
    other = planned(
        'model = {width = 3, name = "mlp"}\ndata = "digits"\nname = "a"\n[training]\nlearning_rate = 0.5\nbatch_size = 2'
    )
    assert one.canonical() == other.canonical()
    assert len(one.canonical().splitlines()) == 1
    assert json.loads(one.canonical()) == one.raw


def test_overrides_are_in_the_canonical_form(planned):
    assert planned(study(), "federation.rounds=9").canonical() == planned(study("[federation]\nrounds = 9")).canonical()


def test_another_study_has_another_canonical_form(planned):
    texts = [study(), study(seeds="[1]"), study("[training]\nbatch_size = 2"), RICH]
    assert len({planned(text).canonical() for text in texts}) == len(texts)


def test_the_order_of_axes_is_part_of_a_study_because_it_is_the_order_of_cells(planned):
    size, rounds = '"training.batch_size" = [1, 2]', '"federation.rounds" = [5, 6]'
    one, other = planned(study(f"[grid]\n{size}\n{rounds}")), planned(study(f"[grid]\n{rounds}\n{size}"))
    assert points(one) != points(other)
    assert one.canonical() != other.canonical()


def test_where_the_work_is_done_is_not_part_of_the_study(planned):
    assert planned(study("[resources]\nworkers = 4")).canonical() == planned(study()).canonical()


def test_studies_differ_in_the_keys_that_say_so(planned):
    one = planned(study())
    assert one.differs_from(planned(study("[resources]\nworkers = 3"))) == []
    assert one.differs_from(planned(study("[training]\nbatch_size = 2", seeds="[4]"))) == ["seeds", "training"]


def test_a_plan_is_made_of_a_dict_too():
    raw = {"name": "a", "data": "digits", "model": "mlp", "grid": {"training.batch_size": [1, 2]}}
    assert len(make_plan(raw).cells) == 2


# Campaigns and shipped studies


def test_a_campaign_is_attacks_grants_and_resources(tmp_path):
    (tmp_path / "attacks.toml").write_text('attacks = ["null", "mean"]\n[granted]\npublic = 5\n')
    campaign = read_campaign(tmp_path / "attacks.toml", ["attacks.null.as=random"])
    assert [named.name for named in campaign.attacks] == ["random", "mean"]
    assert campaign.granted == Grants(public=5)


def test_a_named_attack_comes_back_from_its_table(planned):
    for name in ATTACKS:
        tables = "[granted]\nlabels = true\npublic = 1"
        (named,) = planned(study(tables, attacks=f'[{{name = "{name}", as = "mine"}}]')).study.attacks
        assert named_attack(named.table()) == named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "attacks: missing; add this key"),
        ("attacks = []", "attacks = [] should have at least 1 item"),
        ('attacks = ["mean"]', "attacks[0] ('mean') needs public pictures"),
        ('attacks = ["null", "null"]', "attacks: two are called 'null'"),
        ('attacks = ["null"]\n[training]\n', "training: unknown key; choices: attacks, granted, resources"),
        ('attacks = ["nul"]', "attacks[0].name = 'nul' is not known; did you mean 'null'?"),
    ],
)
def test_a_malformed_campaign_is_told(tmp_path, text, message):
    path = tmp_path / "attacks.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_campaign(path)
    assert str(error.value).startswith(f"{path}: {message}")


SHIPPED = sorted(Path(studies.__file__).parent.glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_study_can_be_read_and_comes_back(path):
    if "model" not in read_toml(path):
        read_campaign(path)
    else:
        plan = read_plan(path)
        assert cells(plan_from_json(plan.canonical())) or plan.study.resources != Resources()
