"""An OpenAI-compatible completions endpoint that draws from a table, on 127.0.0.1, with faults to order."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

from dspec.testing.models.tabular import LETTERS, checked_table, encode

# What a server may answer instead of a completion: (status, body).
FAULTS = {
    "status 500": (500, b"out of memory"),
    "not JSON": (200, b"<html>hello</html>"),
    "no choices": (200, b'{"choices": []}'),
    "a chat answer": (200, b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}'),
    "no text": (200, b'{"choices": [{"text": null, "finish_reason": "stop"}]}'),
    "unknown finish": (200, b'{"choices": [{"text": "ab", "finish_reason": "banana"}]}'),
    "foreign text": (200, b'{"choices": [{"text": "a z", "finish_reason": "length"}]}'),
    "too long": (200, b'{"choices": [{"text": "a", "finish_reason": "length"}]}' + b" " * 2**20),
}


def sample(table, start, count, seed, *, eos=None):
    """Tokens of one text."""
    rng, tokens, last = Random(seed), [], start
    while len(tokens) < count and last != eos:
        last = rng.choices(range(len(table)), weights=table[last])[0]
        tokens.append(last)
    return tokens


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.seen.append((self.path, body))
        time.sleep(server.delay)
        status, answer = FAULTS.get(server.fault) or (200, json.dumps(self._completion(body)).encode())
        # A client that has stopped waiting closes the connection.
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def _completion(self, body):
        start = LETTERS.index(body["prompt"][-1])
        tokens = sample(self.server.table, start, body["max_tokens"], body["seed"], eos=self.server.eos)
        ended = self.server.eos is not None and tokens[-1] == self.server.eos
        text = encode(tokens[:-1] if ended else tokens)
        text = text[: len(text) - self.server.loses]
        return {"choices": [{"index": 0, "text": text, "finish_reason": "stop" if ended else "length"}]}

    def log_message(self, *_):
        pass


@contextmanager
def table_server(table, *, eos=None, fault="", delay=0.0, loses=0):
    """Serve a table; gives the server, its base URL as `.url` and the requests as `.seen`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.table, server.eos, server.fault = checked_table(table).tolist(), eos, fault
    server.delay, server.loses, server.seen = delay, loses, []
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
