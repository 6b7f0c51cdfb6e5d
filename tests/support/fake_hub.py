"""A hub of data sets over HTTP, as much of it as reading needs: what a revision is, a tree, and ranged reads."""

import json
import re
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT, OLDER = "c" * 40, "0" * 40


class FakeHub:
    """Serves the folder as the data set `owner/name`, at one commit; `asked` counts requests, `sent` their bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commit = folder, COMMIT
        self.asked: Counter[str] = Counter()
        self.sent = 0

    def __enter__(self) -> "FakeHub":
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def answer(self, path: str, form: dict[str, list[str]], span: str) -> tuple[int, bytes, str]:
        """Status, body and the hub's error code."""
        match = re.fullmatch(r"(?:/api)?/datasets/owner/name(?:/(\w[\w-]*)/([^/]+)(?:/(.*))?)?", path)
        if match is None:
            return 404, b"{}", "RepoNotFound"
        verb, revision, below = match.groups()
        self.asked[verb or "info"] += 1
        if revision not in (None, "main", self.commit):
            return 404, b"{}", "RevisionNotFound"
        if verb == "resolve":
            return self.bytes_of(self.folder / below, span)
        if verb == "tree":
            found = self.entries(below or "", form.get("recursive") == ["true"])
            return (200, json.dumps(found).encode(), "") if found else (404, b"{}", "EntryNotFound")
        if verb == "paths-info":
            paths = [self.folder / path for path in form.get("paths", [])]
            return 200, json.dumps([self.entry(path) for path in paths if path.exists()]).encode(), ""
        return 200, json.dumps({"id": "owner/name", "sha": self.commit, "siblings": []}).encode(), ""

    def bytes_of(self, path: Path, span: str) -> tuple[int, bytes, str]:
        if not path.is_file():
            return 404, b"", "EntryNotFound"
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", span)
        data = path.read_bytes()[slice(int(wanted[1]), int(wanted[2]) + 1) if wanted else slice(None)]
        self.sent += len(data)
        return 206 if wanted else 200, data, ""

    def entries(self, below: str, deep: bool) -> list[dict[str, Any]]:
        found = sorted((self.folder / below).rglob("*") if deep else (self.folder / below).glob("*"))
        return [self.entry(path) for path in found]

    def entry(self, path: Path) -> dict[str, Any]:
        place = path.relative_to(self.folder).as_posix()
        size = path.stat().st_size if path.is_file() else 0
        kind = "file" if path.is_file() else "directory"
        return {"type": kind, "oid": f"{hash(place):x}", "size": size, "path": place}


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            if name in ("do_GET", "do_HEAD", "do_POST"):
                return self._any
            raise AttributeError(name)

        def _any(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            path = urllib.parse.unquote(url.path)
            length = int(self.headers.get("Content-Length") or 0)
            form = urllib.parse.parse_qs(self.rfile.read(length).decode() if length else url.query.lower())
            status, body, error = hub.answer(path, form, self.headers.get("Range", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"tag"')
            self.send_header("X-Repo-Commit", hub.commit)
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
