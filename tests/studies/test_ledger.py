"""The ledger: complete files before rows, natural keys, one writer, the same digest for the same run."""

from pathlib import Path

import pytest
import torch

from attacks import Reconstruction
from learning.catalogue import SettingsError
from learning.tensors import Update
from studies.config import Grants, make_plan
from studies.ledger import Failure, Ledger, Result, Round, Victim

RAW = {
    "name": "small",
    "data": "digits",
    "model": {"name": "mlp", "width": 4},
    "attacks": ["ilrg", {"name": "inverting-gradients", "as": "ig, odd = name", "iterations": 1}],
}
UPDATE = Update({"w": torch.arange(6.0).reshape(2, 3)}, {"mean": torch.ones(3)})


def created(folder: Path) -> Ledger:
    return Ledger.create(folder, make_plan(RAW), "name = 'small'", {"python": "3"})


def filled(folder: Path) -> Ledger:
    ledger = created(folder)
    ledger.record_model(0, 1, {"w": torch.zeros(2, 3)})
    ledger.record_update(Victim(0, 1, 4), UPDATE, 7)
    ledger.record_update(Victim(0, 1, 2), UPDATE, 7)
    ledger.record_failure(Failure(Victim(0, 1, 9), "the client raised an error"))
    ledger.finish_round(Round(0, 1, 0.5, 1.25))
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = Reconstruction(images=images, labels=torch.eye(10)[:7], loss=0.5, history=(1.0, 0.5))
    result = Result(Victim(0, 1, 4), "ig, odd = name", "ok", "", {"psnr": [1.0, 2.0]}, 0.5, 0.1)
    ledger.record_result(result, found)
    return ledger


def test_what_is_written_is_read_back_by_another_process(tmp_path):
    with filled(tmp_path / "run"):
        pass
    ledger = Ledger(tmp_path / "run", write=False)
    assert ledger.update(Victim(0, 1, 4)).parameters["w"].equal(UPDATE.parameters["w"])
    assert ledger.update(Victim(0, 1, 4)).buffers["mean"].equal(UPDATE.buffers["mean"])
    assert ledger.observations() == {Victim(0, 1, 2): 7, Victim(0, 1, 4): 7}
    assert ledger.examples(Victim(0, 1, 2)) == 7
    assert ledger.rounds(0) == [Round(0, 1, 0.5, 1.25)]
    assert ledger.failures() == [Failure(Victim(0, 1, 9), "the client raised an error")]
    found = ledger.reconstruction(Victim(0, 1, 4), "ig, odd = name")
    assert found.history == (1.0, 0.5)
    assert found.labels is not None
    assert found.labels.equal(torch.eye(10)[:7])
    assert ledger.plan.study.name == "small"
    ledger.close()


def test_pending_is_every_update_and_attack_without_a_result(tmp_path):
    with filled(tmp_path / "run") as ledger:
        assert ledger.pending(10) == [
            (Victim(0, 1, 2), "ilrg"),
            (Victim(0, 1, 2), "ig, odd = name"),
            (Victim(0, 1, 4), "ilrg"),
        ]
        assert len(ledger.pending(2)) == 2


def test_writing_a_fact_again_changes_nothing(tmp_path):
    with filled(tmp_path / "run") as ledger:
        before, counts = ledger.digest(), ledger.counts()
        ledger.record_update(Victim(0, 1, 4), UPDATE, 7)
        ledger.record_failure(Failure(Victim(0, 1, 9), "the client raised an error"))
        ledger.finish_round(Round(0, 1, 0.5, 1.25))
        assert (ledger.digest(), ledger.counts()) == (before, counts)


def test_the_digest_is_of_contents_not_of_order_or_time(tmp_path):
    with filled(tmp_path / "a") as first, created(tmp_path / "b") as second:
        found = first.reconstruction(Victim(0, 1, 4), "ig, odd = name")
        second.record_result(
            Result(Victim(0, 1, 4), "ig, odd = name", "ok", "", {"psnr": [1.0, 2.0]}, 0.5, 99.0),
            Reconstruction(found.images, found.labels, 0.5, found.history),
        )
        second.finish_round(Round(0, 1, 0.5, 1.25))
        second.record_failure(Failure(Victim(0, 1, 9), "the client raised an error"))
        second.record_update(Victim(0, 1, 2), UPDATE, 7)
        second.record_update(Victim(0, 1, 4), UPDATE, 7)
        second.record_model(0, 1, {"w": torch.zeros(2, 3)})
        assert first.digest() == second.digest()
        second.record_model(0, 1, {"w": torch.full((2, 3), 1e-7)})
        assert first.digest() != second.digest()


def test_a_model_that_training_lets_go_of_while_the_digest_is_made_is_left_out(tmp_path, monkeypatch):
    """The report of a run in progress: files are listed, and one is gone when its turn comes."""
    with filled(tmp_path) as ledger:
        ledger.record_model(0, 2, {"w": torch.ones(2, 3)})
        listed = list(ledger._files())
        ledger.forget_model(0, 2)
        without = ledger.digest()
        assert len(list(ledger._files())) < len(listed)
        monkeypatch.setattr(ledger, "_files", lambda: iter(listed))
        assert ledger.digest() == without


@pytest.mark.parametrize("change", ["score", "accuracy", "reason", "update"])
def test_the_digest_sees_every_change(tmp_path, change):
    with filled(tmp_path / "run") as ledger:
        before = ledger.digest()
        if change == "score":
            result = Result(Victim(0, 1, 4), "ig, odd = name", "ok", "", {"psnr": [1.0, 2.5]}, 0.5, 0.1)
            ledger.record_result(result, None)
        elif change == "accuracy":
            ledger.finish_round(Round(0, 1, 0.5000001, 1.25))
        elif change == "reason":
            ledger.record_failure(Failure(Victim(0, 1, 9), "another"))
        else:
            ledger.record_update(Victim(0, 1, 4), UPDATE.map(lambda t: t + 1e-6), 7)
        assert ledger.digest() != before


def test_a_file_that_a_kill_left_unfinished_is_swept_away(tmp_path):
    filled(tmp_path / "run").close()
    unfinished = tmp_path / "run" / "cells" / "0000" / "round-0001" / ".client-0004.safetensors.123"
    unfinished.write_bytes(b"half")
    with Ledger(tmp_path / "run", write=True):
        assert not unfinished.exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"holds no run.*give the folder of a run"):
        Ledger(tmp_path, write=False)


def test_a_damaged_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"this is not a database" * 100)
    with pytest.raises(SettingsError, match="not a ledger, or is damaged"):
        Ledger(tmp_path, write=False)


def test_a_damaged_tensor_file_is_named(tmp_path):
    with filled(tmp_path / "run") as ledger:
        path = tmp_path / "run" / "cells" / "0000" / "round-0001" / "client-0004.safetensors"
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(ValueError, match=r"client-0004\.safetensors.*not a safetensors file"):
            ledger.update(Victim(0, 1, 4))


def test_a_second_writer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.ledger.LOCK_SECONDS", 0.1)
    with created(tmp_path / "run"), pytest.raises(SettingsError, match="another process is writing"):
        Ledger(tmp_path / "run", write=True)
    Ledger(tmp_path / "run", write=True).close()  # the lock is free again


def test_an_attack_of_the_same_name_with_other_settings_is_refused(tmp_path):
    changed = {**RAW, "attacks": ["ilrg", {"name": "inverting-gradients", "as": "ig, odd = name", "iterations": 2}]}
    with created(tmp_path / "run") as ledger, pytest.raises(SettingsError, match=r"'ig, odd = name' was run before.*`as`"):
        ledger.add_attacks(make_plan(changed).study.attacks, Grants())


def test_grants_that_an_earlier_version_did_not_know_are_not_other_grants(tmp_path):
    attacks = make_plan(RAW).study.attacks
    with created(tmp_path / "run") as ledger:
        ledger._write("UPDATE attacks SET granted = ?", '{"labels":false,"public":0}')
        ledger.add_attacks(attacks, Grants())
        with pytest.raises(SettingsError, match="other settings or grants"):
            ledger.add_attacks(attacks, Grants(earlier=1))


def test_the_rounds_before_are_the_same_client_s_last_in_their_order(tmp_path):
    with created(tmp_path / "run") as ledger:
        for round, client in ((1, 4), (2, 4), (2, 5), (3, 4), (5, 4), (6, 4)):
            ledger.record_update(Victim(0, round, client), UPDATE, 7)
        assert ledger.before(Victim(0, 5, 4), 2) == [Victim(0, 2, 4), Victim(0, 3, 4)]
        assert ledger.before(Victim(0, 5, 4), 9) == [Victim(0, 1, 4), Victim(0, 2, 4), Victim(0, 3, 4)]
        assert ledger.before(Victim(0, 1, 4), 2) == ledger.before(Victim(0, 5, 4), 0) == []
