"""The certificates of a federation of one's own: a client that trusts the authority, and no other, speaks with the server."""

import socket
import ssl
import stat
import threading

import pytest

from curious.certificates import write_certificates


def greeted(server_folder, trusted_folder, name: str) -> bytes:
    """What a client that trusts one folder's authority reads from a server with the other's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_folder / "server.pem", server_folder / "server.key")
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with context.wrap_socket(theirs, server_side=True) as speaking:
                speaking.sendall(b"hello")
        except OSError:
            theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    trusting = ssl.create_default_context(cafile=trusted_folder / "ca.crt")
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does by itself from 3.13 on
    try:
        with trusting.wrap_socket(ours, server_hostname=name) as client:
            return client.recv(5)
    finally:
        ours.close()
        server.join()


@pytest.fixture
def folders(tmp_path):
    write_certificates(tmp_path / "own", ["superlink", "10.0.0.7"])
    write_certificates(tmp_path / "other")
    return tmp_path / "own", tmp_path / "other"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "superlink", "10.0.0.7"])
def test_a_server_is_known_by_each_of_its_names(folders, name):
    own, _ = folders
    assert greeted(own, own, name) == b"hello"


def test_another_name_and_another_authority_are_refused(folders):
    own, other = folders
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        greeted(own, own, "elsewhere")
    with pytest.raises(ssl.SSLCertVerificationError, match="CERTIFICATE_VERIFY_FAILED"):
        greeted(own, other, "localhost")


def test_the_key_is_for_its_owner_alone_also_when_it_is_made_anew(folders):
    own, _ = folders
    before = (own / "server.key").read_bytes()
    (own / "server.key").chmod(0o644)
    write_certificates(own)
    assert stat.S_IMODE((own / "server.key").stat().st_mode) == 0o600
    assert (own / "server.key").read_bytes() != before
