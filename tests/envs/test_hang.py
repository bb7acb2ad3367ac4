"""What counts as a hang: neither a game that computes nor one that waits for its turn."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from impala_mi.envs import hang
from impala_mi.envs.hang import HangWatch, beat, group_cpu_s

PROGRAMS = {
    "computes": "while True: pass",
    "starts what computes": (
        "import subprocess, sys\n"
        "while True: subprocess.run([sys.executable, '-I', '-S', '-c', 'sum(range(10**6))'])"
    ),
    "sleeps": "import time\nprint(flush=True)\ntime.sleep(600)",
}


class Call:
    """A call of a game that uses a share of a core, in simulated time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.now, self.cpu_s, self.folder = 1000.0, 5.0, folder
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr(hang, "group_cpu_s", lambda _: self.cpu_s)

    def wait(self, watch: HangWatch, share: float, for_s: float, beats: bool = False) -> str | None:
        """First problem within `for_s` seconds."""
        end = self.now + for_s
        while self.now < end:
            self.now += watch.every_s
            self.cpu_s += share * watch.every_s
            if beats:
                beat(self.folder)
            if (problem := watch.problem()) is not None:
                return problem
        return None


@pytest.fixture
def call(monkeypatch, tmp_path) -> Call:
    return Call(monkeypatch, tmp_path)


def watch(call: Call, timeout_s: float, computing_counts: bool = True) -> HangWatch:
    return HangWatch(1, call.folder, timeout_s, computing_counts)


def test_a_compile_of_200_s_of_cpu_time_goes_on_under_a_limit_of_60_s(call):
    assert call.wait(watch(call, 60), share=1.0, for_s=200) is None
    assert call.wait(watch(call, 60), share=0.05, for_s=4000) is None  # on a machine that does much else


def test_but_a_game_that_computes_for_ever_hangs(call):
    assert call.wait(watch(call, 60), share=1.0, for_s=1000) == "after 300 s of CPU time"
    assert call.now == pytest.approx(1000 + 15 + 300)  # the first sample is the beginning


def test_a_game_that_sleeps_hangs_after_its_timeout(call):
    assert call.wait(watch(call, 60), share=0.001, for_s=1000) == "in 60 s without CPU time"
    assert call.now == 1060


def test_the_timeout_begins_anew_when_a_game_stops_computing(call):
    w = watch(call, 60)
    assert call.wait(w, share=1.0, for_s=150) is None
    assert call.wait(w, share=0.0, for_s=1000) == "in 60 s without CPU time"
    assert call.now == 1210


def test_a_game_that_says_that_it_waits_is_waited_for(call):
    w = watch(call, 60)
    assert call.wait(w, share=0.0, for_s=900, beats=True) is None
    assert call.wait(w, share=0.0, for_s=1000) == "in 60 s without CPU time", "what it said before is old"
    assert call.now == 1960
    assert call.wait(watch(call, 60), share=0.0, for_s=1000) is not None, "said in an earlier call"


def test_a_strict_timeout_counts_every_second(call):
    assert call.wait(watch(call, 60, computing_counts=False), share=1.0, for_s=60) == "in 60 s"


@pytest.mark.parametrize(
    ("program", "busy"), [("computes", True), ("starts what computes", True), ("sleeps", False)]
)
def test_cpu_time_is_that_of_the_whole_group_and_of_children_that_ended(program, busy):
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PROGRAMS[program]], start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        if busy:
            deadline = time.monotonic() + 60
            while group_cpu_s(process.pid) < 0.2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        else:
            process.stdout.readline()
            before = group_cpu_s(process.pid)
            time.sleep(0.1)
            assert group_cpu_s(process.pid) == before
    finally:
        process.kill()
        process.communicate()


def test_a_game_whose_folder_is_gone_cannot_say_that_it_waits(tmp_path):
    beat(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
