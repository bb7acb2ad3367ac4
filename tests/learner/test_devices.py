"""Facts about a GPU that need no GPU: crossings between devices, host reads, dtypes, compilation, checkpoints.

Tensors of the device `meta` have no numbers, so whatever would wait for a GPU shows there, gradients included.
Tensors of a fake CUDA device also take the branches that are for CUDA, but builds of PyTorch for CPUs have no
autograd for them.
"""

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from impala_mi.learner.batching import to_device
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import CORES
from impala_mi.nn.heads import HEADS
from tests.learner.batches import SPACES, a_batch, config_of

CPU, META, CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda:0")
TORSOS = ("shallow", "deep")
VARIANTS = [
    *(("shallow", "lstm", head) for head in HEADS),
    *(("shallow", core, "mi_context") for core in CORES if core != "lstm"),
    *((torso, "lstm", "mi_context") for torso in TORSOS if torso != "shallow"),
]
"""Torso, core and head: each of them at least once."""

INSTRUCTIONS = {("nn.instruction", "host -> device, int64"), ("nn.instruction", "host -> device, bool")}
FINAL_OBSERVATIONS = {("learner.update", "host -> device, int64")}
CROSSINGS = {
    "lstm": {("nn.core", "host -> device, bool")},
    "mlstm": {("nn.mlstm", "host -> device, bool"), ("nn.mlstm", "host -> device, int64")},
    "highway": set(),
    "feedforward": set(),
}
"""Modules in which tensors cross devices in an update, by core, and what crosses; all of it without waiting."""


def _module_of_caller() -> str:
    """Module of the package that called PyTorch; `learner.update` for a backward pass."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("impala_mi."):
            return name.removeprefix("impala_mi.")
        frame = frame.f_back
    return "?"


class Recorder(TorchDispatchMode):
    """Records where tensors cross devices or change between floating-point dtypes, and what the host must wait for.

    Args:
        fake: mode in which operators on fake CUDA tensors run; without it the device's tensors are of `meta`.
    """

    def __init__(self, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self._fake = fake
        self.crossings: set[tuple[str, str]] = set()
        self.waits: set[tuple[str, str]] = set()
        self.dtypes: set[tuple[str, str]] = set()
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        devices = {x for x in leaves if isinstance(x, torch.device)}
        self._note(func, tensors, kwargs)
        if self._fake is not None and (CUDA in devices or any(isinstance(t, FakeTensor) for t in tensors)):
            with self._fake:
                if func is torch.ops.aten._thnn_fused_lstm_cell.default:  # has no fake
                    return torch.empty_like(args[2]), torch.empty_like(args[2]), torch.empty_like(args[0])
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(self, func: Any, tensors: list[torch.Tensor], kwargs: dict[str, Any]) -> None:
        kinds = {
            "host" if t.device.type == "cpu" else "device" for t in tensors if t.dim() or t.device.type != "cpu"
        }
        where, name = _module_of_caller(), str(func)
        self.operators.add(name)
        if func is torch.ops.aten._to_copy.default:
            [tensor] = tensors
            source = tensor.device.type
            target = torch.device(kwargs.get("device") or tensor.device).type
            dtype = kwargs.get("dtype") or tensor.dtype
            if source != target:
                end = "host -> device" if source == "cpu" else "device -> host"
                waits = not kwargs.get("non_blocking") or source != "cpu"
                (self.waits if waits else self.crossings).add((where, f"{end}, {_name(tensor.dtype)}"))
            if dtype != tensor.dtype and dtype.is_floating_point and tensor.dtype.is_floating_point:
                self.dtypes.add((where, f"{_name(tensor.dtype)} -> {_name(dtype)}"))
        elif kinds == {"host", "device"}:
            self.waits.add((where, f"{name} of host and device tensors"))
        elif kinds == {"device"} and _depends_on_data(func, tensors):
            self.waits.add((where, name))


def _depends_on_data(func: Any, tensors: list[torch.Tensor]) -> bool:
    """Whether a shape or a number of the host depends on the numbers of a tensor."""
    name = str(func)
    if name.startswith(("aten.index.", "aten.index_put", "aten._index_put")):
        return any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
    return bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def overrides(torso: str, core: str, head: str) -> tuple[str, ...]:
    return f"agent.torso={torso}", f"agent.core={core}", f"agent.head={head}", "learner.max_grad_norm=1.0"


@pytest.fixture
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none for the device `meta`."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)


@pytest.mark.slow
@pytest.mark.usefixtures("without_autocast")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("torso", "core", "head"), VARIANTS)
def test_an_update_crosses_devices_only_where_it_is_listed(torso, core, head, padded):
    config = config_of(*overrides(torso, core, head))
    learner = Learner(config, SPACES, 4, META)
    learner.agent.core.fixed_work = padded
    batch = to_device(a_batch(config, 0), META, padded)
    with Recorder() as recorder:
        pending = learner.begin(batch)
    assert recorder.waits == set()
    assert recorder.crossings == (set() if padded else INSTRUCTIONS | FINAL_OBSERVATIONS | CROSSINGS[core])
    assert all(t.is_meta for t in tree_leaves(pending) if isinstance(t, torch.Tensor))


@pytest.mark.slow
@pytest.mark.usefixtures("without_autocast")
def test_crossings_of_instructions_and_final_observations_vanish_with_them():
    config = config_of()
    spaces = SPACES.__class__(**{**vars(SPACES), "instructions": False})
    learner = Learner(config, spaces, 4, META)
    batch = to_device(a_batch(config, 0, (), spaces), META)
    with Recorder() as recorder:
        learner.begin(batch)
    assert (recorder.crossings, recorder.waits) == (CROSSINGS["lstm"], set())


@pytest.mark.slow
def test_the_recorder_sees_what_makes_a_host_wait():
    on_device, on_host = torch.ones(3, device=META), torch.tensor([0, 1])
    suspects = {
        "item": lambda: on_device.sum().item(),
        "branch": lambda: bool(on_device.sum() > 0),
        "nonzero": lambda: on_device.nonzero(),
        "mask": lambda: on_device[on_device > 0],
        "masked_select": lambda: on_device.masked_select(on_device > 0),
        "index in host memory": lambda: on_device[on_host],
        "blocking copy": lambda: on_host.to(META),
        "read": lambda: on_device.cpu(),
        "write under a mask": lambda: on_device.index_put_((on_device > 0,), torch.ones(3, device=META)),
    }
    for name, suspect in suspects.items():
        with Recorder() as recorder, contextlib.suppress(NotImplementedError, RuntimeError):
            suspect()
        assert recorder.waits, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torso", "core"), [*((torso, "lstm") for torso in (*TORSOS, "mlp")), *(("mlp", core) for core in CORES)][:-1]
)
def test_only_the_torso_computes_in_bfloat16(torso, core):
    config = config_of(*overrides(torso, core, "mi_context"), "learner.precision=bfloat16")
    learner = Learner(config, SPACES, 4, CPU)
    batch = to_device(a_batch(config, 0), CPU)
    with Recorder() as recorder:
        learner.update(batch)
    forward = {(where, change) for where, change in recorder.dtypes if where != "learner.update"}
    assert {where for where, _ in forward} <= {"nn.torsos", "nn.agent"}, forward
    assert ("nn.torsos", "float32 -> bfloat16") in forward
    assert all(t.dtype == torch.float32 for t in learner.agent.parameters())


class Indexing(TorchFunctionMode):
    """Subscripts by way of operators: PyTorch's builds for CPUs refuse to subscript a tensor of a CUDA device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__getitem__ or args[0].device.type != "cuda":
            return func(*args, **(kwargs or {}))
        tensor, key = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        if Ellipsis in [k for k in key if not isinstance(k, torch.Tensor)]:
            [at] = [i for i, k in enumerate(key) if k is Ellipsis]
            missing = tensor.dim() + 1 - sum(k is not None for k in key)
            key = (*key[:at], *[slice(None)] * missing, *key[at + 1 :])
        dim, indices = 0, []
        for k in key:
            if isinstance(k, int):
                tensor = tensor.select(dim, k)
                continue
            if k is None:
                tensor = tensor.unsqueeze(dim)
            if isinstance(k, slice):
                tensor = torch.ops.aten.slice(tensor, dim, k.start, k.stop, k.step or 1)
            indices.append(k if isinstance(k, torch.Tensor) else None)
            dim += 1
        return tensor if all(k is None for k in indices) else torch.ops.aten.index(tensor, indices)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Mode in which tensors can be moved to a CUDA device that is not there."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    with Indexing(), Recorder(FakeTensorMode(allow_non_fake_inputs=True)) as recorder:
        yield recorder


@pytest.mark.slow
@pytest.mark.parametrize(("torso", "core", "head"), VARIANTS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_forward_pass_on_cuda(fake_cuda, torso, core, head, padded):
    config = config_of(*overrides(torso, core, head), "learner.precision=bfloat16")
    learner = Learner(config, SPACES, 4, CUDA)
    learner.agent.core.fixed_work = padded
    batch = to_device(a_batch(config, 0), CUDA, padded)
    fake_cuda.crossings.clear(), fake_cuda.waits.clear(), fake_cuda.dtypes.clear()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        out = learner.agent(batch.inputs, batch.state)
    assert fake_cuda.waits == set()
    expected = set() if padded else INSTRUCTIONS | {c for c in CROSSINGS[core] if c[1].endswith("bool")}
    assert fake_cuda.crossings == expected
    assert {where for where, _ in fake_cuda.dtypes} <= {"nn.torsos", "nn.agent"}
    assert ("nn.torsos", "float32 -> bfloat16") in fake_cuda.dtypes
    assert out.logits.device == out.value.device == out.core.device == CUDA
    assert {out.logits.dtype, out.value.dtype, out.core.dtype} == {torch.float32}
    if core in ("lstm", "mlstm") and (padded or core == "mlstm"):
        assert "aten._thnn_fused_lstm_cell.default" in fake_cuda.operators


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_checkpoints_move_between_devices(core, fake_cuda):
    """What comes from a GPU lies in host memory; what is loaded on another device stays there."""
    config = config_of(f"agent.core={core}", "agent.torso=shallow")
    on_cpu, on_meta, on_cuda = (Learner(config, SPACES, 4, device) for device in (CPU, META, CUDA))
    on_cuda.optimizer.steps = on_cpu.optimizer.steps  # a checkpoint reads this number; fake tensors have none
    saved, expected = on_cuda.state(), on_cpu.state()
    for part in ("agent", "optimizer"):
        for a, b in zip(tree_leaves(saved[part]), tree_leaves(expected[part]), strict=True):
            if isinstance(b, torch.Tensor):
                assert (a.device, a.shape, a.dtype) == (CPU, b.shape, b.dtype)
    on_meta.load_state(expected)
    loaded = itertools.chain(on_meta.agent.state_dict().values(), on_meta.optimizer.slots.values())
    assert all(t.is_meta for t in loaded)


COMPILE = """
import torch
from impala_mi.nn.agent import Agent
from impala_mi.nn.heads import HEADS
from tests.learner.batches import SPACES, config_of

frame = torch.randint(0, 255, (3, 2, *SPACES.frame_shape), dtype=torch.uint8)
core, level = torch.randn(6, 16), torch.arange(6) % SPACES.num_levels
torsos = [f"agent.torso={torso}" for torso in ("shallow", "deep", "mlp")]
for changed in [*torsos, *(f"agent.head={head}" for head in HEADS)]:
    agent = Agent(config_of(changed).agent, SPACES)
    part, inputs = (agent.torso, (frame,)) if "torso" in changed else (agent.head, (core, level))
    expected = part(*inputs)
    got = torch.compile(part, fullgraph=True, backend="eager")(*inputs)
    torch.testing.assert_close(got, expected, msg=changed)
    exported = torch.export.export(part, inputs).module()
    torch.testing.assert_close(exported(*inputs), expected, msg=changed)
    torch._dynamo.reset()
print("done")
"""


@pytest.mark.slow
def test_torso_and_head_compile_and_export_without_graph_breaks():
    """In a process of its own: the checks of shapes in tests are functions that the compiler cannot see through."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", COMPILE], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr[-3000:]
