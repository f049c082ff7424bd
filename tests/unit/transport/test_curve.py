"""Keys of a run: who may read them, what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ring_async.errors import TransportError
from ring_async.transport.channel import MAX_IPC_PATH_BYTES
from ring_async.transport.curve import CurveKeys, make_socket_dir


def test_keys_survive_their_files_which_only_the_owner_may_read(tmp_path: Path) -> None:
    keys = CurveKeys.make_run_keys(tmp_path / "keys")
    assert CurveKeys.load(tmp_path / "keys") == keys
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert len(list((tmp_path / "keys").iterdir())) == 4


def test_every_run_has_its_own_keys(tmp_path: Path) -> None:
    one, other = (CurveKeys.make_run_keys(tmp_path / name) for name in ("one", "other"))
    assert one.server_public != other.server_public
    assert one.client_public != other.client_public


def test_secrets_do_not_show(tmp_path: Path) -> None:
    keys = CurveKeys.make_run_keys(tmp_path)
    assert keys.server_secret.decode() not in repr(keys)
    assert keys.client_secret.decode() not in repr(keys)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    CurveKeys.make_run_keys(tmp_path)
    with pytest.raises(TransportError, match="holds keys already"):
        CurveKeys.make_run_keys(tmp_path)


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    CurveKeys.make_run_keys(tmp_path)
    (tmp_path / "client_secret").chmod(0o640)
    with pytest.raises(TransportError, match=r"client_secret: mode 0640 lets others read the key"):
        CurveKeys.load(tmp_path)


def test_missing_and_broken_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="server_public: cannot read the run's key: No such file"):
        CurveKeys.load(tmp_path)
    CurveKeys.make_run_keys(tmp_path)
    (tmp_path / "server_secret").write_bytes(b"short")
    with pytest.raises(TransportError, match="server_secret: 5 bytes are not a key"):
        CurveKeys.load(tmp_path)


def test_a_socket_directory_is_private_and_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/{'x' * 90}")
    directory = make_socket_dir()
    try:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory.stat().st_uid == os.getuid()
        assert len(str(directory)) + len("/" + 16 * "f") < MAX_IPC_PATH_BYTES
    finally:
        directory.rmdir()
