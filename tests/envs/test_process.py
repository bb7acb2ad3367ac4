"""Games in child processes: every way in which a game can end its process."""

import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from impala_mi.envs.base import Environment, GameFault, Observation, Outcome
from impala_mi.envs.process import ProcessGame
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.host.tempdirs import sweep

ROOT = Path(__file__).resolve().parents[2]


class DyingGame:
    """Game that fails in the way that `how` names."""

    def __init__(self, how: str, folder: str) -> None:
        self.how, self.folder = how, Path(folder)
        (self.folder / "file").write_text("content")
        Path(os.environ["TMPDIR"], "own_folder").mkdir(exist_ok=True)
        if how == "unmade":
            raise RuntimeError("cannot be made")

    def reset(self, seed: int) -> Observation:
        if self.how == "unreset":
            raise ValueError("no such seed")
        return Observation(np.full((72, 96, 3), seed % 256, np.uint8), f"seed {seed}")

    def step(self, action: int) -> Outcome:
        if action == 1:
            self.die()
        return Outcome(Observation(np.full((72, 96, 3), action, np.uint8)), float(action))

    def die(self) -> None:
        print("".join(f"line {i}\n\n" for i in range(30)) + "the last line", file=sys.stderr, flush=True)
        if self.how in ("compile_hang", "compile_abort"):  # a child that outlives the game and keeps writing
            subprocess.Popen(["sh", "-c", f"while sleep 0.1; do mkdir -p {self.folder}/late; done"])
            if self.how == "compile_abort":
                os.abort()
            ctypes.PyDLL(None).system(b"sleep 600")  # holds the interpreter's lock, as DeepMind Lab's popen does
        if self.how == "raise":
            raise RuntimeError("the level broke")
        if self.how == "abort":
            os.abort()
        if self.how == "segfault":
            ctypes.string_at(0)
        if self.how == "exit":
            os._exit(3)
        if self.how == "sysexit":
            sys.exit(4)
        if self.how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        while self.how == "hang":
            ctypes.PyDLL(None).pause()  # never returns to Python, like a hung engine

    def close(self) -> None:
        if self.how == "close":
            ctypes.PyDLL(None).pause()

    def counts(self) -> dict[str, int]:
        return {"asked": 1}


def game(how: str, timeout_s: float = 30, step_timeout_s: float | None = None) -> ProcessGame:
    return ProcessGame(functools.partial(DyingGame, how), "a_level", timeout_s, step_timeout_s)


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch, request):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = set(psutil.Process().children(recursive=True))
    yield
    if "compile" in request.node.name:
        time.sleep(0.2)  # a child of the game that survived would write now
    children = set(psutil.Process().children(recursive=True)) - before
    orphans = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not children, "a process was left behind"
    assert not orphans, "what a game started was left behind"
    assert list(tmp_path.glob("impala-mi-*")) == [], "a folder was left behind"
    assert not os.path.exists(tmp_path / "own_folder"), "a temporary file outside the game's folder"


@pytest.mark.slow
def test_calls_and_answers_pass_through():
    g = game("well")
    obs = g.reset(7)
    assert obs.frame.shape == (72, 96, 3)
    assert (obs.frame == 7).all()
    assert obs.instruction == "seed 7"
    outcome = g.step(5)
    assert (outcome.observation.frame == 5).all()
    assert outcome.reward == 5.0
    assert g.counts() == {"asked": 2}
    assert g.counts() == {}
    g.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("raise", "error", "a_level: RuntimeError: the level broke"),
        ("abort", "crash", "a_level: in step: ended by SIGABRT: the last line"),
        ("segfault", "crash", "a_level: in step: ended by SIGSEGV: the last line"),
        ("exit", "crash", "a_level: in step: exit code 3: the last line"),
        ("sysexit", "crash", "a_level: in step: exit code 4: the last line"),
        ("hang", "hang", r"a_level: no answer to step in 0\.3 s"),
        ("stopped", "hang", r"a_level: no answer to step in 0\.3 s"),
        ("compile_hang", "hang", r"a_level: no answer to step in 0\.3 s"),
        ("compile_abort", "crash", "a_level: in step: ended by SIGABRT: the last line"),
    ],
)
def test_every_death_is_a_fault_that_names_it_and_the_next_reset_starts_anew(how, kind, says):
    g = game(how, timeout_s=600, step_timeout_s=0.3 if kind == "hang" else 30)
    for attempt in range(2):
        g.reset(3)
        start = time.monotonic()
        with pytest.raises(GameFault, match=says) as e:
            g.step(1)
        assert e.value.kind == kind
        assert e.value.output == "\n".join(f"line {i}" for i in range(11, 30)) + "\nthe last line", attempt
        assert time.monotonic() - start < 10, "its end was noticed late"
        with pytest.raises(GameFault, match="reset first"):
            g.step(2)
    g.close()


@pytest.mark.parametrize("how", ["unmade", "unreset"])
def test_a_game_that_cannot_start_is_a_fault_too(how):
    g = game(how)
    with pytest.raises(GameFault, match=r"cannot be made|no such seed"):
        g.reset(1)
    g.close()


def test_a_machine_that_cannot_start_another_process_is_a_fault_and_leaves_nothing(monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    open_before = len(os.listdir("/proc/self/fd"))
    g = game("well")
    with monkeypatch.context() as context:
        context.setattr("subprocess.Popen", refuse)
        for _ in range(3):
            with pytest.raises(GameFault, match=r"a_level: cannot be started: .*Resource temporarily unavailable"):
                g.reset(1)
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert g.reset(1).instruction == "seed 1"
    g.close()
    assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.slow
def test_a_game_that_hangs_when_closed_is_ended_by_force(monkeypatch):
    monkeypatch.setattr("impala_mi.envs.process._CLOSE_S", 0.5)
    g = game("close")
    g.reset(1)
    g.close()


@pytest.mark.slow
def test_the_terminals_interrupt_is_for_the_parent():
    before = set(psutil.Process().children())
    g = game("well")
    g.reset(1)
    (child,) = set(psutil.Process().children()) - before
    group = os.getpgid(child.pid)
    g.close()
    assert group != os.getpgid(0)


@pytest.mark.slow
def test_the_games_of_a_killed_player_compile_hang_or_not_are_killed_with_it(tmp_path):
    """The kernel kills even a game that hangs in code that holds the interpreter's lock."""
    code = (
        "import threading, time; from tests.envs.test_process import game\n"
        "for how in ('well', 'hang', 'compile_hang'):\n"
        "    g = game(how); g.reset(1); threading.Thread(target=g.step, args=(1,)).start()\n"
        "time.sleep(0.5); print('up', flush=True); time.sleep(60)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    player = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    assert player.stdout.readline() == "up\n"
    games = psutil.Process(player.pid).children(recursive=True)
    assert len(games) > 3, "three games and what one of them has started"
    player.kill()
    player.wait()
    _, alive = psutil.wait_procs(games, timeout=5)
    assert alive == []
    foreign = tmp_path / "impala-mi-game-00000000-1-elsewhere"  # of another container, with other process ids
    foreign.mkdir()
    sweep()
    assert [p for p in tmp_path.iterdir() if p.name.startswith("impala-mi-")] == [foreign]
    foreign.rmdir()


@pytest.mark.slow
def test_games_outlive_the_thread_that_started_them():
    """The games of an actor are started by the threads of a pool."""
    g = game("well")
    starter = threading.Thread(target=g.reset, args=(1,))
    starter.start()
    starter.join()
    time.sleep(0.2)
    assert g.step(2).reward == 2.0
    g.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", "faulty"])
def test_an_interrupt_does_not_wait_for_a_call_or_a_pause(how):
    """Ctrl-C must not wait for the timeout of a hang or for the pause after consecutive faults."""
    env = Environment(game("hang" if how == "hang" else "unreset", timeout_s=600), 0, EpisodeSeeds([1], "x"), True)
    if how == "hang":
        env.reset()
    ended = []

    def play() -> None:
        with pytest.raises(RuntimeError, match="interrupted"):
            env.step(1) if how == "hang" else env.reset()
        ended.append(True)

    player = threading.Thread(target=play)
    player.start()
    while not (env._game._call if how == "hang" else len(env._faults) > 1):
        time.sleep(0.01)
    time.sleep(0.1)
    start = time.monotonic()
    env.interrupt()
    player.join(timeout=10)
    assert ended == [True]
    env.close()
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_an_environment_goes_on_after_faults_of_its_process():
    env = Environment(game("abort"), 0, EpisodeSeeds([1], "a_level"), True)
    env.reset()
    for _ in range(2):
        assert env.step(0).reward == 0.0
    lost = env.step(1)
    assert (lost.truncated, lost.first, lost.episode) == (True, True, None)
    assert env.step(2).reward == 2.0
    stats = env.take_stats()
    assert [fault.kind for fault in stats.faults] == ["crash"]
    assert len(stats.reset_s) == 2
    env.close()


@pytest.mark.slow
def test_a_talkative_engine_does_not_fill_the_disk(monkeypatch):
    monkeypatch.setattr("impala_mi.envs.process._LOG_BYTES", 10)
    monkeypatch.setattr("impala_mi.envs.process._LOG_EVERY", 1)
    g = ProcessGame(functools.partial(Talking, "well"), "a_level", 30)
    for seed in range(5):
        g.reset(seed)
        assert g._child._log.stat().st_size <= 1000
    g.close()


class Talking(DyingGame):
    def reset(self, seed: int) -> Observation:
        print("x" * 999, flush=True)
        return super().reset(seed)


class Wide(DyingGame):
    """Frames and instructions of megabytes."""

    def reset(self, seed: int) -> Observation:
        return Observation(np.full((1024, 1024, 5), seed % 256, np.uint8), "word " * seed)

    def step(self, action: int) -> Outcome:
        return Outcome(Observation(np.full(action, 7, np.uint8)), float(action))


@pytest.mark.slow
def test_frames_of_any_size_are_played():
    g = ProcessGame(functools.partial(Wide, "well"), "a_level", 30)
    first = g.reset(200_000)
    assert first.frame.shape == (1024, 1024, 5)
    assert (first.frame == 200_000 % 256).all()
    assert len(first.instruction) == 1_000_000
    for size in (1, 4095, 4096, 4097, 2**20 + 17, 0, 1):
        frame = g.step(size).observation.frame
        assert frame.shape == (size,)
        assert (frame == 7).all()
    g.close()


def test_files_in_the_working_folder_that_are_named_like_modules_replace_none(tmp_path, monkeypatch):
    for name in ("random", "select", "pickle", "numpy", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    (tmp_path / "games_of_my_own.py").write_text("from tests.envs.test_process import DyingGame as Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(ROOT), *sys.path])
    g = ProcessGame(functools.partial(own_game, "well"), "a_level", 30)
    assert g.reset(3).frame[0, 0, 0] == 3
    g.close()


def own_game(how: str, folder: str) -> DyingGame:
    import games_of_my_own  # lies in the working folder

    game: DyingGame = games_of_my_own.Mine(how, folder)
    return game
