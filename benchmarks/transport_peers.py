"""Peers' data planes under the payload of `bench_transport`, each in its best documented way. Prints one JSON object.

    python transport_peers.py NUM_GROUPS

* `ray.util.queue`: a task puts groups, the driver gets them; seconds from the first put to the last get.
* TransferQueue (SimpleStorage, its default): the key-value interface, one put for the 8 responses of a group, then one
  get for them; seconds for all puts and then all gets, which is how its consumers wait for a full batch.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings

import numpy as np
import ray
import torch
import transfer_queue
from ray.util.queue import Queue
from tensordict import TensorDict

from transport_payload import GROUP_SIZE, make_arrays


def ray_queue(num_groups: int) -> float:
    ids, logprobs = make_arrays()
    queue = Queue()

    @ray.remote
    def produce(queue: Queue) -> None:
        for _ in range(num_groups):
            queue.put((ids, logprobs))

    queue.put((ids, logprobs))
    queue.get()
    began_s = time.perf_counter()
    producer = produce.remote(queue)
    for _ in range(num_groups):
        received = queue.get()
    seconds = time.perf_counter() - began_s
    ray.get(producer)
    assert np.array_equal(received[0], ids)
    queue.shutdown()
    return seconds


def transfer_queue_cycle(num_groups: int) -> float:
    ids, logprobs = make_arrays()
    rows = TensorDict({"ids": torch.from_numpy(ids), "logprobs": torch.from_numpy(logprobs)}, batch_size=[GROUP_SIZE])

    def names(number: int) -> list[str]:
        return [f"{number}/{member}" for member in range(GROUP_SIZE)]

    def put(number: int) -> None:
        transfer_queue.kv_batch_put(keys=names(number), partition_id="train", fields=rows)

    put(-1)
    transfer_queue.kv_batch_get(keys=names(-1), partition_id="train")
    began_s = time.perf_counter()
    for number in range(num_groups):
        put(number)
    for number in range(num_groups):
        received = transfer_queue.kv_batch_get(keys=names(number), partition_id="train")
    seconds = time.perf_counter() - began_s
    assert all(np.array_equal(row.numpy(), ids[member]) for member, row in enumerate(received["ids"].unbind()))
    return seconds


def main() -> None:
    num_groups = int(sys.argv[1])
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    seconds = {"ray.util.queue": ray_queue(num_groups)}
    transfer_queue.init()
    seconds["TransferQueue"] = transfer_queue_cycle(num_groups)
    transfer_queue.close()
    ray.shutdown()
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
