"""TransferQueue under the same cycle as replay: put → score → plan → get → forget. Prints one JSON line.

    python transfer_queue_contender.py NUM_GROUPS GROUPS_PER_PUT ROWS_PER_GROUP

Its storage is in memory and survives nothing. It is given what suits it: puts of many rows at once, the metadata it
returned handed back, no sampler beyond the default, one storage unit for each core.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

warnings.simplefilter("ignore")

import ray  # noqa: E402
import torch  # noqa: E402
import transfer_queue  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from tensordict import TensorDict  # noqa: E402

GROUP_SIZE, NUM_TOKENS, NUM_PROMPT_TOKENS = 8, 2_048, 64


def make_rows(num_groups: int, rows_per_group: int) -> TensorDict:
    num_rows = num_groups * rows_per_group
    width = GROUP_SIZE * NUM_TOKENS // rows_per_group
    fields = {
        "prompt_ids": torch.randint(0, 32_000, (num_rows, NUM_PROMPT_TOKENS), dtype=torch.int32),
        "response_ids": torch.randint(0, 32_000, (num_rows, width), dtype=torch.int32),
        "behavior_logprobs": torch.rand(num_rows, width),
        "loss_mask": torch.ones(num_rows, width, dtype=torch.uint8),
    }
    return TensorDict(fields, batch_size=num_rows)


def main() -> None:
    num_groups, groups_per_put, rows_per_group = map(int, sys.argv[1:])
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    conf = {"backend": {"SimpleStorage": {"num_data_storage_units": os.cpu_count() or 1}}}
    transfer_queue.init(OmegaConf.create(conf))
    client = transfer_queue.get_client()
    rows = make_rows(groups_per_put, rows_per_group)
    names = [*rows.keys(), "reward"]
    num_rows = groups_per_put * rows_per_group

    def cycle(number: int) -> None:
        partition = f"part-{number}"
        metadata = client.put(data=rows, partition_id=partition)
        rewards = TensorDict({"reward": torch.rand(num_rows, 1)}, batch_size=num_rows)
        client.put(data=rewards, metadata=metadata)
        planned = client.get_meta(data_fields=names, batch_size=num_rows, partition_id=partition, task_name="train")
        data = client.get_data(planned)
        assert len(data["response_ids"]) == num_rows
        client.clear_samples(planned)

    num_cycles = max(1, num_groups // groups_per_put)
    for number in range(2):
        cycle(-1 - number)
    began_s = time.perf_counter()
    for number in range(num_cycles):
        cycle(number)
    seconds = time.perf_counter() - began_s
    transfer_queue.close()
    ray.shutdown()
    rate = num_cycles * groups_per_put / seconds
    print(
        json.dumps({"version": transfer_queue.__version__, "groups_per_s": rate, "rows_per_s": rate * rows_per_group})
    )


if __name__ == "__main__":
    main()
