"""ViZDoom's nine single-player scenarios with one action set.

The nine actions mirror IMPALA's actions for DMLab. Buttons that a scenario does not offer have no effect, so each
scenario stays as published and scores are comparable. Frames are drawn at 160x120, the smallest size of ViZDoom,
and resized to 96x72.

Random scores are means of 200 episodes of uniformly random actions at an action repeat of 4
(`impala-mi levels doom --measure-random 200`).
"""

import contextlib
import shlex
import shutil
import threading
from pathlib import Path

from impala_mi.config import EnvConfig
from impala_mi.envs.base import Game, Level, Observation, Outcome, Suite
from impala_mi.envs.choose import choose_levels
from impala_mi.errors import MissingPackageError
from impala_mi.host.tempdirs import tempdir
from impala_mi.types import Spaces

WIDTH, HEIGHT = 96, 72
RENEW_EPISODES = 1_000
"""Episodes after which the process of a game is restarted, because it leaks some 0.7 kB per episode."""
ACTIONS = {
    "forward": ("MOVE_FORWARD",),
    "backward": ("MOVE_BACKWARD",),
    "strafe_left": ("MOVE_LEFT",),
    "strafe_right": ("MOVE_RIGHT",),
    "look_left": ("TURN_LEFT",),
    "look_right": ("TURN_RIGHT",),
    "forward_look_left": ("MOVE_FORWARD", "TURN_LEFT"),
    "forward_look_right": ("MOVE_FORWARD", "TURN_RIGHT"),
    "fire": ("ATTACK",),
}
# Means over the model cards "edbeeching/doom_*" that publish a score, in the units of the scenario.
_CARDS = "Sample Factory APPO, published model cards"
LEVELS = (
    Level("basic", -176.9, 76.0, _CARDS, 0.02),
    Level("deadly_corridor", -27.7, 1766.0, _CARDS, 0.01),
    Level("defend_the_center", -0.25, 24.4, _CARDS, 1.0),
    Level("defend_the_line", 6.3, 35.8, _CARDS, 1.0),
    Level(
        "health_gathering", 379.8, 2100.0, "the time limit; reached by the agent of fabiononato/doomfly-rl", 0.01
    ),
    Level(
        "health_gathering_supreme", 313.2, 2100.0, "the time limit; no published score found in these units", 0.01
    ),
    Level("my_way_home", -0.114, 0.98, _CARDS, 1.0),
    Level("predict_position", -0.016, 0.92, "12libao/NanoJev, RGB+GRU policy (in training)", 1.0),
    Level("take_cover", 216.7, 1092.0, "World Models (Ha and Schmidhuber 2018)", 0.01),
)
_STARTING = threading.Lock()


def _launcher(folder: Path, program: Path) -> Path | None:
    """Write a script that starts the game so that it dies with this process; None without `setpriv`."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return None
    script = folder / "vizdoom"
    script.write_text(f'#!/bin/sh\nexec {setpriv} --pdeathsig KILL -- {shlex.quote(str(program))} "$@"\n')
    script.chmod(0o700)
    return script


def _unlink_shared_memory() -> None:
    """Unlink the shared memory of this process's games, which have opened it by now.

    The names would otherwise remain if the process is killed.
    """
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps:
            if "/dev/shm/ViZDoom" in line:
                Path(line[line.index("/") :].strip()).unlink(missing_ok=True)


class DoomGame(Game):
    """One scenario; ViZDoom runs the game in a process of its own."""

    def __init__(self, scenario: str, action_repeat: int) -> None:
        import cv2
        import vizdoom

        cv2.setNumThreads(1)
        self._resize = cv2.resize
        self._repeat = action_repeat
        self._folder = tempdir("doom")
        game = vizdoom.DoomGame()
        if (launcher := _launcher(Path(self._folder.name), Path(vizdoom.__file__).parent / "vizdoom")) is not None:
            game.set_vizdoom_path(str(launcher))
        game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
        game.set_doom_config_path(str(Path(self._folder.name) / "vizdoom.ini"))
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_mode(vizdoom.Mode.PLAYER)
        buttons = [button.name for button in game.get_available_buttons()]
        self._actions = [[float(b in pressed) for b in buttons] for pressed in ACTIONS.values()]
        self._game = game
        self._running, self._episodes = False, 0

    def reset(self, seed: int) -> Observation:
        """Start an episode."""
        self._game.set_seed(seed)
        self._episodes += 1
        if self._running and self._episodes % RENEW_EPISODES == 0:
            self._game.close()
            self._running = False
        if self._running:
            self._game.new_episode()
        else:
            # The game leaves a folder in its working directory, which is that of the whole process.
            with _STARTING, contextlib.chdir(self._folder.name):
                self._game.init()
                _unlink_shared_memory()
            self._running = True
        return self._observe()

    def step(self, action: int) -> Outcome:
        """Press the buttons of the action for the action repeat."""
        reward = self._game.make_action(self._actions[action], self._repeat)
        if not self._game.is_episode_finished():
            return Outcome(self._observe(), reward)
        timeout = self._game.is_episode_timeout_reached() and not self._game.is_player_dead()
        return Outcome(None, reward, terminated=not timeout, truncated=timeout)  # the game has no final frame

    def close(self) -> None:
        """End the game process and remove its files."""
        self._game.close()
        self._folder.cleanup()

    def _observe(self) -> Observation:
        screen = self._game.get_state().screen_buffer
        return Observation(self._resize(screen, (WIDTH, HEIGHT)))


def doom(config: EnvConfig) -> Suite:
    """Make the suite; raises `MissingPackageError` without the `doom` extra."""
    for package in ("vizdoom", "cv2"):
        try:
            __import__(package)
        except ImportError:
            raise MissingPackageError(package, "doom") from None
    levels = choose_levels("doom", LEVELS, config.levels)
    repeat = config.action_repeat or 4
    return Suite(
        name="doom",
        levels=levels,
        spaces=Spaces((HEIGHT, WIDTH, 3), "uint8", len(ACTIONS), len(levels), instructions=False),
        actions=tuple(ACTIONS),
        make_game=lambda level: DoomGame(level, repeat),
        action_repeat=repeat,
        step_threads=16,  # a step exchanges four messages with the game
    )
