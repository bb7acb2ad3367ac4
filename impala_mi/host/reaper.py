"""Cleans up after the Ray of a killed run: `python reaper.py FOLDER`, started as a child of the run.

It waits until its standard input closes, which happens however the run ends. Then it kills every process that has
the folder in its environment or a file of the folder open, and removes the folder. If the run has not written
`ENDS` before, it also says on the terminal that the run was ended: Ray ends the process of a run without a message
when the node or the cluster that it uses dies. It runs as a plain script and imports nothing of this package, to
stay small.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

MARK = "IMPALA_MI_SESSION"
"""Environment variable that names the folder."""
ENDS = b"."
"""Written by a run that ends by itself, whether it is done or has failed."""
ENDED = (
    "failed: the run was ended at once: it was killed, or a process of Ray that it needs was (the raylet of its "
    "node, or the cluster's GCS); resume it to continue from its last checkpoint"
)
"""Message about a run that was ended from outside."""
_ROUNDS, _EVERY_S = 20, 0.25


def marked_processes(folder: str) -> list[int]:
    """Process ids of this user's processes that the run has started, without this process and its parent.

    The parent of the reaper is the run, which has files of the folder open and may be ending by itself.
    """
    mark, pids, spared = f"{MARK}={folder}".encode(), [], (os.getpid(), os.getppid())
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in spared:
            with contextlib.suppress(OSError):  # the process has ended or belongs to another user
                with open(f"/proc/{name}/environ", "rb") as file:
                    marked = mark in file.read().split(b"\0")
                if marked or _has_open_files(name, folder):
                    pids.append(int(name))
    return pids


def _has_open_files(pid: str, folder: str) -> bool:
    """Whether a process has files of the folder open. Ray's agents need this: their titles overwrite the mark."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(folder + "/"):
                return True
    return False


def main() -> None:
    """Wait for the end of the run, kill its processes, remove its folder."""
    folder = sys.argv[1]
    if os.read(0, 1) != ENDS:
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(ENDED, file=sys.stderr, flush=True)
    while os.read(0, 1):
        pass
    for _ in range(_ROUNDS):  # processes that were just being started appear late
        pids = marked_processes(folder)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
        time.sleep(_EVERY_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
