"""One of two processes that train the toy together: worker.py WORKDIR ROOT PORT RANK

The second one sends itself a SIGTERM at step 5, as a cluster that takes one machine away would.
"""

import os
import signal
import sys

import jax
import toy

from regionjax.signals import Stopped


def main(folder, root, port, rank):
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)

    def interrupt(first):
        if rank == 1 and first == 4 * 16:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        toy.VOCABULARY = 64
        toy.run_on_records(folder, root, before=interrupt, **toy.TOGETHER)
    except Stopped as stopped:
        print(f"stopped after {stopped.step}")
        return 128 + stopped.signal
    finally:
        jax.distributed.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4], int(sys.argv[4])))
