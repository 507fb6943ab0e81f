"""The door for Prometheus: one page over HTTP, in a thread of its own, so that no round waits for who reads it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fedfleet.cloud.exposition import CONTENT_TYPE
from fedfleet.wire.errors import SettingsError

log = logging.getLogger("fedfleet.aggregator")
PATH = "/metrics"
SLOW = 10.0  # seconds in which a reader must have asked, and taken the answer


class Scrape:
    """Serves what `page` returns, which is called in threads of this server's."""

    def __init__(self, host: str, port: int, page: Callable[[], str]) -> None:
        """Listen at `host` and `port`, a free one for 0; raises SettingsError where that cannot be."""
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(page))
        except OSError as error:
            raise SettingsError(f"metrics: {host}:{port}: {error.strerror}; choose another host or port") from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(page: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SLOW

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(404, f"the metrics are at {PATH}")
                return
            body = page().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            log.debug(format, *args)

    return Handler
