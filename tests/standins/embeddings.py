"""A stand-in for an endpoint of OpenAI's protocol: `POST /v1/embeddings`, with a vector for every word that it knows."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a-key-that-nobody-may-read"
TOPICS = {"rate": 0, "step": 0, "faster": 0, "warmup": 1, "ramp": 1, "width": 2, "wider": 2}


class EmbeddingsStandIn:
    """Serves on a free port of this machine until `close`. Texts that share a topic are near each other, whatever their words."""

    def __init__(self) -> None:
        self.status = 200
        self.dimensions = 4
        self.body: bytes | None = None  # answered instead
        self.asked: list[list[str]] = []
        standin = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                standin.asked.append(asked["input"])
                known = self.path == "/v1/embeddings" and self.headers["authorization"] == f"Bearer {KEY}" and asked["model"] == "topics"
                self._answer(standin.status if known else 401, standin.vectors(asked["input"]))

            def _answer(self, status: int, content: dict[str, Any]) -> None:
                data = standin.body if standin.body is not None else json.dumps(content).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "http://127.0.0.1:9/elsewhere")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def vectors(self, texts: list[str]) -> dict[str, Any]:
        rows = []
        for index, text in enumerate(texts):
            vector = [0.0] * self.dimensions
            for word in text.lower().split():
                vector[TOPICS.get(word, self.dimensions - 1)] += 1.0 if word in TOPICS else 0.01
            rows.append({"index": index, "embedding": vector})
        return {"data": rows[::-1]}  # in any order, says the protocol
