"""Central inference: one network acts for the environments of many actors, in batches of their requests."""

import operator
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
from impala_mi.types import AgentInput, RecurrentState, Spaces, map_arrays, zip_arrays


class InferenceLost(Exception):
    """The process that acts for this actor is lost; another can play the rollout."""


class Request(NamedTuple):
    """Request of a group of N environments for actions."""

    group: tuple[int, int]
    """Actor and number of the group in it; the worker keeps the group's recurrent state under this key."""
    inputs: AgentInput
    """NumPy arrays [N, ...]."""
    begins: bool
    """Whether an unroll begins, so that the reply must contain the state before it."""


class Reply(NamedTuple):
    """Actions for N environments."""

    action: np.ndarray
    """[N, *action_shape]."""
    logits: np.ndarray
    """[N, P] float32, parameters of the policy."""
    version: int
    """Version of the weights that acted."""
    state: RecurrentState | None
    """Recurrent state before these inputs, NumPy arrays [N, ...], if the request began an unroll."""


Infer = Callable[[Request], Reply]


class Inference:
    """The agent and the recurrent states of all groups on one device.

    Args:
        config: the run's configuration.
        spaces: spaces of the suite.
        device: device of the agent.
        seed: seed of the sampling of actions.
    """

    def __init__(self, config: Config, spaces: Spaces, device: torch.device, seed: int) -> None:
        dtype = choose_dtype(config.actors.precision, config.agent.torso, device)
        self._agent = Agent(config.agent, spaces).eval().act_in(dtype).to(device)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._states: dict[tuple[int, int], RecurrentState] = {}
        self._lock = threading.Lock()
        self._version = -1

    def load(self, weights: dict[str, np.ndarray], version: int) -> None:
        """Act with these weights from now on, unless newer ones are loaded; any thread may call."""
        with self._lock:
            if version > self._version:
                self._agent.load_weights(weights)
                self._version = version

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        """Act for all requests in one batch. A group without a state gets the initial one."""
        sizes = [len(r.inputs.first) for r in requests]
        ends = np.cumsum(sizes)
        rows = [slice(end - n, end) for n, end in zip(sizes, ends, strict=True)]
        with self._lock:
            before = [
                self._states[r.group] if r.group in self._states else self._agent.initial_state(n)
                for r, n in zip(requests, sizes, strict=True)
            ]
            inputs = zip_arrays([r.inputs for r in requests], np.concatenate)
            act = self._agent.act(inputs, zip_arrays(before, torch.cat), self._generator)
            version = self._version
            for request, part in zip(requests, rows, strict=True):
                self._states[request.group] = map_arrays(act.state, operator.itemgetter(part))
        actions, logits = (x.cpu().numpy() for x in (act.action, act.logits))
        return [
            Reply(actions[part], logits[part], version, map_arrays(state, _to_numpy) if r.begins else None)
            for r, part, state in zip(requests, rows, before, strict=True)
        ]


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


@dataclass
class _Waiting:
    """A request, and its reply or error when it is done."""

    request: Request
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    error: Exception | None = None


class Batcher:
    """Batcher of requests from many threads.

    A batch begins as soon as `enough` groups wait, or the first of them has waited for `wait_s`; requests for the
    next batch gather while one is computed.

    Args:
        infer: function that answers a batch of requests, in their order.
        enough: number of waiting groups at which a batch begins at once.
        wait_s: longest wait of a request for others, in seconds.
    """

    def __init__(self, infer: Callable[[Sequence[Request]], list[Reply]], enough: int, wait_s: float) -> None:
        self._infer, self._enough, self._wait_s = infer, enough, wait_s
        self._waiting: list[_Waiting] = []
        self._change = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, request: Request) -> Reply:
        """Wait for the reply; raises what the batch raised."""
        waiting = _Waiting(request)
        with self._change:
            self._waiting.append(waiting)
            self._change.notify()
        waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error
        assert waiting.reply is not None
        return waiting.reply

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting)
                latest = time.monotonic() + self._wait_s
                while len(self._waiting) < self._enough and (remaining := latest - time.monotonic()) > 0:
                    self._change.wait(remaining)
                batch, self._waiting = self._waiting, []
            try:
                replies = self._infer([w.request for w in batch])
            except Exception as e:  # every request of the batch must raise it
                for w in batch:
                    w.error = e
            else:
                for w, reply in zip(batch, replies, strict=True):
                    w.reply = reply
            for w in batch:
                w.done.set()
