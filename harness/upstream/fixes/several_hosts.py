"""Two processes that are given one batch train on it twice.

Expected: two processes that each hold the same batch of 4 rows, as Tunix's own
iterators give it to them, train on 4 rows.
Got: 8. `shard_input` takes what a process holds for its share of the batch, and nothing
gives a process a share: prompts, sampled tokens and rewards are those of the whole batch
in each of them.
"""

import os
import socket
import subprocess
import sys

from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="several-hosts",
    title="Of several processes, each takes the whole batch for its share.",
    where="tunix/sft/sharding_utils.py:70",
    effect=(
        "Two hosts train on every row twice, and each reads sampled tokens of which it holds "
        "a part: `run` refuses several hosts."
    ),
)


JOIN = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("127.0.0.1:" + sys.argv[2], 2, int(sys.argv[1]))
import numpy as np
from tunix.sft import sharding_utils
with jax.sharding.Mesh(np.array(jax.devices()), ("fsdp",)):
    batch = sharding_utils.shard_input(np.zeros((4, 2), np.float32), ("fsdp",))
print(batch.shape[0])
"""


def reproduce() -> bool:
    """Return whether the issue shows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one_device = "--xla_force_host_platform_device_count=1"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, str(process), str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": one_device},
        )
        for process in range(2)
    ]
    text = [(process.communicate()[0].split() or ["nothing"])[-1] for process in processes]
    print("expected: 4 rows in both processes")
    print(f"got: {' and '.join(text)}")
    return text == ["8", "8"]
