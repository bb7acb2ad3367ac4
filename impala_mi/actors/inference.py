"""Central inference: one network acts for the environments of many actors, in batches of those that ask."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from impala_mi.config import Config
from impala_mi.nn.agent import Agent
from impala_mi.nn.precision import choose_dtype
from impala_mi.types import AgentInput, CoreState, Spaces


class InferenceLost(Exception):
    """The process that acts for this actor is gone; the unroll can be played again with another."""


class Request(NamedTuple):
    """A group of environments asks what to do."""

    group: tuple[int, int]
    """Actor, and number of the group there; the core's state is kept by it."""
    inputs: AgentInput
    """NumPy arrays [N, ...]."""
    begins: bool
    """Whether an unroll begins, and the reply must bring the state before it."""


class Reply(NamedTuple):
    """What N environments should do."""

    action: np.ndarray
    """[N] int64."""
    logits: np.ndarray
    """[N, A] float32."""
    version: int
    """Of the weights that acted."""
    state: CoreState | None
    """NumPy arrays [N, H], before these inputs."""


Infer = Callable[[Request], Reply]


class Inference:
    """The agent, its weights and the core's states of all groups on one device.

    Args:
        config: the run's configuration.
        spaces: of the suite.
        device: where the agent acts.
        seed: of the sampling of actions.
    """

    def __init__(self, config: Config, spaces: Spaces, device: torch.device, seed: int) -> None:
        dtype = choose_dtype(config.actors.precision, config.agent.torso, device)
        self._agent = Agent(config.agent, spaces).eval().act_in(dtype).to(device)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._states: dict[tuple[int, int], CoreState] = {}
        self._lock = threading.Lock()
        self._version = -1

    def load(self, weights: dict[str, np.ndarray], version: int) -> None:
        """Act with these weights from now on, unless there are newer ones; any thread may call."""
        with self._lock:
            if version > self._version:
                self._agent.load_weights(weights)
                self._version = version

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """Act for all of them in one batch. The state of a group that is new here is zeros."""
        sizes = [len(r.inputs.first) for r in requests]
        with self._lock:
            begin = [
                self._states.get(r.group) or self._agent.initial_state(n)
                for r, n in zip(requests, sizes, strict=True)
            ]
            inputs = AgentInput(*(np.concatenate(a) for a in zip(*(r.inputs for r in requests), strict=True)))
            state = CoreState(*(torch.cat(s) for s in zip(*begin, strict=True)))
            act, version = self._agent.act(inputs, state, self._generator), self._version
            after = zip(act.state.hidden.split(sizes), act.state.cell.split(sizes), strict=True)
            for request, (hidden, cell) in zip(requests, after, strict=True):
                self._states[request.group] = CoreState(hidden, cell)
        actions, logits = (x.cpu().numpy() for x in (act.action, act.logits))
        ends = np.cumsum(sizes)
        return [
            Reply(
                actions[end - n : end], logits[end - n : end], version,
                CoreState(*(s.cpu().numpy() for s in before)) if r.begins else None,
            )
            for r, n, end, before in zip(requests, sizes, ends, begin, strict=True)
        ]  # fmt: skip


@dataclass
class _Waiting:
    request: Request
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    error: Exception | None = None


class Batcher:
    """Gathers the requests of many threads into batches.

    A batch begins as soon as `enough` groups wait, or the first of them has waited for `wait_s`; while one is
    computed the next gathers.

    Args:
        infer: answers a batch of requests, in their order.
        enough: groups for which it is not worth waiting for more.
        wait_s: seconds.
    """

    def __init__(self, infer: Callable[[Sequence[Request]], list[Reply]], enough: int, wait_s: float) -> None:
        self._infer, self._enough, self._wait_s = infer, enough, wait_s
        self._waiting: list[_Waiting] = []
        self._change = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, request: Request) -> Reply:
        """Wait for the reply; raises what the batch raised."""
        mine = _Waiting(request)
        with self._change:
            self._waiting.append(mine)
            self._change.notify()
        mine.done.wait()
        if mine.error is not None:
            raise mine.error
        assert mine.reply is not None
        return mine.reply

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting)
                latest = time.monotonic() + self._wait_s
                while len(self._waiting) < self._enough and (left := latest - time.monotonic()) > 0:
                    self._change.wait(left)
                batch, self._waiting = self._waiting, []
            try:
                replies = self._infer([w.request for w in batch])
            except Exception as e:  # those that asked must hear of it
                for w in batch:
                    w.error = e
            else:
                for w, reply in zip(batch, replies, strict=True):
                    w.reply = reply
            for w in batch:
                w.done.set()
