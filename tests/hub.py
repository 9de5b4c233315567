"""A Hub on this machine, which serves a folder as a data set to Hugging Face's own client.

It answers as much of https://huggingface.co/docs/hub/api as `datasets` asks for. The client reads
`HF_ENDPOINT` when it is imported, so it must run in another process.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


def commit_of(folder: Path) -> str:
    """The revision: a hash of all files, as of a commit."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    content = b"".join(file.relative_to(folder).as_posix().encode() + file.read_bytes() for file in files)
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub(folder: Path, name: str) -> Iterator[str]:
    """Serves `folder` as the data set `name` (`OWNER/NAME`); yields the value of `HF_ENDPOINT`."""
    handler = type("Handler", (_Handler,), {"folder": folder, "name": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    name: str

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        api, files = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/"
        starts = (f"{api}/tree/", f"{api}/revision/", files)
        asked = next((start for start in starts if path.startswith(start)), "")
        revision, _, rest = path.removeprefix(asked).partition("/")
        if path == "/":
            self._reply(b"")
        elif path != api and not asked:
            self._missing("RepoNotFound")
        elif asked and revision not in {"main", commit_of(self.folder)}:
            self._missing("RevisionNotFound")
        elif asked == files:
            self._file(rest)
        elif asked == f"{api}/tree/":
            self._tree(rest)
        else:
            self._json({"id": self.name, "sha": commit_of(self.folder), "siblings": []})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self._json([self._entry(self.folder / path) for path in asked if (self.folder / path).exists()])

    def _tree(self, under: str) -> None:
        place = self.folder / under
        if not place.is_dir():
            self._missing("EntryNotFound")
        else:
            deep = "recursive=true" in self.path.lower()
            self._json([self._entry(path) for path in sorted(place.rglob("*") if deep else place.iterdir())])

    def _entry(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.folder).as_posix()
        kind = {"path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
        if path.is_dir():
            return {**kind, "type": "directory", "size": 0}
        return {**kind, "type": "file", "size": path.stat().st_size}

    def _file(self, name: str) -> None:
        if not (self.folder / name).is_file():
            self._missing("EntryNotFound")
            return
        content = (self.folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit_of(self.folder)}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            self._reply(content[first : last + 1], {**headers, **span}, 206)
        else:
            self._reply(content, headers)

    def _json(self, content: object) -> None:
        self._reply(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._reply(b"", {"X-Error-Code": code, "X-Repo-Commit": commit_of(self.folder)}, 404)

    def _reply(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
