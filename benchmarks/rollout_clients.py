"""Bare SGLang at its best: client processes, whole answers, log-probabilities on; nothing of ours between.

As a program it is one such client: jobs on its standard input, `tokens began ended` on its standard output. It imports
no torch, so that it begins at once.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import aiohttp
import numpy as np

Slots = list[list[list[int]]]
"""`slots[i]` are the prompts that slot i runs one after the other."""


def slots_of(size: int, rounds: int, length: int, vocabulary: int, seed: int) -> Slots:
    rng = np.random.default_rng(seed)
    return rng.integers(10, vocabulary, (size, rounds, length)).tolist()


async def _one(session: aiohttp.ClientSession, prompt: list[int], num_tokens: int) -> int:
    body = {
        "input_ids": prompt,
        "sampling_params": {"max_new_tokens": num_tokens, "temperature": 1.0, "ignore_eos": True},
        "return_logprob": True,
        "logprob_start_len": -1,
    }
    async with session.post("/generate", json=body) as reply:
        reply.raise_for_status()
        meta = json.loads(await reply.read())["meta_info"]
        return len(meta["output_token_logprobs"])


async def _client(url: str, key: str, slots: Slots, num_tokens: int) -> int:
    timeout = aiohttp.ClientTimeout(total=600)
    headers = {"Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=timeout, headers=headers, connector=connector) as session:

        async def slot(own: list[list[int]]) -> int:
            return sum([await _one(session, prompt, num_tokens) for prompt in own])

        return sum(await asyncio.gather(*(slot(own) for own in slots)))


def bare_tokens_per_s(url: str, key: str, slots: Slots, num_tokens: int, num_processes: int = 4) -> float:
    """Generated tokens a second, from the first client's start to the last one's end."""
    clients = [
        subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(num_processes)
    ]
    begin_s = time.time() + 2.0  # all have read their jobs by then
    jobs: list[dict[str, Any]] = [
        {"url": url, "key": key, "slots": slots[rank::num_processes], "num_tokens": num_tokens, "begin_s": begin_s}
        for rank in range(num_processes)
    ]
    for client, job in zip(clients, jobs, strict=True):
        assert client.stdin is not None
        client.stdin.write(json.dumps(job).encode())
        client.stdin.close()
    replies = []
    for client in clients:
        assert client.stdout is not None
        with client.stdout:
            replies.append([float(word) for word in client.stdout.read().split()])
        client.wait()
    return sum(reply[0] for reply in replies) / (
        max(reply[2] for reply in replies) - min(reply[1] for reply in replies)
    )


def main() -> None:
    job = json.load(sys.stdin)
    time.sleep(max(0.0, job["begin_s"] - time.time()))
    began_s = time.time()
    tokens = asyncio.run(_client(job["url"], job["key"], job["slots"], job["num_tokens"]))
    print(tokens, began_s, time.time())


if __name__ == "__main__":
    main()
