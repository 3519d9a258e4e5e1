"""The live page: what it shows, that it only reads, and whom it refuses."""

import contextlib
import http.client
import re
import socket
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curious.cli import app
from curious.watch import Watch
from learning.catalogue import SettingsError
from studies.ledger import Ledger
from tests.federations import SMALL, changed, run


@contextlib.contextmanager
def watching(folder: Path, hosts: tuple[str, ...] = ()):
    with Watch(folder, hosts=hosts) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def asked(server: Watch, method: str = "GET", path: str = "/", host: str | None = None) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched") / "run"
    run(folder, changed(defenses=["none"], attacks=["ilrg", "null"])).close()
    return folder


@pytest.fixture(scope="module")
def served(finished_run):
    with watching(finished_run, hosts=("Lab.example",)) as server:
        yield server


def test_the_page_follows_a_run_from_before_its_beginning_to_its_end(tmp_path):
    folder = tmp_path / "run"
    half = changed(attacks=["ilrg", "null"], defenses=["none"], federation={"rounds": 2})
    with watching(folder) as server:
        status, headers, page = asked(server)
        assert status == 200
        assert "holds no run" in page
        assert int(headers["refresh"]) >= 1

        with run(folder, half) as ledger:
            done = ledger.results()
            ledger._write("DELETE FROM results WHERE attack = 'null'")  # as it was before the last attacks
            _, headers, page = asked(server)
            assert "This run is not finished" in page
            assert f"{len(done) // 2} of {len(done)} attacks" in page
            assert int(headers["refresh"]) >= 1
        run(folder, half).close()

        _, headers, page = asked(server)
        assert "This run is not finished" not in page
        assert "refresh" not in headers


def test_watching_leaves_the_folder_as_it_is(finished_run):
    with Ledger(finished_run, write=False) as ledger:
        digest = ledger.digest()
    before = everything_in(finished_run)
    with watching(finished_run) as server:
        for _ in range(3):
            assert asked(server)[0] == 200
    assert everything_in(finished_run) == before
    with Ledger(finished_run, write=False) as ledger:
        assert ledger.digest() == digest


def test_a_writer_goes_on_while_it_is_watched(finished_run):
    with watching(finished_run) as server, Ledger(finished_run, write=True) as ledger:
        assert asked(server)[0] == 200
        ledger.finish_round(ledger.rounds()[-1])
        assert asked(server)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(served, method):
    assert asked(served, method)[0] == 501


@pytest.mark.parametrize("path", ["/ledger.sqlite", "/../ledger.sqlite", "/%2e%2e/study.toml", "/report.html", "/?/../x"])
def test_no_file_can_be_reached(served, path):
    status, _, page = asked(served, path=path)
    assert status == (200 if path.startswith("/?") else 404)
    assert "SQLite format" not in page


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "", "localhost.evil.example"])
def test_a_foreign_host_is_refused(served, host):
    status, _, page = asked(served, host=host)
    assert status == 421
    assert "small" not in page


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8642", "127.0.0.1:1", "lab.example"])
def test_this_machine_and_the_hosts_that_are_named_are_answered(served, host):
    assert asked(served, host=host)[0] == 200


def test_the_page_needs_no_more_than_its_policy_allows(served):
    _, headers, page = asked(served)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*["']""", page)


def test_the_address_is_this_machines_own(served):
    assert served.server_address[0] == "127.0.0.1"
    assert served.address == f"http://127.0.0.1:{served.server_port}/"


def test_a_port_that_is_taken_is_refused_in_words(finished_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--port {port}: .*another one"):
            Watch(finished_run, port)
        result = CliRunner().invoke(app, ["watch", str(finished_run), "--port", str(port)])
        assert result.exit_code == 2
        assert "another one" in result.output


def test_a_name_with_markup_in_it_is_shown_as_it_is(tmp_path):
    marked = "<b onclick=alert(1)>&amp;</b>"
    folder = tmp_path / "run"
    run(folder, changed(description=marked, defenses=["none"], attacks=["null"])).close()
    with watching(folder) as server:
        page = asked(server)[2]
    assert marked not in page
    assert "&lt;b onclick=alert(1)&gt;&amp;amp;&lt;/b&gt;" in page
    with watching(tmp_path / marked) as server:
        assert marked not in asked(server)[2]
    assert SMALL.get("description") is None
