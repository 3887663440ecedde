"""A server that takes commits as the Hugging Face hub does: repositories, preupload, LFS, commit.

Paths and bodies are those of huggingface_hub (hf_api.py, _commit_api.py, lfs.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_a_test"
OBJECTS = "/objects/"


class UploadServer(ThreadingHTTPServer):
    """A hub with no repository.

    Attributes:
        branches: (repository, branch) -> content of its files by path.
        private: whether each repository is private.
        objects: LFS objects by SHA-256.
        commits: header of each commit.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.branches: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub."""

    server: UploadServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+).*", self.path)
        files = self.files(found[1], found[2]) if found else None
        if found is None:
            self.reply(404, {"error": f"no such path: {self.path}"})
        elif files is not None:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in files.items()
            ]
            self.reply(200, entries)

    def do_PUT(self) -> None:
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == self.path.removeprefix(OBJECTS)
        self.server.objects[self.path.removeprefix(OBJECTS)] = content
        self.reply(200, {})

    def do_POST(self) -> None:
        body = self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid username or password."})
        elif self.path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.path):
            self.server.branches.setdefault((found[1], found[2]), {})
            self.reply(200, {})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            self.offer_uploads(json.loads(body))
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^?]+)", self.path):
            files = self.files(found[1], found[3])
            if files is None:
                return
            if found[2] == "preupload":
                self.sort(json.loads(body))
            else:
                self.commit(found[1], files, body)
        else:
            self.reply(404, {"error": f"no such path: {self.path}"})

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.private:
            self.reply(409, {"error": "You already created this model repo"})
            return
        self.server.private[name] = wanted.get("visibility") == "private"
        self.server.branches[name, "main"] = {"old.safetensors": b"old", "notes.md": b"mine"}
        self.reply(200, {"url": f"{self.server.url}/{name}"})

    def files(self, repository: str, branch: str) -> dict[str, bytes] | None:
        """The files of a branch; None once it is refused."""
        if repository not in self.server.private:
            self.reply(404, {"error": "Repository not found"}, "RepoNotFound")
            return None
        files = self.server.branches.get((repository, branch))
        if files is None:
            self.reply(404, {"error": f"Invalid rev id: {branch}"}, "RevisionNotFound")
        return files

    def sort(self, asked: dict[str, Any]) -> None:
        """Say which files are LFS objects: weights."""
        self.reply(
            200,
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in asked["files"]
                ]
            },
        )

    def offer_uploads(self, asked: dict[str, Any]) -> None:
        actions = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.server.url}{OBJECTS}{one['oid']}"}},
            }
            for one in asked["objects"]
        ]
        self.reply(200, {"transfer": "basic", "objects": actions})

    def commit(self, repository: str, files: dict[str, bytes], body: bytes) -> None:
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                self.server.commits.append(value)
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = "c" * 40
        url = f"{self.server.url}/{repository}/commit/{oid}"
        self.reply(200, {"commitUrl": url, "commitOid": oid, "success": True})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, content: Any, code: str = "") -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if status >= 400:
            self.send_header("X-Error-Message", content["error"])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def serving() -> Iterator[UploadServer]:
    """A server in a thread, while the block runs."""
    with UploadServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
