"""A small server that speaks as the Hugging Face hub does to huggingface_hub.

Paths and headers are those of hf.co (huggingface_hub, file_download.py: HTTP metadata of a file).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
REFUSALS = {
    "owner/private": (401, "RepoNotFound", "Invalid username or password."),
    "owner/gated": (403, "GatedRepo", "Access to model owner/gated is restricted."),
    "owner/disabled": (403, "", "Access to this resource is disabled."),
}
RENAMED = {"owner/old": "owner/model"}


class HubServer(ThreadingHTTPServer):
    """Serves the repository owner/model, its revisions from one folder each, and data sets.

    Attributes:
        revisions: commit -> folder with its files.
        data_sets: name -> folder with the files of its main branch.
        cut: names of files whose next download ends in the middle.
        requests: how often each method and file was asked for.
        ranges: Range headers of downloads.
    """

    def __init__(self, revisions: dict[str, Path], data_sets: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.revisions = revisions
        self.data_sets = data_sets
        self.cut: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub."""

    server: HubServer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(("/api/datasets/", "/datasets/")):
            self.answer_data_set(path, body)
            return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        if found is None:
            self.refuse(404, "EntryNotFound", "no such path")
        elif found[1] in RENAMED:
            self.send_response(307)
            self.send_header("Location", self.path.replace(found[1], RENAMED[found[1]], 1))
            self.end_headers()
        elif found[1] in REFUSALS:
            self.refuse(*REFUSALS[found[1]])
        elif found[1] != "owner/model":
            self.refuse(404, "RepoNotFound", "Repository not found")
        else:
            revision = (api[3] or "main") if api else found[2]
            commit = COMMITS.get(revision, revision)
            if commit not in self.server.revisions:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            elif api:
                self.describe(commit, tree=api[2] == "tree")
            else:
                self.send_file(self.server.revisions[commit] / found[3], commit, body)

    def answer_data_set(self, path: str, body: bool) -> None:
        api = r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?"
        about = re.fullmatch(api, path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = about or file
        folder = self.server.data_sets.get(found[1]) if found else None
        if found is None or folder is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif file:
            self.send_file(folder / unquote(file[3]), COMMITS["main"], body)
        elif found[2] == "tree":
            inside = unquote(found[4] or "")
            self.send_json([one for one in entries(folder) if one["path"].startswith(inside)])
        else:
            siblings = [{"rfilename": one["path"]} for one in entries(folder)]
            self.send_json({"id": found[1], "sha": COMMITS["main"], "siblings": siblings})

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def describe(self, commit: str, tree: bool) -> None:
        listed = entries(self.server.revisions[commit])
        siblings = [{"rfilename": one["path"]} for one in listed]
        self.send_json(
            listed if tree else {"id": "owner/model", "sha": commit, "siblings": siblings}
        )

    def send_json(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_file(self, path: Path, commit: str, body: bool) -> None:
        if not path.is_file():
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content, begin = path.read_bytes(), 0
        if body and (wanted := self.headers.get("Range")):
            self.server.ranges.append(f"{path.name} {wanted}")
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin = int(first)
            content = content[begin : int(last) + 1 if last else None]
        self.server.requests[f"{self.command} {path.name}"] += 1
        self.send_response(206 if begin else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{digest(path)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        if begin:
            total = path.stat().st_size
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        self.end_headers()
        if not body:
            return
        if self.server.cut[path.name] > 0:
            self.server.cut[path.name] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)


def entries(folder: Path) -> list[dict[str, Any]]:
    """What the hub says of the files of a repository."""
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(
    revisions: dict[str, Path], data_sets: dict[str, Path] | None = None
) -> Iterator[HubServer]:
    """A server in a thread, while the block runs."""
    with HubServer(revisions, data_sets or {}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
