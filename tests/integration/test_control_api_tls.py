"""HTTPS with whatever certificate, and no other address than loopback without it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from control_operations import TOKEN, Recorded
from ring_async.config.schema import ControlSection
from ring_async.control.api import make_app, serve
from ring_async.control.client import ControlClient
from ring_async.control.tls import read_certificate
from ring_async.errors import ConfigError, RunError
from ring_async.storage.run_dir import RunDir

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def make_certificate(folder: Path, name: str) -> dict[str, str]:
    """A self-signed certificate and its key, as keys of the control section."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    words = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
    subprocess.run(["openssl", "req", *words, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return {"tls_cert": str(cert), "tls_key": str(key)}


def ask(control: ControlSection, run_dir: RunDir, certificate: str) -> object:
    """Serve over a socket, and ask for the status as the command line does."""

    async def both() -> object:
        async with serve(make_app(Recorded(), TOKEN, "test", control), control) as url:
            run_dir.endpoints.write_text(json.dumps({"api": url, "token": TOKEN, "certificate": certificate}))
            return await asyncio.to_thread(ControlClient(run_dir).get, "/v1/status")

    return asyncio.run(both())


def test_the_client_accepts_the_runs_own_certificate_and_no_other(tmp_path: Path):
    control = ControlSection(host="127.0.0.2", **make_certificate(tmp_path, "ours"))
    other = ControlSection(**make_certificate(tmp_path, "other"))
    status = ask(control, RunDir(tmp_path), read_certificate(control))
    assert (status["state"], status["last_step"]["entropy"]) == ("running", None)
    with pytest.raises(RunError, match=r"(?i)certificate"):
        ask(control, RunDir(tmp_path), read_certificate(other))


def test_plain_http_finds_nobody_behind_https(tmp_path: Path):
    control = ControlSection(**make_certificate(tmp_path, "ours"))

    async def both() -> None:
        async with serve(make_app(Recorded(), TOKEN, "test", control), control) as url, httpx.AsyncClient() as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(f"{url.replace('https', 'http')}/healthz")

    asyncio.run(both())


def test_files_that_do_not_belong_together_are_named(tmp_path: Path):
    ours, other = make_certificate(tmp_path, "ours"), make_certificate(tmp_path, "other")
    with pytest.raises(ConfigError, match=r"control\.tls_cert.*other\.key"):
        read_certificate(ControlSection(tls_cert=ours["tls_cert"], tls_key=other["tls_key"]))
    with pytest.raises(ConfigError, match="No such file"):
        read_certificate(ControlSection(tls_cert=str(tmp_path / "none"), tls_key=other["tls_key"]))
    assert read_certificate(ControlSection()) == ""


def test_all_addresses_are_reached_by_loopback():
    async def url_of(host: str) -> str:
        control = ControlSection(host=host, insecure=True)
        async with serve(make_app(Recorded(), TOKEN, "test", control), control) as url:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                assert (await client.get("/healthz")).status_code == 200
            return url.rpartition(":")[0]

    assert asyncio.run(url_of("0.0.0.0")) == "http://127.0.0.1"
