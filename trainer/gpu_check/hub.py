"""Stands in for the Hugging Face hub on loopback, so that shards are downloaded as they are from the real one, without a network."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves files as the hub does: what names hash and size redirects to a storage, on another host, that names neither.

    Attributes:
        files: content by name. They may change while it serves.
        hashes: SHA-256 by name, as the hub claims it.
        small: names of files that are kept in git itself, not in a storage.
        endpoint: what to set $HF_ENDPOINT to.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.small: set[str] = set()
        self.hashes = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.describe(self)

            def do_GET(self) -> None:
                if self.path.startswith("/storage/"):
                    hub.send(self, unquote(self.path.removeprefix("/storage/")))
                elif self.path.startswith("/api/datasets/"):
                    hub.list(self)
                else:
                    hub.describe(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def describe(self, request: BaseHTTPRequestHandler) -> None:
        """Answer with hash and size of a file, and redirect to where it is stored."""
        name = unquote(request.path.partition("/resolve/")[2].partition("/")[2])
        if name not in self.files:
            request.send_error(404)
            return
        if name in self.small:
            self.send(request, name)
            return
        request.send_response(302)
        request.send_header("Location", f"http://localhost:{self._port}/storage/{quote(name)}")
        request.send_header("X-Linked-Etag", f'"{self.hashes[name]}"')
        request.send_header("X-Linked-Size", str(len(self.files[name])))
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def list(self, request: BaseHTTPRequestHandler) -> None:
        """Answer with the names of all files."""
        text = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def send(self, request: BaseHTTPRequestHandler, name: str) -> None:
        """Answer with a file's content; of a small one, with the hash that git has of it."""
        data = self.files[name]
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        if name in self.small:
            digest = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            request.send_header("ETag", f'"{digest}"')
            request.send_header("X-Repo-Commit", COMMIT)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
        request.close_connection = True

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
