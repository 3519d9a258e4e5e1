"""The study `quick` on a Ray cluster of three machines, which are three groups of processes on this one."""

import contextlib
import warnings
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from attacks.workers import RESOURCE
from tests.end_to_end.test_processes import contents, finished, has_results, started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


SMALL = ["--set", 'defenses=["none"]', "--set", "start.after_rounds=4"]


@contextlib.contextmanager
def cluster_of_three(**each) -> Iterator[tuple[Cluster, list]]:
    """A head that computes nothing, and two machines with a processor and room for an attack worker `each`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            yield cluster, [cluster.add_node(num_cpus=1, resources={RESOURCE: 1}, **each) for _ in range(2)]
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[tuple, str]:
    """What a run without any cluster leaves: the ledger's digest and counts, and the line that tells it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, told, complained = finished(out, *SMALL, "--set", "resources.engine=inline")
    assert code == 0, complained
    return contents(out), ledger_line(told)


def ledger_line(told: str) -> str:
    return next(line for line in told.splitlines() if line.startswith("ledger "))


@pytest.mark.parametrize("results", [0, 8])
def test_a_machine_that_dies_at_the_start_or_in_the_middle_changes_nothing(whole, tmp_path, results):
    out = tmp_path / "run"
    with cluster_of_three() as (cluster, machines):
        process = started(out, *SMALL, "--address", cluster.address, "--workers", "2")
        try:
            wait_for(lambda: has_results(out, results))
            cluster.remove_node(machines[0], allow_graceful=False)
            told, complained = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 0, complained
    assert (contents(out), ledger_line(told)) == whole


def test_fractions_of_gpus_are_taken_from_the_cluster_and_change_nothing_where_there_is_no_real_one(whole, tmp_path):
    """What Ray counts as a GPU is none here: that they are shared is seen, and that they compute is not."""
    out, shares = tmp_path / "run", ["--set", "resources.worker_gpus=0.5", "--set", "resources.client_gpus=0.5"]
    with cluster_of_three(num_gpus=1) as (cluster, _):
        process = started(out, *SMALL, *shares, "--address", cluster.address, "--workers", "2")
        try:
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
            wait_for(lambda: has_results(out, 1))
            left = ray.available_resources().get("GPU", 0.0)
            told, complained = process.communicate(timeout=600)
        finally:
            process.kill()
            ray.shutdown()
    assert process.returncode == 0, complained
    assert left == 0.0, "of two, the two workers have one half each, and the two clients the others"
    assert (contents(out), ledger_line(told)) == whole


def test_attacks_alone_in_ray_change_nothing(whole, tmp_path):
    out = tmp_path / "run"
    code, told, complained = finished(out, *SMALL, "--workers", "2", "--set", "resources.engine=ray-attacks")
    assert code == 0, complained
    assert (contents(out), ledger_line(told)) == whole
