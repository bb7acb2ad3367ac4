"""Test double of DeepMind Lab's module. Like a real build it aborts, exits, hangs and segfaults.

Frames and instructions are recordings of the real levels. Environment variables control it:

    DMLAB_DOUBLE_FRAMES     frames per episode; by default those of the level
    DMLAB_DOUBLE_COMPILE_S  CPU seconds that the compilation of a map takes, in a process of its own
    DMLAB_DOUBLE_COMPILES   file to which each compiler appends "begin KEY" and "end KEY"
    DMLAB_DOUBLE_FAULTS     FOLDER:TOTAL:RATE, a total number of faults, of all kinds in turn, at random calls; each
                            writes a file to the folder
    DMLAB_DOUBLE_BREAKS     LEVEL:PLACE:KIND, a fault at every call of that place in that level
"""

import ctypes
import functools
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RECORDINGS = Path(os.environ.get("DMLAB_DOUBLE_RECORDINGS", Path(__file__).parents[2] / "data" / "dmlab30"))
KINDS = ("raise", "hang", "abort", "segfault", "exit")
SETTINGS = {"width", "height", "allowHoldOutLevels", "mixerSeed", "datasetPath", "logLevel", "fps"}
OBSERVATIONS = {"RGB_INTERLEAVED", "INSTR", "VEL.TRANS", "VEL.ROT", "DEBUG.POS.TRANS", "DEBUG.POS.ROT"}
SECONDS = {
    "rooms_collect": 60, "rooms_exploit": 60, "rooms_select": 12, "rooms_watermaze": 120, "rooms_keys": 60,
    "language_select_described": 60, "language_answer": 60, "language": 120, "lasertag": 240, "natlab": 120,
    "skymaze": 60, "psychlab_visual": 150, "psychlab": 300, "explore_object_rewards_few": 90, "explore": 90,
}  # fmt: skip
CACHED = ("explore_", "lasertag_", "skymaze_", "language_", "rooms_keys_doors_puzzle")
NEED_IMAGES = ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition")
ACTIONS = []
"""Actions as the engine has read them, of all instances in this process."""
_LIBC = ctypes.PyDLL(None)  # keeps the interpreter's lock, as the real module does in every call
_drawn_in = None


def _hang():
    while True:
        _LIBC.pause()


def _fault(kind):
    # The cause stands above a traceback of Lua, whose end is the last line.
    sys.stderr.write(f"double: {kind}\nstack traceback:\n")
    sys.stderr.write("".join(f"\t[C]: in function 'call {i}'\n" for i in range(9)) + "\t[C]: in ?\n")
    sys.stderr.flush()
    if kind == "raise":
        raise RuntimeError('Failed to advance environment "[lua] script error"')
    if kind == "exit":
        os._exit(1)
    if kind == "abort":
        os.abort()
    if kind == "segfault":
        ctypes.string_at(0)
    _hang()


def _maybe_fault(level, place):
    breaks = os.environ.get("DMLAB_DOUBLE_BREAKS", "::").split(":")
    if breaks[:2] == [level, place]:
        _fault(breaks[2])
    if "DMLAB_DOUBLE_FAULTS" not in os.environ:
        return
    folder, total, rate = os.environ["DMLAB_DOUBLE_FAULTS"].split(":")
    if random.random() >= float(rate):
        return
    for number in range(len(os.listdir(folder)), int(total)):
        kind = KINDS[number % len(KINDS)]
        try:
            with open(os.path.join(folder, str(number)), "x") as file:
                file.write(f"{kind} {place} {level}")
        except FileExistsError:
            continue
        _fault(kind)


@functools.cache
def _recording(level):
    names = sorted(path.stem for path in RECORDINGS.glob("*.npz"))
    name = level if level in names else names[sum(level.encode()) % len(names)]
    with np.load(RECORDINGS / f"{name}.npz") as data:
        instructions = [str(i) for i in data["instr"]] if level.startswith("language_") else [""]
        if level.startswith("language_") and not any(instructions):
            instructions = ["Pick the blue object", "red saxophone", "Is any hat blue?"]
        return data["rgb"], instructions, data["reward"].astype(float)


def compiled(key):
    """Content of the map of a key, which a cache must return unchanged."""
    seed = int.from_bytes(hashlib.md5(key.encode()).digest()[:4], "little")
    rng = np.random.default_rng(seed)
    return rng.bytes(int(rng.integers(1, 100_000)))


class Lab:
    def __init__(self, level, observations, config=None, renderer="software", level_cache=None, temp_folder=""):
        self._closed = True
        if not isinstance(level, str) or not isinstance(temp_folder, str):
            raise TypeError("argument must be str")
        if type(observations) is not list:
            raise TypeError(f"argument 2 must be list, not {type(observations).__name__}")
        if config is not None and type(config) is not dict:
            raise TypeError(f"argument 3 must be dict, not {type(config).__name__}")
        config = {} if config is None else config
        if renderer not in ("software", "hardware"):
            raise RuntimeError(f'Failed to set renderer must be "hardware" or "software" actual "{renderer}"!')
        for key, value in config.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError("bad argument type for built-in operation")
            if key not in SETTINGS:
                raise RuntimeError(f"Failed to apply setting '{key} = {value}'")
        prefix, _, self._level = level.rpartition("/")
        if prefix != "contributed/dmlab30":
            raise RuntimeError(f"Invalid levelName flag '{level}'")
        for name in observations:
            if not isinstance(name, str):
                raise TypeError("bad argument type for built-in operation")
            if name not in OBSERVATIONS:
                raise ValueError(f"Unknown observation '{name}'.")
        print("double: starting the engine", flush=True)
        self._owned = not temp_folder
        if self._owned:
            self._folder = tempfile.mkdtemp(prefix="dmlab_temp_folder_")
        elif not os.path.isdir(temp_folder):
            raise RuntimeError("Failed to create temp folder")
        else:
            self._folder = temp_folder
        os.makedirs(os.path.join(self._folder, "baselab"), exist_ok=True)
        _maybe_fault(self._level, "make")
        self._names, self._config, self._cache = observations, dict(config), level_cache
        self._shape = (int(config.get("height", 240)), int(config.get("width", 320)))
        self._closed, self._running, self._resets, self._steps = False, False, 0, 0
        seconds = next((s for start, s in SECONDS.items() if self._level.startswith(start)), 60)
        self._length = int(os.environ.get("DMLAB_DOUBLE_FRAMES", 60 * seconds))

    def reset(self, episode=-1, seed=None):
        self._no_use_after_close()
        if seed is None:
            seed = int(time.time())
        if not isinstance(seed, int):
            raise ValueError(f"'seed' must be int or None, was '{type(seed).__name__}'.")
        if not -(2**63) <= seed < 2**63:
            raise OverflowError("Python int too large to convert to C long")
        self._running = False
        _maybe_fault(self._level, "reset")
        if self._level.endswith("_test") and self._config.get("allowHoldOutLevels") != "true":
            raise RuntimeError('Failed to start environment - "held-out level"')
        images = os.path.join(self._config.get("datasetPath", ""), "0001.png")
        if self._level in NEED_IMAGES and not os.path.isfile(images):
            raise RuntimeError('Failed to start environment - "Follow instructions to download datasets"')
        mixed = (seed & 0xFFFFFFFF) ^ int(self._config.get("mixerSeed", "0"))
        self._map = mixed
        if self._level.startswith(CACHED):
            self._make_map(f"{mixed}")
        frames, self._instructions, self._rewards = _recording(self._level)
        self._frames = frames
        # The first episode of an instance differs from later episodes with its seed, on most levels at once.
        later = min(self._resets, 1)
        self._start = mixed % len(frames)
        if later and self._level != "rooms_watermaze":
            others = (i % len(frames) for i in range(self._start, self._start + len(frames)))
            self._start = next(i for i in others if (frames[i] != frames[self._start]).any())
        self._rng = random.Random(f"{self._level} {mixed} {later}")
        self._resets += 1
        self._steps, self._running, self._at = 0, True, self._start
        return True

    def step(self, action, num_steps=1):
        if not isinstance(action, np.ndarray):
            raise TypeError("argument 1 must be numpy.ndarray")
        if self._closed or not self._running:
            raise RuntimeError("Environment in wrong status to advance.")
        if action.shape != (7,):
            raise ValueError("action must have shape (7)")
        if action.dtype != np.intc:
            raise ValueError("action must have dtype np.intc")
        raw = ctypes.cast(action.ctypes.data, ctypes.POINTER(ctypes.c_int))
        ACTIONS.append(tuple(raw[i] for i in range(7)))  # ignores the strides, as the real module does
        _maybe_fault(self._level, "step")
        if self._level.startswith("language_") and self._rng.random() < 0.02:
            self._make_map(f"{self._map} {self._steps}")
        if self._level.startswith("lasertag_") and self._steps == 4 * 32:
            self._rng = random.Random()  # no seed makes these levels repeatable
        self._at = (self._at + self._rng.randrange(3)) % len(self._frames)
        reward = float(self._rewards[self._steps // 4 % len(self._rewards)])
        self._steps += num_steps
        self._running = self._steps < self._length
        return reward

    def observations(self):
        global _drawn_in
        if self._closed or not self._running:
            raise RuntimeError("Environment in wrong status for call to observations().")
        if _drawn_in not in (None, os.getpid()) and os.environ.get("LP_NUM_THREADS") != "0":
            _hang()
        _drawn_in = os.getpid()
        _maybe_fault(self._level, "observations")
        height, width = self._shape
        frame = self._frames[self._at]
        drawn = frame.copy() if frame.shape[:2] == self._shape else np.zeros((height, width, 3), np.uint8)
        out = {name: np.zeros(3) for name in self._names}
        changes = self._steps // 4 * len(self._instructions) // max(self._length // 4, 1)
        values = {"RGB_INTERLEAVED": drawn, "INSTR": self._instructions[min(changes, len(self._instructions) - 1)]}
        return out | {name: value for name, value in values.items() if name in out}

    def is_running(self):
        return not self._closed and self._running

    def num_steps(self):
        return self._steps

    def events(self):
        return []

    def observation_spec(self):
        self._no_use_after_close()
        return [{"name": name} for name in sorted(OBSERVATIONS)]

    def action_spec(self):
        self._no_use_after_close()
        return [{"name": str(i), "min": -512, "max": 512} for i in range(7)]

    def properties(self):
        self._no_use_after_close()
        return {}

    def close(self):
        if self._closed:
            return False
        self._closed = True
        if self._owned:
            shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def _no_use_after_close(self):
        if self._closed:
            os.kill(os.getpid(), signal.SIGSEGV)
            _hang()

    def _make_map(self, name):
        """Fetch the map from the cache, or compile it, store it there and delete it."""
        key = "explore_maze_noaas_" + hashlib.md5(f"{self._level} {name}".encode()).hexdigest()
        path = os.path.join(self._folder, "baselab", f"{key}.pk3")
        error = None
        if self._cache is not None:
            try:
                if self._cache.fetch(key, path):
                    try:
                        with open(path, "rb") as file:
                            whole = file.read() == compiled(key)
                        os.unlink(path)
                    except OSError:
                        whole = False
                    if not whole:
                        sys.stderr.write("double: cannot load the map\n")
                        sys.stderr.flush()
                        os._exit(1)
                    return
                if os.path.exists(path):
                    sys.stderr.write("double: a map is in the way\n")
                    os._exit(1)
            except Exception as e:
                error = e
        # A separate program compiles, and the interpreter's lock is held meanwhile.
        seconds = os.environ.get("DMLAB_DOUBLE_COMPILE_S", "0.01")
        log = os.environ.get("DMLAB_DOUBLE_COMPILES", "/dev/null")
        burn = f"'{sys.executable}' -I -S -c 'import time\nwhile time.process_time() < {seconds}: pass'"
        _LIBC.system(f"echo begin {key} >> '{log}'; {burn}; echo end {key} >> '{log}'".encode())
        with open(path, "wb") as file:
            file.write(compiled(key))
        if self._cache is not None and error is None:
            try:
                self._cache.write(key, path)
            except Exception as e:
                error = e
        os.unlink(path)
        if error is not None:
            raise error
