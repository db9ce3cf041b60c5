"""A local hub: answers the real client's requests for pushing (large files by LFS) and downloading."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_REPO = r"([^/]+/[^/]+)"


@dataclass
class Hub:
    """The hub's repositories, and the requests it received."""

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    """Whether each repository is private, by name."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by repository (and branch, if not main)."""
    asked: list[str] = field(default_factory=list)
    status: int = 200
    """Files by commit."""
    gated: set[str] = field(default_factory=set)
    instead: dict[str, bytes | int] = field(default_factory=dict)
    """Replacement responses by a pattern of requests, `GET /api/...`: a body, or a status."""
    _large: dict[str, bytes] = field(default_factory=dict)

    def find(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """Return the files of a revision: a branch, or a commit."""
        for name, files in self.files.items():
            owner, _, branch = name.partition("@")
            if owner == repo and revision in (branch or "main", commit_of(files)):
                return files
        return None


def commit_of(files: dict[str, bytes]) -> str:
    """Return the commit hash of some files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a hub while the context is open."""
    hub = Hub()

    class Handler(_Handler):
        known = hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    known: Hub

    def answer(self, data: Any, status: int = 200, **headers: str) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_replacement(self) -> bool:
        """Send the replacement response set for this request; return whether there is one."""
        asked = f"{self.command} {self.path}"
        body = next((each for pattern, each in self.known.instead.items() if re.search(pattern, asked)), None)
        if body is not None:
            self.answer(b"", body) if isinstance(body, int) else self.answer(body)
        return body is not None

    def refuse(self, code: str, status: int = 404) -> None:
        self.answer({"error": code}, status, X_Error_Code=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.known.asked.append(f"{self.command} {self.path}")
        if self.send_replacement():
            return None
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            return self.answer({"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}})
        if re.fullmatch(rf"/api/models/{_REPO}/tree/[^/]+/.+", path):
            return self.refuse("EntryNotFound")
        if found := re.fullmatch(rf"/{_REPO}/resolve/([^/]+)/(.+)", path):
            return self.give_file(*found.groups())
        found = re.fullmatch(rf"/api/models/{_REPO}(?:/(revision|tree)/([^/]+))?", path)
        if not found or found[1] not in self.known.repos:
            return self.refuse("RepoNotFound")
        repo, what, revision = found.groups()
        if repo in self.known.gated:
            return self.refuse("GatedRepo", 403)
        files = self.known.find(repo, revision or "main")
        if files is None and revision is not None:
            return self.refuse("RevisionNotFound")
        if what == "tree":
            return self.answer([{"type": "file", "path": name, "size": len(each), "oid": hashlib.sha1(each).hexdigest()}
                                for name, each in (files or {}).items()])  # fmt: skip
        siblings = [{"rfilename": name} for name in files or ()]
        return self.answer({"id": repo, "modelId": repo, "private": self.known.repos[repo], "tags": [],
                            "siblings": siblings, "sha": commit_of(files or {})})  # fmt: skip

    def give_file(self, repo: str, revision: str, name: str) -> None:
        files = self.known.find(repo, revision)
        if files is None or name not in files:
            return self.refuse("EntryNotFound" if files is not None else "RevisionNotFound")
        etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        return self.answer(files[name], X_Repo_Commit=commit_of(files), ETag=etag)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.known._large[self.path.rpartition("/")[2]] = content
        self.answer({})

    def do_POST(self) -> None:
        self.known.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.send_replacement():
            return None
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.known.repos[name] = asked.get("private", False) or asked.get("visibility") == "private"
            return self.answer({"url": f"{self.known.url}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.answer({"transfer": "basic", "objects": [
                {**each, "actions": {"upload": {"href": f"{self.known.url}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]})  # fmt: skip
        found = re.fullmatch(rf"/api/models/{_REPO}/(preupload|commit|branch)/(.+)", self.path)
        assert found, self.path
        repo, what, revision = found.groups()
        if what == "preupload":
            return self.answer({"files": [
                {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith("safetensors") else "regular",
                 "shouldIgnore": False} for each in json.loads(body)["files"]
            ]})  # fmt: skip
        if what == "commit" and self.known.status == 200:
            self.keep(self.known.files.setdefault(repo if revision == "main" else f"{repo}@{revision}", {}), body)
        done = {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.known.url}/{repo}/commit/{'a' * 40}"}
        return self.answer(done, self.known.status if what == "commit" else 200)

    def keep(self, kept: dict[str, bytes], body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                kept[line["value"]["path"]] = self.known._large[line["value"]["oid"]]

    def log_message(self, *_: Any) -> None:
        pass
