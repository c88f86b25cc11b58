"""A small local server of the Hugging Face hub's routes that the real client uses, with failures on demand."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"  # of the only commit


class Hub:
    """The state of the server.

    Attributes:
        files: {repository: {file name: bytes}}.
        fail: {part of a path: status code}; 0 breaks the transfer off after half of the body.
        tokens: the authorisation headers that came in.
        private: {repository: whether it is private}.
    """

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.fail: dict[str, int] = {}
        self.tokens: list[str] = []
        self.private: dict[str, bool] = {}

    def planted(self, path: str) -> int | None:
        """Return the status code that is planted for a path, None without one."""
        return next((code for part, code in self.fail.items() if part in path), None)


class Answer(NamedTuple):
    """A response: bytes, or what becomes JSON."""

    code: int
    body: Any = b""
    headers: Mapping[str, str] = {}

    def data(self) -> bytes:
        """Return the body's bytes."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def missing(what: str, code: str) -> Answer:
    """Return a 404 with the hub's code for what is missing."""
    return Answer(404, {"error": f"{what} not found"}, {"X-Error-Code": code})


def information(hub: Hub, path: str) -> Answer:
    """Answer api/models/<user>/<name>[/tree/...]: a repository's files."""
    repository = "/".join(path.split("/")[2:4])
    if repository not in hub.files:
        return missing("repository", "RepoNotFound")
    files = hub.files[repository]
    if "/tree/" in f"/{path}/":
        return Answer(200, [_entry(name, content) for name, content in files.items()])
    names = [{"rfilename": name} for name in files]
    return Answer(200, {"id": repository, "modelId": repository, "sha": SHA, "siblings": names, "tags": []})


def _entry(name: str, content: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def download(hub: Hub, path: str) -> Answer:
    """Answer <user>/<name>/resolve/<revision>/<file>."""
    parts = path.split("/")
    files = hub.files.get("/".join(parts[:2]), {}) if parts[2:3] == ["resolve"] else {}
    content = files.get("/".join(parts[4:]))
    if content is None:
        return missing("file", "EntryNotFound")
    return Answer(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA})


def create(hub: Hub, asked: dict, address: str) -> Answer:
    """Answer api/repos/create."""
    name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
    name = name if "/" in name else f"user/{name}"
    hub.files.setdefault(name, {})
    hub.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
    return Answer(200, {"url": f"{address}/{name}", "id": name})


def announce(asked: dict) -> Answer:
    """Answer api/models/<user>/<name>/preupload/<revision>: all files come with the commit."""
    files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked["files"]]
    return Answer(200, {"files": files})


def commit(hub: Hub, repository: str, body: bytes, address: str) -> Answer:
    """Answer api/models/<user>/<name>/commit/<revision>: lines of JSON with the files."""
    for line in body.decode().splitlines():
        item = json.loads(line)
        if item["key"] == "file":
            hub.files[repository][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
    return Answer(200, {"commitUrl": f"{address}/{repository}/commit/{SHA}", "commitOid": SHA})


def posted(hub: Hub, path: str, body: bytes, address: str) -> Answer:
    """Answer a POST request."""
    if path == "api/repos/create":
        return create(hub, json.loads(body), address)
    if "/preupload/" in f"/{path}/":
        return announce(json.loads(body))
    if "/commit/" in f"/{path}/":
        return commit(hub, "/".join(path.split("/")[2:4]), body, address)
    if path == "api/validate-yaml":
        return Answer(200, {"errors": [], "warnings": []})
    return Answer(404, {"error": f"no route {path}"})


class Handler(BaseHTTPRequestHandler):
    """Passes requests to the routes, and plants failures."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *args):
        """Log nothing."""

    def do_HEAD(self):
        """Answer without the body."""
        self.do_GET()

    def do_GET(self):
        """Answer with information on a repository, or with a file."""
        path = unquote(urlsplit(self.path).path).strip("/")
        self._answer(lambda: (information if path.startswith("api/models/") else download)(self.server.hub, path))

    def do_POST(self):
        """Answer an upload's requests."""
        path, body = unquote(urlsplit(self.path).path).strip("/"), self.rfile.read(int(self.headers["content-length"]))
        self._answer(lambda: posted(self.server.hub, path, body, f"http://{self.headers['host']}"))

    def _answer(self, route: Callable[[], Answer]) -> None:
        self.server.hub.tokens.append(self.headers.get("authorization", ""))
        planted = self.server.hub.planted(self.path)
        answer = Answer(planted, {"error": f"planted {planted}"}) if planted else route()
        data = answer.data()
        self.send_response(answer.code)
        for key, value in {"Content-Length": str(len(data)), **answer.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            broken = planted == 0 and answer.code == 200
            self.wfile.write(data[: len(data) // 2] if broken else data)
            self.close_connection = broken or self.close_connection


class Server(ThreadingHTTPServer):
    """A server with the hub's state."""

    def __init__(self, hub: Hub):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Run a local server; give its address."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def served() -> Iterator[tuple[Hub, str]]:
    """Run the server; give its state and address."""
    hub = Hub()
    with serving(Server(hub)) as address:
        yield hub, address
