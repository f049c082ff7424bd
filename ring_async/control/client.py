"""The client of the control API, for the CLI."""

from __future__ import annotations

from typing import Any

import httpx

from ring_async.control.tls import trust_only
from ring_async.errors import RunError
from ring_async.storage.run_dir import RunDir


class ControlClient:
    """Calls the controller of one run, whose address and token are in the run's `endpoints.json`.

    Raises:
        RunError: by every method, if the run is not up, does not answer, or refuses.
    """

    def __init__(self, run_dir: RunDir, *, timeout_s: float = 10.0) -> None:
        self._run_dir = run_dir
        self._timeout_s = timeout_s

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        endpoints = self._run_dir.read_endpoints()
        headers = {"authorization": f"Bearer {endpoints['token']}"}
        certificate = endpoints.get("certificate")
        verify = trust_only(certificate) if certificate else True
        try:
            # trust_env off: a proxy in the environment must not carry the run's token.
            with httpx.Client(
                base_url=endpoints["api"], timeout=self._timeout_s, trust_env=False, verify=verify
            ) as client:
                answer = client.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise RunError(
                f"{self._run_dir.path}: the controller at {endpoints['api']} does not answer ({error}); "
                "look at logs/controller-0.log, and go on with: ring-async up CONFIG --resume"
            ) from error
        if answer.status_code >= 400:
            raise RunError(f"{method} {path}: {answer.status_code}: {_reason(answer)}")
        return answer.json()


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text
