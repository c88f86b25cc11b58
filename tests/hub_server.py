"""A small local server of the Hugging Face hub's routes that the real client uses, with failures on demand."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"  # of the only commit


class Hub:
    """The state of the server.

    Attributes:
        files: {repository: {file name: bytes}}.
        fail: {part of a path: status code}; 0 breaks the transfer off after half of the body.
        tokens: the authorisation headers that came in.
    """

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.fail: dict[str, int] = {}
        self.tokens: list[str] = []
        self.private: dict[str, bool] = {}


def _entry(name: str, content: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def _send(self, code, body=b"", head=False, **headers):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if not head:
                self.wfile.write(data)

        def _failed(self):
            self.hub_token = self.headers.get("authorization", "")
            hub.tokens.append(self.hub_token)
            for part, code in hub.fail.items():
                if part in self.path and code:
                    self._send(code, {"error": f"planted {code}"}, head=self.command == "HEAD")
                    return True
            return False

        def _body(self):
            return self.rfile.read(int(self.headers.get("content-length", 0)))

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            if self._failed():
                return
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("api/models/"):
                repository = "/".join(path.split("/")[2:4])
                if repository not in hub.files:
                    return self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                if "/tree/" in f"/{path}/":
                    return self._send(200, [_entry(name, data) for name, data in hub.files[repository].items()])
                names = [{"rfilename": name} for name in hub.files[repository]]
                return self._send(
                    200, {"id": repository, "modelId": repository, "sha": SHA, "siblings": names, "tags": []}
                )
            parts = path.split("/")
            content = (
                hub.files.get("/".join(parts[:2]), {}).get("/".join(parts[4:])) if parts[2:3] == ["resolve"] else None
            )
            if content is None:
                return self._send(404, {"error": "not found"}, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            if self.command == "GET" and any(part in self.path and code == 0 for part, code in hub.fail.items()):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", etag)
                self.send_header("X-Repo-Commit", SHA)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return None
            return self._send(200, content, head=self.command == "HEAD", ETag=etag, X_Repo_Commit=SHA)

        def do_POST(self):
            body = self._body()
            if self._failed():
                return
            path = unquote(urlsplit(self.path).path).strip("/")
            if path == "api/repos/create":
                asked = json.loads(body)
                name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                name = name if "/" in name else f"user/{name}"
                hub.files.setdefault(name, {})
                hub.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
                return self._send(200, {"url": f"http://{self.headers['host']}/{name}", "id": name})
            repository = "/".join(path.split("/")[2:4])
            if "/preupload/" in f"/{path}/":
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self._send(200, {"files": files})
            if "/commit/" in f"/{path}/":
                for line in body.decode().splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        hub.files[repository][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                url = f"http://{self.headers['host']}/{repository}/commit/{SHA}"
                return self._send(200, {"commitUrl": url, "commitOid": SHA})
            if path == "api/validate-yaml":
                return self._send(200, {"errors": [], "warnings": []})
            return self._send(404, {"error": f"no route {path}"})

    return Handler


@contextmanager
def served() -> Iterator[tuple[Hub, str]]:
    """Run the server; give its state and address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
