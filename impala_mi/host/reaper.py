"""Ends what a run's own Ray leaves behind when the run is killed: `python reaper.py FOLDER`, a child of the run.

It waits until its standard input closes, which it does however the run ended, kills every process that has the
folder in its environment, or a file of the folder open, and removes the folder. It is run as a file and imports
nothing of ours: it stays small.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

MARK = "IMPALA_MI_SESSION"
"""The environment variable that names the folder."""
_ROUNDS, _EVERY_S = 20, 0.25


def marked(folder: str) -> list[int]:
    """Processes of this user that were started below the run, but this one."""
    wanted, found = f"{MARK}={folder}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                with open(f"/proc/{name}/environ", "rb") as file:
                    mark = wanted in file.read().split(b"\0")
                if mark or _writes_to(name, folder):
                    found.append(int(name))
    return found


def _writes_to(pid: str, folder: str) -> bool:
    """Whether a process has files of the folder open: the titles of Ray's agents overwrite their environment."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(folder + "/"):
                return True
    return False


def main() -> None:
    """Wait, kill, remove."""
    folder = sys.argv[1]
    while os.read(0, 1):
        pass
    for _ in range(_ROUNDS):  # what was just being started comes up meanwhile
        left = marked(folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
        time.sleep(_EVERY_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
