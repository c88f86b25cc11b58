"""A small local server of the datasets' mirror on the Hugging Face hub, for the real client."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from datasets_helpers import golden_folder
from downloads import KINDS
from hub_server import serving

from datasets import hub


def zipped(folder, prefix=""):
    """Return the bytes of a ZIP archive of a folder's files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{prefix}{path.relative_to(folder)}")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """A Hugging Face server with one repository.

    Attributes:
        content: {file name: bytes}.
        hashes: {file name: reported SHA-256}, if not that of the content.
        limit: number of bytes after which downloads break off (None: never).
        requests: (method, path, Range header) of all requests.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.hashes, self.limit, self.requests = {}, {}, None, []
        self.status = 200

    def digest(self, name):
        """Return the reported hash of a file."""
        return self.hashes.get(name) or hashlib.sha256(self.content[name]).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers the client's requests for metadata and files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Print nothing."""

    def do_HEAD(self):
        """Answer with metadata."""
        self.answer(body=False)

    def do_GET(self):
        """Answer with a file or the repository's description."""
        self.answer(body=True)

    def answer(self, body):
        server, path = self.server, self.path.partition("?")[0]
        server.requests.append((self.command, path, self.headers.get("Range")))
        if server.status != 200:
            return self.reply(server.status, b"{}", {}, body)
        if path == f"/api/models/{hub.REPOSITORY}/revision/{hub.REVISION}":
            siblings = [
                {"rfilename": name, "size": len(data), "lfs": {"sha256": server.digest(name), "size": len(data),
                                                               "pointerSize": 130}}
                for name, data in server.content.items()
            ]  # fmt: skip
            about = {"_id": "1", "id": hub.REPOSITORY, "modelId": hub.REPOSITORY, "sha": hub.REVISION}
            return self.reply(200, json.dumps({**about, "siblings": siblings}).encode(), {}, body)
        prefix = f"/{hub.REPOSITORY}/resolve/{hub.REVISION}/"
        if path.startswith(prefix):  # the hub keeps large files elsewhere
            return self.reply(302, b"", {"Location": f"/elsewhere/{path.removeprefix(prefix)}?signature=1"}, body)
        prefix = "/elsewhere/"
        name = path.removeprefix(prefix)
        if not path.startswith(prefix) or name not in server.content:
            return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
        data, status, headers = server.content[name], 200, {"X-Repo-Commit": hub.REVISION, "Accept-Ranges": "bytes"}
        headers |= {"ETag": f'"{server.digest(name)}"', "X-Linked-Etag": f'"{server.digest(name)}"'}
        headers["X-Linked-Size"] = str(len(data))
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        return self.reply(status, data, headers, body)

    def reply(self, status, data, headers, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            limit = self.server.limit
            self.wfile.write(data if limit is None else data[:limit])
            if limit is not None and len(data) > limit:
                self.wfile.flush()
                self.server.limit = 0  # the client tries again
                self.close_connection = True
                self.connection.close()


def publish(server, tmp_path, name, prefix=None):
    """Put a mini dataset into the repository; return (DATASET.ROOT of the original, an empty one)."""
    kind = KINDS[name]
    golden_folder(tmp_path / "original", kind.dataset_dir)
    wrapped = f"{kind.dataset_dir}/" if prefix is None else prefix
    server.content[kind.facts.archive] = zipped(tmp_path / "original" / kind.dataset_dir, wrapped)
    (tmp_path / "data").mkdir()
    return tmp_path / "original", tmp_path / "data"


@contextmanager
def served() -> Iterator[tuple[Server, str]]:
    """Run a server; give it and its address."""
    server = Server()
    with serving(server) as address:
        yield server, address
