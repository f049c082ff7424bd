"""Grafana's HTTP API, as far as boards and annotations need it: the only file that knows grafana-api.

Owns: the calls, and the sentences for their failures. Does not own what is sent (`push`, `annotations`).
Invariants: a call has a deadline; no proxy of the environment carries the token; an address that answers with
something other than Grafana's JSON is a failure like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from grafana_api.grafana_api import GrafanaException
from grafana_api.grafana_face import GrafanaFace

from ring_async.errors import RunError

T = TypeVar("T")

TIMEOUT_S = 5.0


class GrafanaError(RunError):
    """Grafana cannot be reached, or refused. `status` is its HTTP answer, if there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_about_the_call(self) -> bool:
        """Whether Grafana found fault with the content of the call, so that the same call never succeeds."""
        return self.status in (400, 413, 422)


class Grafana:
    """One Grafana.

    Args:
        url: `https://grafana.example.com/prefix`.
        auth: a service account's token; or user and password.

    Raises:
        GrafanaError: by every method.
    """

    def __init__(self, url: str, auth: str | tuple[str, str], *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        prefix = parts.path.strip("/")
        self._face = GrafanaFace(
            auth,
            host=parts.hostname or "",
            port=parts.port,
            protocol=parts.scheme,
            url_path_prefix=f"{prefix}/" if prefix else "",
            timeout=timeout_s,
        )
        self._face.api.s.trust_env = False

    def data_source(self, name: str) -> dict[str, Any] | None:
        """The data source of this name."""
        return self._find(lambda: self._face.datasource.get_datasource_by_name(quote(name, safe="")))

    def create_data_source(self, source: dict[str, Any]) -> None:
        self._call(lambda: self._face.datasource.create_datasource(source))

    def update_data_source(self, source_id: int, source: dict[str, Any]) -> None:
        self._call(lambda: self._face.datasource.update_datasource(source_id, source))

    def has_folder(self, uid: str) -> bool:
        return self._find(lambda: self._face.folder.get_folder(uid)) is not None

    def create_folder(self, uid: str, title: str) -> None:
        self._call(lambda: self._face.folder.create_folder(title, uid))

    def board(self, uid: str) -> dict[str, Any] | None:
        """The board of this uid, as it is there now."""
        found = self._find(lambda: self._face.dashboard.get_dashboard(uid))
        return None if found is None else dict(found["dashboard"])

    def save_board(self, board: dict[str, Any], *, folder_uid: str, message: str, overwrite: bool) -> None:
        """Create or replace a board. Without `overwrite` a board that changed since its `version` is refused."""
        body = {"dashboard": board, "folderUid": folder_uid, "message": message, "overwrite": overwrite}
        self._call(lambda: self._face.dashboard.update_dashboard(body))

    def has_annotation(self, *tags: str) -> bool:
        """Whether an annotation carries all these tags."""
        quoted = [quote(tag, safe="") for tag in tags]
        return bool(self._call(lambda: self._face.annotations.get_annotation(tags=quoted, limit=1)))

    def annotate(self, text: str, *, time_ms: int, tags: list[str]) -> None:
        """Write an annotation that every board with one of its tags shows."""
        self._call(lambda: self._face.annotations.add_annotation(time_from=time_ms, tags=tags, text=text))

    def _find(self, call: Callable[[], T]) -> T | None:
        try:
            return self._call(call)
        except GrafanaError as error:
            if error.status == 404:
                return None
            raise

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (GrafanaException, requests.RequestException, ValueError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> GrafanaError:
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return GrafanaError(
                f"{self.url}: the token may not do this ({error}); boards and annotations need the role Editor, a data "
                "source the role Admin",
                status,
            )
        if status is not None:
            return GrafanaError(f"{self.url}: {error}", status)
        return GrafanaError(f"{self.url}: no Grafana answers there ({type(error).__name__})")
