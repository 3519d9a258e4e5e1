"""Tensors by name, on disk and in hand, and derived seeds."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learning.tensors import (
    Batch,
    Update,
    buffers_of,
    derived_seed,
    generator,
    load_state,
    parameters_of,
    read_checkpoint,
    read_tensors,
    write_tensors,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        t.dtype == other[n].dtype and t.shape == other[n].shape and torch.equal(t, other[n]) for n, t in one.items()
    )


DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    )
)
def test_what_is_written_is_read(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("tensors") / "deep" / "er" / "file.safetensors"
    rng = generator("round trip")
    tensors = {name: (100 * torch.randn(shape, generator=rng)).to(dtype) for name, (dtype, shape) in kinds.items()}
    write_tensors(path, tensors)
    assert equal(read_tensors(path), tensors)


def test_special_numbers_and_strided_tensors_survive_the_disk(tmp_path):
    special = torch.tensor([float("inf"), -float("inf"), -0.0, 5e-324], dtype=torch.float64)
    strided = torch.arange(12.0).reshape(3, 4).T
    write_tensors(tmp_path / "t", {"special": special, "strided": strided, "leaf": nn.Parameter(torch.ones(2))})
    found = read_tensors(tmp_path / "t")
    assert torch.equal(found["special"].view(torch.int64), special.view(torch.int64))
    assert torch.equal(found["strided"], strided)


def test_tensors_that_were_read_can_be_written_to(tmp_path):
    write_tensors(tmp_path / "t", {"a": torch.zeros(2)})
    assert read_tensors(tmp_path / "t")["a"].add_(1).tolist() == [1, 1]


def test_a_write_that_is_killed_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"a": torch.zeros(3)})
    whole = Path.write_bytes

    def killed(self: Path, data: bytes) -> int:
        whole(self, data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(path, {"a": torch.ones(3)})
    assert read_tensors(path)["a"].tolist() == [0, 0, 0]


def test_writing_leaves_nothing_beside_the_file(tmp_path):
    for value in (0.0, 1.0):
        write_tensors(tmp_path / "state.safetensors", {"a": torch.full((3,), value)})
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    assert read_tensors(tmp_path / "state.safetensors")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
@pytest.mark.parametrize("read", [read_tensors, read_checkpoint])
def test_a_file_that_holds_no_tensors_is_named(tmp_path, content, read):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.safetensors' is not a safetensors file"):
        read(path)


def test_a_file_cut_short_is_named(tmp_path):
    path = tmp_path / "short.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"short\.safetensors' is not a safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("read", "ending"), [(read_tensors, "safetensors"), (read_checkpoint, "safetensors"), (read_checkpoint, "pt")]
)
def test_a_missing_file_and_a_folder_are_named(tmp_path, read, ending):
    with pytest.raises(ValueError, match=r"cannot read '.*gone\..*': No such file"):
        read(tmp_path / f"gone.{ending}")
    (tmp_path / f"folder.{ending}").mkdir()
    with pytest.raises(ValueError, match=r"folder\."):
        read(tmp_path / f"folder.{ending}")


def test_a_checkpoint_is_read_in_both_formats(tmp_path):
    state = network().state_dict()
    torch.save(state, tmp_path / "weights.pt")
    write_tensors(tmp_path / "weights.safetensors", state)
    assert equal(read_checkpoint(tmp_path / "weights.pt"), dict(state))
    assert equal(read_checkpoint(tmp_path / "weights.safetensors"), dict(state))


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


@pytest.mark.parametrize("content", [Malicious(), {"a": Malicious()}])
def test_code_in_a_checkpoint_is_not_run(tmp_path, content):
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt' is neither safetensors nor a PyTorch file of weights"):
        read_checkpoint(tmp_path / "evil.pt")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(1)])
def test_a_checkpoint_without_names_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt' does not hold tensors by name; save a model's state_dict"):
        read_checkpoint(tmp_path / "list.pt")


def test_a_models_state_goes_over_to_another():
    one, other = network(), network()
    buffers_of(one)["1.running_mean"].fill_(3.0)
    state = parameters_of(one) | buffers_of(one)
    load_state(other, state)
    assert equal(parameters_of(other) | buffers_of(other), state)
    parameters_of(one)["3.bias"].add_(1)
    assert not torch.equal(parameters_of(one)["3.bias"], parameters_of(other)["3.bias"]), "the copy shares memory"


def test_buffers_may_be_left_out_and_the_counter_of_batches_is_ignored():
    one, other = network(), network()
    load_state(other, parameters_of(one))
    load_state(other, one.state_dict())
    assert equal(parameters_of(other), parameters_of(one))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("3.weight"), r"missing \['3\.weight'\]"),
        (lambda state: state.update({"4.weight": torch.zeros(1)}), r"unknown \['4\.weight'\]"),
        (lambda state: state.update({"3.bias": torch.zeros(4)}), r"'3\.bias' has shape \(4,\), the model needs \(3,\)"),
        (lambda state: state.update({"1.running_var": torch.zeros(1)}), r"'1\.running_var' has shape"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(change, message):
    model, state = network(), dict(network().state_dict())
    before = {name: tensor.clone() for name, tensor in (parameters_of(model) | buffers_of(model)).items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        load_state(model, state)
    assert equal(parameters_of(model) | buffers_of(model), before)


def test_buffers_that_are_no_state_and_integers_are_left_out():
    model = network()
    model.register_buffer("constant", torch.ones(1), persistent=False)
    assert list(buffers_of(model)) == ["1.running_mean", "1.running_var"]


def test_an_update_maps_its_parameters_and_keeps_its_buffers():
    update = Update({"a": torch.ones(2, 2), "b": torch.ones(1)}, {"mean": torch.ones(3)})
    doubled = update.map(lambda tensor: 2 * tensor)
    assert doubled.flat().tolist() == [2] * 5
    assert update.flat().tolist() == [1] * 5
    assert doubled.buffers["mean"].tolist() == [1, 1, 1]


def test_an_updates_vector_is_in_the_order_of_its_names():
    assert Update({"b": torch.tensor([1.0]), "a": torch.tensor([[2.0, 3.0]])}).flat().tolist() == [1, 2, 3]


def test_an_update_goes_into_one_dict_and_back():
    update = Update({"a": torch.ones(2), "buffer": torch.zeros(1)}, {"a": torch.full((1,), 7.0)})
    back = Update.of(update.named())
    assert equal(back.parameters, update.parameters)
    assert equal(back.buffers, update.buffers)


def test_a_batch_with_wrong_shapes_is_refused_under_test():
    images = torch.zeros(2, 1, 8, 8)
    assert len(Batch(images, torch.zeros(2, dtype=torch.long))) == 2
    for wrong in (torch.zeros(3, dtype=torch.long), torch.zeros(2), torch.zeros(2, 1, dtype=torch.long)):
        with pytest.raises(Exception, match=r"(?i)type-check"):
            Batch(images, wrong)


PARTS = st.lists(st.integers() | st.text(max_size=5), min_size=1, max_size=4).map(tuple)


@given(PARTS, PARTS)
def test_a_derived_seed_depends_on_all_parts_and_their_order(one, other):
    assert 0 <= derived_seed(*one) < 2**63
    assert (derived_seed(*one) == derived_seed(*other)) == (one == other)


def test_a_derived_seed_is_not_fooled_by_where_parts_end():
    assert len({derived_seed(1, 23), derived_seed(12, 3), derived_seed(123), derived_seed("1", 23), derived_seed("1, 23")}) == 5


def test_derived_seeds_are_the_same_in_every_process_and_version():
    assert derived_seed(0, "batch", 3, 7) == 3924240898744693452


def test_a_generator_gives_the_same_draws_for_the_same_parts(untouched_random_state):
    def draws(*parts):
        return torch.rand(4, generator=generator(*parts)).tolist()

    assert draws(1, "a") == draws(1, "a")
    assert draws(1, "a") != draws(1, "b")
    assert generator(1).device.type == "cpu"


def test_neighbouring_seeds_give_uncorrelated_draws():
    one, other = (torch.stack([torch.randn(50, generator=generator(s + shift)) for s in range(200)]) for shift in (0, 1))
    correlation = float((one * other).mean() / (one.std() * other.std()))
    assert abs(correlation) < 5 / 10_000**0.5


def test_seeds_leave_every_other_generator_alone(untouched_random_state):
    states = random.getstate(), pickle.dumps(np.random.get_state())
    generator(0, "x")
    assert (random.getstate(), pickle.dumps(np.random.get_state())) == states
