"""Settings that check themselves, and catalogues that say what is wrong with a table."""

import contextlib
import dataclasses
import math
import pickle
from typing import Annotated, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BeforeValidator, Field

from learning.catalogue import (
    Count,
    Fraction,
    Index,
    NotNegative,
    Positive,
    SettingsError,
    build,
    choices,
    chosen_from,
    describe,
    name_of,
    placed,
    settings,
    table_of,
)
from learning.data import DATA
from learning.models import MODELS
from learning.partitions import PARTITIONS


class Lamp:
    """What the lamps have in common."""


LAMPS: dict[str, type[Lamp]] = {}


@settings
class Candle(Lamp):
    height: Positive
    wicks: Count = 1


@settings
class Lantern(Lamp):
    holds: Annotated[Lamp, BeforeValidator(chosen_from(LAMPS))]
    mode: Literal["dim", "full"] = "dim"
    nights: Literal["all"] | Annotated[list[Count], Field(min_length=1)] = "all"


@settings
class Spark(Lamp):
    pass


LAMPS.update({"candle": Candle, "lantern": Lantern, "spark": Spark})


def fault(table: object) -> str:
    with pytest.raises(SettingsError) as error:
        build(LAMPS, table)
    return str(error.value)


def test_a_table_builds_the_class_that_its_name_picks():
    assert build(LAMPS, {"name": "candle", "height": 2}) == Candle(height=2.0)
    assert build(LAMPS, {"name": "lantern", "holds": {"name": "candle", "height": 2.5, "wicks": 3}}) == Lantern(
        holds=Candle(height=2.5, wicks=3)
    )


def test_a_bare_name_is_short_for_a_table():
    assert build(LAMPS, "spark") == build(LAMPS, {"name": "spark"}) == Spark()
    assert build(LAMPS, {"name": "lantern", "holds": "spark"}) == Lantern(holds=Spark())


def test_a_chosen_value_that_is_built_already_stays_as_it_is():
    candle = Candle(height=1)
    assert chosen_from(LAMPS)(candle) is candle


def test_building_leaves_the_table_as_it_was():
    table = {"name": "lantern", "holds": {"name": "candle", "height": 1}}
    build(LAMPS, table)
    assert table == {"name": "lantern", "holds": {"name": "candle", "height": 1}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("candel", "name = 'candel' is not known; did you mean 'candle'? choices: candle, lantern, spark"),
        ("zzz", "name = 'zzz' is not known; choices: candle, lantern, spark"),
        ({}, "has no `name`; choices: candle, lantern, spark"),
        ({"name": 3}, "name = 3 is not known; choices: candle, lantern, spark"),
        ({"name": ["spark"]}, "name = ['spark'] is not known; did you mean 'spark'? choices: candle, lantern, spark"),
        (3, "3 should be a name or a table with a `name`; choices: candle, lantern, spark"),
        (None, "None should be a name or a table with a `name`; choices: candle, lantern, spark"),
        ("candle", "height: missing; add this key"),
        ({"name": "candle", "hight": 1, "height": 1}, "hight: unknown key; did you mean 'height'? choices: height, wicks"),
        ({"name": "spark", "height": 1}, "height: unknown key; there is nothing to set here"),
        ({"name": "candle", "height": 1, "no-such Key": 1}, "'no-such Key': unknown key; choices: height, wicks"),
        ({"name": "candle", "height": "1"}, "height = '1' should be a valid number"),
        ({"name": "candle", "height": True}, "height = True should be a valid number"),
        ({"name": "candle", "height": 0}, "height = 0 should be greater than 0"),
        ({"name": "candle", "height": 1, "wicks": 1.0}, "wicks = 1.0 should be a valid integer"),
        ({"name": "lantern", "holds": "spark", "mode": "ful"}, "mode = 'ful' should be 'dim' or 'full'"),
        (
            {"name": "lantern", "holds": {"name": "lantern", "holds": {"name": "candle", "height": -1}}},
            "holds.holds.height = -1 should be greater than 0",
        ),
        (
            {"name": "lantern", "holds": {"name": "spark", "a\nb": 1}},
            "holds.'a\\nb': unknown key; there is nothing to set here",
        ),
        ({"name": "lantern", "holds": "sparc"}, "holds.name = 'sparc' is not known; did you mean 'spark'? choices: candle, "),
        ({"name": "lantern", "holds": 3}, "holds: 3 should be a name or a table"),
    ],
)
def test_a_fault_is_one_line_with_its_place_its_value_and_the_remedy(table, message):
    text = fault(table)
    assert text.startswith(message)
    assert len(text.splitlines()) == 1


def test_every_fault_gets_its_own_line():
    text = fault({"name": "candle", "wicks": 0, "wax": 1})
    assert sorted(line.split(" ")[0] for line in text.splitlines()) == ["height:", "wax:", "wicks"]


@pytest.mark.parametrize(
    ("nights", "message"),
    [
        ("al", "nights = 'al' should be 'all' or a list"),
        (3, "nights = 3 should be 'all' or a list"),
        ([1, 0], "nights[1] = 0 should be greater than or equal to 1"),
    ],
)
def test_a_union_that_fits_no_member_is_one_fault(nights, message):
    assert fault({"name": "lantern", "holds": "spark", "nights": nights}) == message


def test_two_wrong_items_of_a_union_are_two_faults():
    assert fault({"name": "lantern", "holds": "spark", "nights": [0, 1, -1]}).splitlines() == [
        "nights[0] = 0 should be greater than or equal to 1",
        "nights[2] = -1 should be greater than or equal to 1",
    ]


def test_a_long_value_is_cut_in_the_message():
    assert len(fault({"name": "candle", "height": "x" * 10_000})) < 120


def test_a_fault_seen_from_outside_keeps_its_inner_place():
    inner = SettingsError("height = 0 should be more\nname = 'x' is not known\nhas no `name`\n3 should be a table")
    assert str(placed("lamps[0]", inner)).splitlines() == [
        "lamps[0].height = 0 should be more",
        "lamps[0].name = 'x' is not known",
        "lamps[0]: has no `name`",
        "lamps[0]: 3 should be a table",
    ]


def test_a_nested_models_unknown_key_names_that_models_keys():
    class Inner(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        width: int = 1

    class Outer(pydantic.BaseModel):
        inner: Inner = Inner()

    given = {"inner": {"widht": 1}}
    with pytest.raises(pydantic.ValidationError) as error:
        Outer(**given)
    assert describe(error.value, Outer, given) == "inner.widht: unknown key; did you mean 'width'? choices: width"


def test_a_checks_own_error_is_told_without_pydantics_words():
    @settings
    class Checked:
        low: int
        high: int

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError(f"low = {self.low} is above high = {self.high}; lower it")

    with pytest.raises(SettingsError, match=r"^low = 2 is above high = 1; lower it$"):
        build({"checked": Checked}, {"name": "checked", "low": 2, "high": 1})


@given(st.text(max_size=12))
def test_any_wrong_name_gets_all_choices(wrong):
    if wrong not in LAMPS:
        assert fault({"name": wrong}).endswith("choices: candle, lantern, spark")


@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.integers())))
def test_any_table_builds_or_raises_a_settings_error(table):
    with contextlib.suppress(SettingsError):
        assert isinstance(build(LAMPS, table | {"name": "candle"}), Candle)


def test_the_nearest_choice_comes_first():
    assert choices("ResNet18", ["resnet18", "mlp"]) == "did you mean 'resnet18'? choices: resnet18, mlp"


def test_a_value_knows_its_catalogue_name():
    assert [name_of(LAMPS, build(LAMPS, {"name": "candle", "height": 1})), name_of(LAMPS, Spark())] == ["candle", "spark"]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (Positive, [1e-9, 1, 1e9], [0, -1, math.inf, math.nan, True, "1"]),
        (NotNegative, [0, 1.5], [-1e-9, math.inf, math.nan, False, None]),
        (Fraction, [1e-9, 1], [0, 1.0001, math.nan, -1]),
        (Count, [1, 2**31 - 1], [0, -1, 1.0, True, 2**31]),
        (Index, [0, 2**31 - 1], [-1, 0.0, False, 10**30]),
    ],
)
def test_numbers_are_kept_in_their_range(kind, right, wrong):
    adapter = pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(strict=True))
    for value in right:
        assert adapter.validate_python(value) == value
    for value in wrong:
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize(
    "value", [Spark(), Candle(height=2, wicks=3), Lantern(holds=Lantern(holds=Candle(height=1)), nights=[1])]
)
def test_a_value_comes_back_from_its_table(value):
    table = table_of(LAMPS, value)
    assert build(LAMPS, table) == value
    assert set(table) == {"name", *(field.name for field in dataclasses.fields(value))}


REQUIRED = {"image-folder": {"root": "pictures"}, "precode": {"network": "mlp"}}
SETTINGS = [(name, cls) for catalogue in (DATA, PARTITIONS, MODELS) for name, cls in catalogue.items()]


@pytest.mark.parametrize(("name", "cls"), SETTINGS)
def test_settings_are_frozen_hashable_and_picklable(name, cls):
    made, again = cls(**REQUIRED.get(name, {})), cls(**REQUIRED.get(name, {}))
    assert made == again
    assert made is not again
    assert hash(made) == hash(again)
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises((dataclasses.FrozenInstanceError, pydantic.ValidationError)):
        made.name = "other"  # pyright: ignore
    for field in dataclasses.fields(made):
        with pytest.raises((dataclasses.FrozenInstanceError, pydantic.ValidationError)):
            setattr(made, field.name, getattr(made, field.name))


@pytest.mark.parametrize(("name", "cls"), SETTINGS)
def test_settings_are_keyword_only_and_refuse_unknown_keys(name, cls):
    with pytest.raises((TypeError, pydantic.ValidationError)):
        cls(1)
    with pytest.raises(pydantic.ValidationError):
        cls(**REQUIRED.get(name, {}), no_such_key=1)


def test_different_classes_with_equal_fields_are_not_equal():
    assert DATA["digits"]() != DATA["mnist"]()
