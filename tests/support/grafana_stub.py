"""A stand-in for Grafana's HTTP API: it keeps what is sent, and refuses a request that Grafana's documentation forbids.

Every request body is validated by a model written by hand from that documentation (data sources, folders, dashboards,
annotations of Grafana 11); a field that is not documented is refused. It is no Grafana: none can be had here.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from grafana_foundation_sdk.models.dashboard import Dashboard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

TOKEN = "glsa_test"


class Call(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class DataSource(Call):
    """POST /api/datasources, PUT /api/datasources/:id"""

    name: Annotated[str, Field(min_length=1, max_length=190)]
    type: Literal["prometheus"]
    access: Literal["proxy", "direct"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    isDefault: bool = False  # noqa: N815 - Grafana's name


class Folder(Call):
    """POST /api/folders"""

    uid: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")] | None = None
    title: Annotated[str, Field(min_length=1)]


class SaveDashboard(Call):
    """POST /api/dashboards/db"""

    dashboard: dict[str, Any]
    folderUid: str = ""  # noqa: N815
    message: str = ""
    overwrite: bool = False


class Annotation(Call):
    """POST /api/annotations. Without a dashboard the annotation belongs to the organisation."""

    dashboardId: int | None = None  # noqa: N815
    panelId: int | None = None  # noqa: N815
    time: Annotated[int, Field(gt=1_000_000_000_000)]
    timeEnd: int | None = None  # noqa: N815
    tags: list[Annotated[str, Field(min_length=1, max_length=100)]]
    text: Annotated[str, Field(min_length=1)]


class RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class GrafanaStub:
    """The state of one Grafana.

    Attributes:
        boards: by uid, as saved, with `id` and `version`.
        annotations: as sent.
        is_away: answers every call with 503 while True.
        loses_answers_to: `POST /api/annotations`: is carried out, and the connection closed without an answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.sources: dict[str, dict[str, Any]] = {}
        self.folders: dict[str, str] = {}
        self.boards: dict[str, dict[str, Any]] = {}
        self.annotations: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.invalid: list[str] = []
        self.is_away = False
        self.loses_answers_to = ""
        self._lock = threading.Lock()

    def answer(self, method: str, target: str, body: Any) -> Any:
        url = urlsplit(target)
        path = unquote(url.path)
        with self._lock:
            self.calls.append(f"{method} {path}")
            if self.is_away:
                raise RefusedError(503, "away")
            try:
                return self._route(method, path, parse_qs(url.query), body)
            except ValidationError as error:
                self.invalid.append(f"{method} {path}: {error}")
                raise RefusedError(400, str(error)) from error

    def _route(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        match method, re.sub(r"/[^/]+$", "/:", path):
            case "GET", "/api/datasources/name/:":
                return self._existing(self.sources, path)
            case "POST", "/api/:" if path == "/api/datasources":
                source = DataSource.model_validate(body)
                if source.name in self.sources:
                    raise RefusedError(409, "data source with the same name already exists")
                self.sources[source.name] = source.model_dump() | {"id": len(self.sources) + 1}
                return {"id": self.sources[source.name]["id"], "message": "Datasource added"}
            case "PUT", "/api/datasources/:":
                source = DataSource.model_validate(body)
                self.sources[source.name] = source.model_dump() | {"id": int(path.rpartition("/")[2])}
                return {"message": "Datasource updated"}
            case "GET", "/api/folders/:":
                return {"title": self._existing(self.folders, path)}
            case "POST", "/api/:" if path == "/api/folders":
                folder = Folder.model_validate(body)
                if folder.uid in self.folders:
                    raise RefusedError(412, "the folder has been changed by someone else")
                self.folders[folder.uid or folder.title] = folder.title
                return {"uid": folder.uid}
            case "GET", "/api/dashboards/uid/:":
                return {"dashboard": self._existing(self.boards, path), "meta": {}}
            case "POST", "/api/dashboards/:":
                return self._save(SaveDashboard.model_validate(body))
            case "GET", "/api/:" if path == "/api/annotations":
                wanted = set(query.get("tags", ()))
                return [one for one in self.annotations if wanted <= set(one["tags"])][: int(query["limit"][0])]
            case "POST", "/api/:" if path == "/api/annotations":
                self.annotations.append(Annotation.model_validate(body).model_dump())
                return {"id": len(self.annotations), "message": "Annotation added"}
        raise RefusedError(404, f"no route {method} {path}")

    def _existing(self, found: dict[str, Any], path: str) -> Any:
        name = path.rpartition("/")[2]
        if name not in found:
            raise RefusedError(404, "not found")
        return found[name]

    def _save(self, call: SaveDashboard) -> Any:
        board, uid = call.dashboard, call.dashboard.get("uid", "")
        Dashboard.from_json(board)  # the SDK's own type
        if call.folderUid not in self.folders:
            raise RefusedError(400, "folder not found")
        there = self.boards.get(uid)
        if there is not None and not call.overwrite and board.get("version") != there["version"]:
            raise RefusedError(412, "the dashboard has been changed by someone else")
        version = (there["version"] if there else 0) + 1
        self.boards[uid] = board | {"id": 7, "version": version}
        return {"id": 7, "uid": uid, "version": version, "status": "success", "url": f"/d/{uid}"}


@contextmanager
def grafana_stub() -> Iterator[GrafanaStub]:
    """Serve a stub on loopback; every call must carry the token."""
    stub = GrafanaStub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            try:
                if self.headers.get("authorization") != f"Bearer {TOKEN}":
                    raise RefusedError(401, "Unauthorized")
                status, answer = 200, stub.answer(self.command, self.path, body)
            except RefusedError as refused:
                status, answer = refused.status, {"message": str(refused)}
            if stub.loses_answers_to == f"{self.command} {urlsplit(self.path).path}":
                self.close_connection = True
                return
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
