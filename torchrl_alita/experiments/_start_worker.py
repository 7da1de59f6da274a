"""Become a worker: end with the parent, keep to some cores, and turn into the command.

A worker has a process group of its own: Ctrl-C at a terminal reaches the parent alone, which asks
each worker once to write a checkpoint.

Started by its path, so that nothing is imported twice: ``python -I _start_worker.py PARENT CORES
COMMAND...``. CORES are numbers joined by commas, or empty.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and to its cores, and replace it."""
    parent, cores, *command = sys.argv[1:]
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit(1)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
