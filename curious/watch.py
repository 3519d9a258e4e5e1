"""The report of a run on a page of this machine, while the run goes on. It only reads: the run's folder stays as it is.

The page asks for itself anew until the run is over, by a header and not by a script, so that it may run none.
"""

import html
import math
import sys
import threading
import time
from collections.abc import Collection
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from learning.catalogue import SettingsError
from studies.ledger import Ledger
from studies.report import page, progress

LOOPBACK = "127.0.0.1"
LEAST_SECONDS = 3.0  # between two looks
SHARE = 5.0  # a page that takes a second to write is asked for every five
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Live:
    """The report as it stands, written anew when the ledger has more than at the last look. One look at a time."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._mutex = threading.Lock()
        self._seen: object = None
        self._page, self._seconds = "", 0.0

    def look(self) -> tuple[str, float | None]:
        """The page, and after how many seconds to look again: None once the run is over."""
        with self._mutex:
            try:
                return self._look()
            except (SettingsError, ValueError) as reason:  # no run there yet, or one whose pictures cannot be read
                return _note(f"{reason}. This page looks again by itself."), LEAST_SECONDS

    def _look(self) -> tuple[str, float | None]:
        with Ledger(self._folder, write=False) as ledger:
            far = progress(ledger)
            if far != self._seen:
                begin = time.monotonic()
                self._page = page(ledger)
                self._seen, self._seconds = far, time.monotonic() - begin
        return self._page, None if far["over"] else max(LEAST_SECONDS, SHARE * self._seconds)


def _note(text: str) -> str:
    return f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>curious watch</title><p>{html.escape(text)}</p></html>'


class Watch(ThreadingHTTPServer):
    """Serves the report of `folder` at `/` of this machine's own loopback address, and takes nothing in.

    A request whose Host header is another name than this machine's or one of `hosts` is refused: a page from elsewhere that
    has its own name lead here (DNS rebinding) would otherwise read the report. Raises `SettingsError` if the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0, hosts: Collection[str] = ()):
        self.live = Live(folder)
        self.hosts = {LOOPBACK, "localhost", *(host.lower() for host in hosts)}
        try:
            super().__init__((LOOPBACK, port), _Request)
        except OSError as error:
            raise SettingsError(f"--port {port}: {error.strerror}; give another one, or 0 for any that is free") from None

    @property
    def address(self) -> str:
        """Where the report is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser that goes away in the middle of a page is no error
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


class _Request(BaseHTTPRequestHandler):
    server: Watch  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "curious", ""
    timeout = 30  # seconds for a request to come in whole

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0].lower() not in self.server.hosts:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, _note("This host is not watched here; allow it with --host."))
        elif self.path.partition("?")[0] != "/":
            self._answer(HTTPStatus.NOT_FOUND, _note("There is one page here: /"))
        else:
            self._answer(HTTPStatus.OK, *self.server.live.look())

    def _answer(self, status: HTTPStatus, text: str, again: float | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if again is not None:
            self.send_header("Refresh", str(math.ceil(again)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
