"""Measures everything about the learner on a GPU in one command of at most eight minutes.

    python benchmarks/gpu.py                        all parts; writes gpu.json and gpu.md
    python benchmarks/gpu.py --only c,f             only these parts, which share the time
    python benchmarks/gpu.py --compare before.json  ratios to an earlier run

Needs PyTorch 2.11 or newer, NumPy, pydantic, PyYAML and jaxtyping; pytest for part b and Ray for part j. Each part
runs in a process of its own with its own time limit. A part that fails is recorded with its traceback, and the next
one starts. Without a GPU the same parts run with tiny sizes, to show that the command works.
"""

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE), str(HERE.parent)) if path not in sys.path]

from gpu_parts.part import PARTS, Run, part_function  # noqa: E402
from gpu_parts.report import Report  # noqa: E402

BUDGET_S = 480.0
"""Default seconds of all parts together."""
KILL_AFTER_S = 3.0
"""Seconds between the end of a part's time and its death."""


def run_part(name: str, target: str, out: Path, limit_s: float) -> None:
    """Run one part, the function `target`, in this process; its traceback goes into the report."""
    os.setsid()  # what the part starts ends with it
    report = Report(out)
    start = time.monotonic()
    try:
        run = Run(report, name, start + limit_s)
        status = part_function(target)(run) or "done"
    except BaseException:
        report.finish(name, "failed", time.monotonic() - start, traceback.format_exc())
        raise SystemExit(1) from None
    report.finish(name, status, time.monotonic() - start)


def supervise(process: BaseProcess, name: str, out: Path, limit_s: float) -> None:
    """Wait for a part, end it when its time is over, and record an end of which it could not tell."""
    start = time.monotonic()
    try:
        process.join(limit_s + KILL_AFTER_S)
        late = process.is_alive()
    finally:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the part, and processes that it left behind
        process.join()
    report = Report(out)
    if report.status(name) == "running":
        why = f"stopped after {limit_s:.0f} s" if late else f"the process ended with exit code {process.exitcode}"
        report.finish(name, "out of time" if late else "failed", time.monotonic() - start, why)


def main() -> None:
    """Run the chosen parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds of all parts together (480)")
    parser.add_argument("--only", help=f"parts to run, such as c,f; there are {','.join(PARTS)}")
    parser.add_argument("--compare", type=Path, help="JSON file of an earlier run, for ratios")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="results: OUT.json and OUT.md (gpu)")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"--only {arguments.only}: there is no part {', '.join(unknown)}")
    chosen = [name for name in PARTS if name in chosen]
    try:
        report = Report.create(arguments.out, arguments.compare, keep=bool(arguments.only))
    except (OSError, ValueError) as e:
        parser.error(str(e))
    # The process from which parts are forked finds modules by this variable alone.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gpu_parts.part", "gpu_parts.preload"])
    end = time.monotonic() + arguments.budget
    for i, name in enumerate(chosen):
        share = PARTS[name].share / sum(PARTS[n].share for n in chosen[i:])
        limit = max((end - time.monotonic() - KILL_AFTER_S) * share, 1.0)
        report.begin(name, limit)
        print(f"{name}  {PARTS[name].title} (at most {limit:.0f} s) ...", flush=True)
        process = context.Process(target=run_part, args=(name, PARTS[name].target, arguments.out, limit))
        process.start()
        supervise(process, name, arguments.out, limit)
        report = Report(arguments.out)
        print(report.part_text(name), flush=True)
    print(report.summary())
    print(f"written: {report.json_file}, {report.page_file}")
    sys.exit(any(report.status(name) == "failed" for name in chosen))


if __name__ == "__main__":
    main()
