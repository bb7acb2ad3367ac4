"""Batches of EnvPool games: a pool of threads in C++ that steps all games of a level together.

EnvPool resets a game by itself in the step after its last one, which ignores its action; `BatchPlayers` resets
before, so that never happens. A pool takes its seeds when it is made, so a reset with seeds makes another pool. The
calls of the engine (`_send`, `_recv`, `_reset`) are used without EnvPool's wrappers in Python: that costs a
quarter less for two games.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from impala_mi.envs.base import BatchOutcome, GameBatch
from impala_mi.envs.envpool_grid import State


class PoolBatch(GameBatch):
    """Games of one EnvPool level.

    Args:
        env_id: EnvPool's id of the level.
        size: N, the number of games.
        settings: EnvPool's settings of the level.
        frames: function of a state that returns frames [n, *frame_shape].
        truncated: function of a state that returns which of the ended episodes [n] were cut off.
        instructions: function of a state after a reset that returns n instructions, or None.
    """

    def __init__(
        self,
        env_id: str,
        size: int,
        settings: Mapping[str, Any],
        frames: Callable[[State], np.ndarray],
        truncated: Callable[[State], np.ndarray],
        instructions: Callable[[State], Sequence[str]] | None,
    ) -> None:
        self._env_id, self._settings = env_id, settings
        self._frames, self._truncated, self._instructions = frames, truncated, instructions
        self._pools: list[Any] = [None] * size
        self._slots = np.zeros(size, np.int32)
        self._pending: list[tuple[Any, np.ndarray]] = []
        self._starts = False
        self._count = 0

    def begin_reset(self, games: np.ndarray, seeds: Sequence[int] | None) -> None:
        """Begin to start episodes; with seeds in a pool of their own."""
        if seeds is not None:
            pool = self._make_pool(seeds)
            for slot, game in enumerate(games.tolist()):
                self._pools[game], self._slots[game] = pool, slot
        self._starts = True
        self._begin(games, lambda pool, slots, rows: pool._reset(slots))

    def begin_step(self, games: np.ndarray, actions: Sequence[Any]) -> None:
        """Begin to act."""
        chosen = np.asarray(actions, np.int32)
        self._starts = False
        self._begin(games, lambda pool, slots, rows: pool._send([slots, slots, chosen[rows]]))

    def finish(self) -> BatchOutcome:
        """Wait for the pools."""
        pending, self._pending = self._pending, []
        if len(pending) == 1:
            [(pool, _)] = pending
            state = dict(zip(pool._state_keys, pool._recv(), strict=True))
        else:
            state = {}
            for pool, rows in pending:
                for key, array in zip(pool._state_keys, pool._recv(), strict=True):
                    if key not in state:
                        state[key] = np.empty((self._count, *array.shape[1:]), array.dtype)
                    state[key][rows] = array
        truncated = np.zeros(self._count, bool) if self._starts else state["done"] & self._truncated(state)
        instructions = self._instructions(state) if self._starts and self._instructions is not None else None
        return BatchOutcome(
            self._frames(state), state["reward"], state["done"] & ~truncated, truncated, instructions
        )

    def close(self) -> None:
        """Stop the threads of the pools."""
        self._pools = []

    def _begin(self, games: np.ndarray, call: Callable[[Any, np.ndarray, np.ndarray], None]) -> None:
        """Call the engine once per pool, with the pool's slots [k] and the rows [k] of the call that they are."""
        self._count = len(games)
        rows_of: dict[int, list[int]] = {}
        for row, game in enumerate(games.tolist()):
            rows_of.setdefault(id(self._pools[game]), []).append(row)
        for rows in map(np.array, rows_of.values()):
            pool = self._pools[games[rows[0]]]
            call(pool, self._slots[games[rows]], rows)
            self._pending.append((pool, rows))

    def _make_pool(self, seeds: Sequence[int]) -> Any:
        import envpool

        return envpool.make_gymnasium(
            self._env_id, num_envs=len(seeds), num_threads=1, seed=list(seeds), **self._settings
        )
