"""A W&B server on loopback that knows as much of its GraphQL as the real client asks when a dashboard is saved."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Views by id, as W&B keeps them.

    Attributes:
        views: id -> {"id", "name", "displayName", "type", "spec"}.
        refuse: set to a message to refuse every change, as for an entity without rights.
        projects: their names.
        asked: the text of every query.
    """

    def __init__(self):
        self.views, self.refuse, self.projects, self.asked = {}, None, ["p"], []

    def answer(self, query, variables):
        self.asked.append(query)
        if "upsertView" in query:
            return self._upsert(variables)
        if "allViews" in query:
            views = [v for v in self.views.values() if v["type"] == variables["viewType"]]
            found = {"allViews": {"edges": [{"node": view} for view in views]}}
            return {"project": found if variables["name"] in self.projects else None}
        if "models(" in query:  # the entity's projects
            nodes = [
                {"id": "1", "name": n, "entityName": "me", "createdAt": "", "isBenchmark": False, "user": None}
                for n in self.projects
            ]
            page = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": node, "cursor": ""} for node in nodes], "pageInfo": page}}
        if "viewer" in query:
            user = {"id": "1", "entity": "me", "username": "me", "name": "me", "email": "", "admin": False, "flags": "{}"}
            return {"viewer": {**user, "teams": {"edges": []}, "apiKeys": {"edges": []}}}
        return {}

    def _upsert(self, given):
        key = given.get("id") or f"view{len(self.views) + 1}"
        inserted = key not in self.views
        fields = {name: given[name] for name in ("name", "displayName", "description", "type", "spec")}
        self.views[key] = {"id": key, **fields}
        project = {"id": "1", "name": given["projectName"], "entityName": given["entityName"]}
        view = {**self.views[key], "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": inserted}}


@contextmanager
def running():
    """(the server, its address) while it runs."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, answer = 200, {"data": {}}
            if self.path == "/graphql":
                asked = json.loads(body)
                if server.refuse and "mutation" in asked["query"]:
                    code, answer = 403, {"errors": [{"message": server.refuse}]}
                else:
                    answer = {"data": server.answer(asked["query"], asked.get("variables") or {})}
            self._send(code, json.dumps(answer).encode())

        def do_GET(self):
            self._send(404, b"{}")

        def _send(self, code, content):
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
