"""The requests this engine sends to an SGLang server, as plain JSON bodies.

Owns: every path and every field that leaves for a server. SGLang ignores unknown fields silently, so each body is
checked against the request classes of published wheels (`tests/integration/test_sglang_requests.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

GENERATE = "/generate"
ABORT = "/abort_request"
PAUSE = "/pause_generation"
CONTINUE = "/continue_generation"
UPDATE_WEIGHTS = "/update_weights_from_tensor"
BEGIN_UPDATE = "/begin_weight_update"
END_UPDATE = "/end_weight_update"
CHECK_WEIGHTS = "/weights_checker"
SERVER_INFO = "/server_info"
LOADS = "/v1/loads"

Body = dict[str, Any]


def generate_body(
    request_id: str,
    input_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    stop_token_ids: Iterable[int],
    stream_interval: int,
    salt: str,
    seed: int | None = None,
    ignore_stops: bool = False,
) -> Body:
    """A response to sample, streamed in steps, with the log-probability of each token.

    Args:
        request_id: no other's may begin with it: the server aborts by prefix.
        input_ids: the prompt, and what is sampled of the response already.
        max_new_tokens: beyond `input_ids`.
        temperature: log-probabilities are of the distribution after it; 0 takes the most likely token.
        stop_token_ids: end the response, besides those the model's configuration names.
        stream_interval: tokens of one event.
        salt: namespace of the prefix cache; requests of different salts share no keys and values.
        seed: heeded by a server started with `--enable-deterministic-inference` alone.
        ignore_stops: sample `max_new_tokens`, come what may.
    """
    sampling: Body = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "stop_token_ids": sorted(stop_token_ids),
        "stream_interval": stream_interval,
        "ignore_eos": ignore_stops,
    }
    if seed is not None:
        sampling["sampling_seed"] = seed
    return {
        "rid": request_id,
        "input_ids": list(input_ids),
        "sampling_params": sampling,
        "return_logprob": True,
        "logprob_start_len": -1,
        "stream": True,
        "extra_key": salt,
    }


def abort_body(request_id: str | None) -> Body:
    """Abort one request, or (None) all that the server has."""
    return {"abort_all": True} if request_id is None else {"rid": request_id}


def pause_body() -> Body:
    """Stop stepping; everything stays where it is. The reply does not mean that the step under way has ended."""
    return {"mode": "in_place"}


def continue_body() -> Body:
    return {"torch_empty_cache": False}


def update_weights_body(payloads: Sequence[str], serial: int) -> Body:
    """Put a flattened bucket in force.

    Args:
        payloads: base64, one for each tensor-parallel rank.
        serial: number of this update at this server; the step tags name it.

    The prefix cache is kept (`flush_cache`): flushed under running requests it makes a server assert and die, and
    the salt makes what it holds harmless.
    """
    return {
        "serialized_named_tensors": list(payloads),
        "load_format": "flattened_bucket",
        "flush_cache": False,
        "weight_version": str(serial),
    }


def checksum_body() -> Body:
    """Ask for a checksum of each parameter as the server holds it."""
    return {"action": "checksum"}
