"""Part b: every GPU test of the suite."""

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from gpu_parts.part import Run

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/learner/test_gpu.py",)
"""Files that hold the tests which only a GPU can run."""


class _Recorder:
    """Plugin of pytest that adds a row for each test."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for the set-up, the call and the tear-down of a test."""
        if report.when != "call" and report.passed:
            return
        message = ""
        if report.failed:
            message = report.longreprtext[-1500:]
            self._run.note(f"`{report.nodeid}` failed:\n```\n{report.longreprtext[-3000:]}\n```")
        elif report.skipped:
            message = str(report.longrepr[-1])
        name = report.nodeid.rpartition("/")[2]
        row = {"test": name, "outcome": report.outcome, "s": report.duration, "message": message[-200:]}
        self._run.row("tests", **row)

    def pytest_collectreport(self, report: Any) -> None:
        """Called by pytest for each file that it collects."""
        if report.failed:
            self._run.row("tests", test=report.nodeid, outcome="not collected", message=str(report.longrepr)[-500:])


def gpu_tests(run: Run) -> str | None:
    """Run the tests without the suite's conftest, which needs packages that a GPU machine may lack."""
    if importlib.util.find_spec("pytest") is None:
        run.note("pytest is not installed.")
        return "skipped"
    if not (ROOT / TESTS[0]).exists():
        run.note("The tests are not here: this is not a checkout of the repository.")
        return "skipped"
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "--noconftest", "-c", "/dev/null", "--rootdir", str(ROOT)]
    with contextlib.redirect_stdout(io.StringIO()):
        code = pytest.main([*options, *(str(ROOT / test) for test in TESTS)], plugins=[_Recorder(run)])
    outcomes = [row["outcome"] for row in run.report.rows(run.name, "tests")]
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    run.note("Outcomes: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + ".")
    return "skipped" if set(outcomes) == {"skipped"} else None if code == 0 else "failed"
