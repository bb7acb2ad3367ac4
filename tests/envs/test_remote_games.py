"""Many games in processes of their own, stepped together by one actor."""

import contextlib
import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from impala_mi.config import EnvConfig
from impala_mi.envs.base import GameFault, Level, Observation, Outcome, Suite
from impala_mi.envs.process import ProcessGame
from impala_mi.envs.vector import VectorEnv
from impala_mi.types import AgentInput, Spaces, transitions_buffer
from tests.envs.test_process import DyingGame, game
from tests.games import counting, in_processes

pytestmark = pytest.mark.slow


def vector(suite: Suite, width: int) -> tuple[VectorEnv, list[AgentInput]]:
    """Environments, and the inputs of 12 steps of a rollout."""
    levels = [i % len(suite.levels) for i in range(width)]
    data = transitions_buffer(suite.spaces, 12, width, 4)
    rows = [AgentInput(*(a[t] for a in data.inputs)) for t in range(13)]
    return VectorEnv(suite, levels, suite.assign_seeds([1], levels), 4, "never"), rows


class MixedGame(DyingGame):
    """Level NAME plays the game that ends its process in that way; `shape` changes the shape of its frames."""

    def step(self, action: int) -> Outcome:
        if self.how == "shape" and action == 1:
            return Outcome(Observation(np.zeros((2, 3), np.float32)), 0.0)
        return super().step(action)


def mixed(*levels: str) -> Suite:
    def make(level: str) -> ProcessGame:
        return ProcessGame(
            functools.partial(MixedGame, level.split("-")[0]), level, 60, 60 if level == "well" else 1
        )

    spaces = Spaces((72, 96, 3), "uint8", 9, len(levels), instructions=True)
    return Suite("mixed", tuple(map(Level, levels)), spaces, tuple("abcdefghi"), make, step_threads=256)


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("auto_reset", [True, False])
def test_they_play_what_games_in_the_actors_process_play(width, auto_reset):
    def played(change: Callable[[Suite], Suite]) -> tuple:
        suite = change(counting(EnvConfig(levels=["terminates", "truncates", "no_final"])))
        v, rows = vector(suite, width)
        v.reset(rows[0])
        results = []
        for t in range(12):
            active = np.arange(width) != t % 7  # one rests at times
            v.begin(np.arange(width) % 3 * (t % 2), rows[t + 1], active, auto_reset)
            results.append(v.finish())
            if not auto_reset:
                ended = np.flatnonzero(results[-1].terminated | results[-1].truncated).tolist()
                v.reset(rows[t + 1], {e: 100 * t + e for e in ended})
        v.close()
        return rows, results

    (rows, results), (own_rows, own_results) = played(lambda s: in_processes(s, "apart")), played(lambda s: s)
    assert width == 1 or sum(len(r.final_observations) for r in results) > 1
    for a, b in zip(rows, own_rows, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    for a, b in zip(results, own_results, strict=True):
        for name in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.episodes == b.episodes
        assert repr(a.final_observations) == repr(b.final_observations)  # unchanged by what was played since


def test_a_game_that_dies_hangs_or_changes_its_frames_costs_the_others_nothing():
    suite = mixed("well", "abort", "hang", "shape", "raise")
    v, rows = vector(suite, 5)
    v.reset(rows[0])
    v.step(np.full(5, 7), rows[1])
    start = time.monotonic()
    lost = v.step(np.array([2, 1, 1, 1, 1]), rows[2])
    assert time.monotonic() - start < 40
    assert lost.truncated.tolist() == [False, True, True, True, True]
    assert rows[2].frame[0, 0, 0, 0] == 2
    for t in range(3, 7):
        assert v.step(np.full(5, t), rows[t]).truncated.sum() == 0
        assert (rows[t].frame == t).all()
    assert [e for e, _ in lost.final_observations] == [1, 2, 3, 4]
    assert all((o.frame == 7).all() for _, o in lost.final_observations), "the last frame before the fault"
    faults = dict(v.take_faults())
    assert [faults[k].kind for k in range(1, 5)] == ["crash", "hang", "error", "error"]
    assert "ended by SIGABRT: the last line" in faults[1].message
    assert "no answer to step in 1 s" in faults[2].message
    assert "shape [2, 3] and dtype float32; the suite has [72, 96, 3] uint8" in faults[3].message
    assert "RuntimeError: the level broke" in faults[4].message
    v.close()


def test_an_interrupt_between_a_call_and_its_answer_does_not_give_the_next_call_that_answer():
    g = game("hang")
    g.reset(1)
    g.begin_step(5)
    assert g.reset(3).frame[0, 0, 0] == 3
    g.begin_step(5)
    g.begin_step(6)
    with pytest.raises(GameFault, match="reset first"):
        g.finish_step()
    g.reset(1)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            g.step(1)  # hangs
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(GameFault, match="reset first"):
        g.step(2)
    assert g.reset(4).frame[0, 0, 0] == 4
    g.begin_step(5)
    g.close()  # in order, after the answer that is under way


def test_an_interrupt_by_another_thread_ends_the_wait_for_games_that_hang():
    suite = mixed("well", "compile_hang", "stopped")
    slow = functools.partial(ProcessGame, timeout_s=600)
    suite = dataclasses.replace(suite, make_game=lambda k: slow(functools.partial(MixedGame, k), k))
    v, rows = vector(suite, 3)
    v.reset(rows[0])
    v.begin(np.array([2, 1, 1]), rows[1])
    start = time.monotonic()
    timer = threading.Timer(0.3, v.interrupt)
    timer.start()
    with pytest.raises(RuntimeError, match="interrupted"):
        v.finish()
    v.close()
    assert time.monotonic() - start < 10


def own_descriptors() -> list[str]:
    """Pipes and memory that this process has open; threads of earlier tests may open files and connections."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(link for link in links if link.startswith(("pipe:", "/memfd:")))


def test_a_killed_child_is_a_fault_and_its_memory_has_no_name():
    before, descriptors = set(psutil.Process().children()), own_descriptors()
    g = game("well")
    g.reset(1)
    (child,) = set(psutil.Process().children()) - before
    maps = [m.path for m in child.memory_maps(grouped=False)]
    assert any(path.startswith("/memfd:impala-mi-game") for path in maps)
    assert not any("/dev/shm" in path for path in maps)
    frame = g.step(6).observation.frame
    g.begin_step(5)
    child.kill()
    with pytest.raises(GameFault, match="ended by SIGKILL"):
        g.finish_step() and g.step(5)  # it may have answered before
    g.reset(2)
    assert (frame == 6).all(), "what `step` returns is a copy"
    g.close()
    assert own_descriptors() == descriptors
