"""A model hub on loopback: as much of the real one's HTTP as its client libraries ask for, and its ways to fail."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
LARGE = (".safetensors", ".parquet", ".bin")


class StandInHub:
    """Serves repositories until it is closed.

    Attributes:
        requests: "METHOD path" of every request.
        ways: file name, or repository name, to how it fails: `500`, `short` (fewer bytes than announced by the metadata),
            `damaged` (other bytes), `cut` (the connection ends in the middle, once), `silent` (no answer), `gated`.
    """

    def __init__(self):
        self.repositories = {}
        self.requests = []
        self.ways = {}
        self.closed = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self, True)

            def do_HEAD(self):
                hub.answer(self, False)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, name, folder, kind="models", revision="main"):
        """Put the files of a folder up as a revision; its commit is returned."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        commit = hashlib.sha1(b"".join(key.encode() + value for key, value in files.items())).hexdigest()
        repository = self.repositories.setdefault((kind, name), {})
        repository[revision] = repository[commit] = (commit, files)
        return commit

    def answer(self, handler, body):
        url = urlsplit(handler.path)
        path = unquote(url.path)
        self.requests.append(f"{handler.command} {handler.path}")
        if found := re.fullmatch(API, handler.path.split("?")[0]):
            kind, name, what, revision = found[1], found[2], found[3], unquote(found[4] or "main")
            stored = self._stored(handler, kind, name, revision)
            if stored:
                given = self._tree(*stored, parse_qs(url.query)) if what == "tree" else self._info(name, *stored)
                self._send(handler, 200, json.dumps(given).encode(), {"Content-Type": "application/json"}, body)
        elif path.startswith("/cdn/"):
            self._content(handler, path, body)
        elif found := re.fullmatch(RESOLVE, handler.path.split("?")[0]):
            kind, name = "datasets" if found[1] else "models", found[2]
            stored = self._stored(handler, kind, name, unquote(found[3]))
            if stored:
                self._resolve(handler, kind, name, *stored, unquote(found[4]), body)
        else:
            self._send(handler, 404, b"", {}, body)

    def _stored(self, handler, kind, name, revision):
        """The commit and its files, or None after an error has been sent."""
        way = self.ways.get(name)
        if way == "silent":
            self.closed.wait(60)
            handler.close_connection = True
            return None
        if way == "gated":
            return self._error(handler, 401, "GatedRepo", f"Access to model {name} is restricted.")
        if way == "500":
            return self._error(handler, 500, None, "Internal Error")
        if (kind, name) not in self.repositories:
            return self._error(handler, 404, "RepoNotFound", "Repository not found")
        if revision not in self.repositories[kind, name]:
            return self._error(handler, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.repositories[kind, name][revision]

    def _info(self, name, commit, files):
        siblings = [{"rfilename": file} for file in files]
        facts = {"private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        return {"_id": "0", "id": name, "modelId": name, "sha": commit, "siblings": siblings, **facts}

    def _tree(self, commit, files, query):
        assert query["recursive"] == ["true"], query
        return [{"type": "file", "path": file, **_identity(file, content)} for file, content in files.items()]

    def _resolve(self, handler, kind, name, commit, files, file, body):
        if file not in files:
            return self._error(handler, 404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        if self.ways.get(file) == "500":
            return self._error(handler, 500, None, "Internal Error")
        content = files[file]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file.endswith(LARGE):  # on another host, as the hub keeps them
            headers["X-Linked-Size"] = str(len(content))
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["Location"] = f"http://localhost:{self.server.server_port}/cdn/{kind}/{name}/{commit}/{file}"
            return self._send(handler, 302, b"", headers, body)
        headers["ETag"] = f'"{_identity(file, content)["oid"]}"'
        return self._ranged(handler, content, headers, body)

    def _content(self, handler, path, body):
        _, _, kind, owner, name, commit, file = path.split("/", 6)
        content = self.repositories[kind, f"{owner}/{name}"][commit][1][file]
        way = self.ways.get(file)
        if way == "short":
            content = content[:-100]
        if way == "damaged":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if way == "cut":
            del self.ways[file]
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2])
            handler.close_connection = True
            return None
        return self._ranged(handler, content, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}, body)

    def _ranged(self, handler, content, headers, body):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if not asked:
            return self._send(handler, 200, content, headers, body)
        begin, end = int(asked[1]), int(asked[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        return self._send(handler, 206, content[begin : end + 1], headers, body)

    def _error(self, handler, status, code, message, headers=None):
        told = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        body = handler.command == "GET"
        return self._send(handler, status, json.dumps({"error": message}).encode(), told, body)

    def _send(self, handler, status, content, headers, body):
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if body:
            handler.wfile.write(content)


def _identity(file, content):
    """Size and git's name of a file; of a large one also the SHA-256 of its content."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if not file.endswith(LARGE):
        return {"oid": blob, "size": len(content)}
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return {"oid": blob, "size": len(content), "lfs": lfs}
