"""Every request the SGLang engine sends, against the request classes of published releases (no GPU, no server)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_async.engines.sglang import plugin, requests
from ring_async.engines.sglang.server import ServerOptions
from ring_async.engines.sglang.versions import release_of
from ring_async.testing.fake_sglang import FIELDS
from sglang_event_loop import tags_and_truth
from sglang_wheels import RELEASES, NoWheelError, defines, exact, problems_of, routes_of, server_flags_of, unpacked


@pytest.fixture(params=RELEASES, scope="module")
def version(request: pytest.FixtureRequest) -> str:
    try:
        version = exact(request.param)
        unpacked(version)
    except NoWheelError as error:
        pytest.skip(str(error))
    return version


def generate(**changes) -> requests.Body:
    arguments = {
        "max_new_tokens": 8,
        "temperature": 0.7,
        "stop_token_ids": {2, 0},
        "stream_interval": 16,
        "salt": "0.3",
        "seed": 7,
        "ignore_stops": True,
    }
    return requests.generate_body("12.", [5, 6, 7], **{**arguments, **changes})


def all_bodies(*, has_sessions: bool) -> list[tuple[str, requests.Body]]:
    sessions = [(requests.BEGIN_UPDATE, {}), (requests.END_UPDATE, {})] if has_sessions else []
    return [
        (requests.GENERATE, generate()),
        (requests.GENERATE, generate(seed=None, ignore_stops=False, temperature=0.0, stop_token_ids=())),
        (requests.ABORT, requests.abort_body("12.")),
        (requests.ABORT, requests.abort_body(None)),
        (requests.PAUSE, requests.pause_body()),
        (requests.CONTINUE, requests.continue_body()),
        (requests.UPDATE_WEIGHTS, requests.update_weights_body(["AAAA", "AAAA"], 3)),
        (requests.CHECK_WEIGHTS, requests.checksum_body()),
        *sessions,
    ]


def test_no_request_is_refused_and_no_field_is_dropped(version: str) -> None:
    bodies = all_bodies(has_sessions=release_of(version).has_update_sessions)
    assert problems_of(version, bodies) == [[] for _ in bodies]


def test_the_check_sees_what_a_release_would_drop_or_refuse(version: str) -> None:
    wrong = [
        (requests.GENERATE, {**generate(), "seed": 3}),
        (requests.GENERATE, {**generate(), "sampling_params": {"seed": 3}}),
        ("/generate_all", {}),
        (requests.PAUSE, {"mode": "keep"}),
    ]
    assert all(problems_of(version, wrong))


def test_figures_are_where_we_ask_for_them(version: str) -> None:
    routes = routes_of(unpacked(version))
    assert {requests.SERVER_INFO, requests.LOADS} <= routes.keys()
    assert (requests.BEGIN_UPDATE in routes) == release_of(version).has_update_sessions


def test_the_server_knows_our_flags(version: str) -> None:
    flags = ServerOptions(Path("model"), "bfloat16", is_dummy=True, is_deterministic=True).flags(30000)
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags if flag.startswith("--")}
    assert names - server_flags_of(version) == set()


def test_the_plugin_hooks_what_exists(version: str) -> None:
    for target in (plugin.RUN_BATCH, plugin.PROCESS_RESULT, plugin.UPDATE):
        module, cls, method = target.rsplit(".", 2)
        assert defines(version, module, f"{cls}.{method}")


def test_the_fake_server_takes_no_more_than_a_real_one(version: str) -> None:
    bodies = dict(all_bodies(has_sessions=release_of(version).has_update_sessions))
    wide = [(path, {**dict.fromkeys(FIELDS[path]), **body}) for path, body in bodies.items()]
    dropped = [problem for problems in problems_of(version, wide) for problem in problems if "dropped" in problem]
    assert not dropped


@pytest.mark.parametrize("loop", ["event_loop_overlap", "event_loop_normal"])
def test_tags_are_true_in_the_releases_own_event_loop(version: str, loop: str) -> None:
    requests_seen = tags_and_truth(unpacked(version), loop)
    for request in requests_seen.values():
        assert request["tags"] == request["truth"]
    assert set(requests_seen["a"]["truth"]) == {0, 1, 2}
    assert set(requests_seen["c"]["truth"]) == {1, 2}
