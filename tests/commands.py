"""`impala-mi` without a process of its own."""

import io
import signal
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from impala_mi.cli.main import main
from impala_mi.host.signals import StopSignal


def impala(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has imported PyTorch already: a process of its own would take seconds."""
    out, err, handlers = io.StringIO(), io.StringIO(), {s: signal.getsignal(s) for s in StopSignal.SIGNALS}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["impala-mi", *args])
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main sets another
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(args, end.value.code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert says in lines[0]
