"""The first module of a server's process: `python -m ring_async.engines.sglang.launch FLAG …`, started by `server`.

    actor ──pipe (stdin)──▶ this process ══ SGLang's HTTP server ──▶ its schedulers

Owns: the bond of a server to its actor. The pipe is written to by nobody; its end means that the actor is gone, however
it went, and then this process's whole session is killed. Rejected: PR_SET_PDEATHSIG, which is sent when the thread that
started the process ends, and reaches the schedulers no more than SIGKILL does.

The API key comes through the environment: a command line can be read by every user of the host.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

API_KEY = "RING_ASYNC_SERVER_KEY"


def main() -> None:
    """Become an SGLang server with the flags given."""
    threading.Thread(target=_die_with_actor, name="bond", daemon=True).start()
    key = os.environ.pop(API_KEY, "")
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    flags = sys.argv[1:] + (["--api-key", key] if key else [])
    try:
        run_server(prepare_server_args(flags))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def _die_with_actor() -> None:
    """Consumes nothing / produces the session's end / waits for the actor's end / freed by it alone."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
