"""A hundred kinds of damage to a run's folder: the checkpoint before is taken, lines are skipped and counted."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from impala_mi.analysis.acting import read_agent
from impala_mi.analysis.film import load_map
from impala_mi.analysis.report import write_report
from impala_mi.cli.resume import _checked
from impala_mi.cli.watch import view
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.update import Learner
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs import checkpoint_checks
from impala_mi.runs.folder import RunFolder, create, open_run
from impala_mi.runs.history import read, read_run
from impala_mi.runs.sinks import JsonLines, RunInfo
from tests.commands import impala
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

OLD, NEW = f"{500:015d}", f"{900:015d}"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run with two checkpoints, logs, an evaluation and a t-SNE."""
    config = tiny_config(f"run.root={tmp_path_factory.mktemp('whole')}", "train.env_frames=1000")
    folder = create(config, "x")
    learner = Learner(config, make_suite(config.env).spaces, 1, torch.device("cpu"))
    scores = {"returns": [[1.0]] * 5, "lengths": [[3]] * 5, "episodes": [1] * 5}
    for frames in (500, 900):
        learner.counters.env_frames = frames
        run = {"scores": scores, "counts": [{"env_frames": 9}] * 5, "time_s": 1.0, "discarded": 0, "starts": 0}
        meta = {"env_frames": frames, "updates": 1, "score": 1.0}
        checkpoints.save(folder.checkpoints, learner.state(), run, meta, 2)
        folder.event("checkpoint", env_frames=frames)
    record = {"time_s": 1.0, "fps": 5.0, "level/catch/episodes": 2, "level/catch/return_mean": 0.5}
    lines = [json.dumps({"env_frames": 100 * i, **record}) for i in range(1, 10)]
    (folder.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder.path / "eval").mkdir()
    rows = [{"level": "catch", "score": 50.0}]
    (folder.path / "eval" / f"{NEW}.json").write_text(json.dumps({"checkpoint": NEW, "levels": rows}) + "\n")
    (folder.path / "tsne").mkdir()
    rng = np.random.default_rng(0)
    np.savez(
        folder.path / "tsne" / f"{NEW}.npz", points=rng.random((30, 2), np.float32), kind=np.array("core"),
        level=rng.integers(0, 5, 30), core=rng.random((30, 32), np.float32),
    )  # fmt: skip
    return folder.path


@pytest.fixture
def run(whole, tmp_path) -> Path:
    path = Path(shutil.copytree(whole, tmp_path / "x"))
    config = path / "config.yaml"
    config.write_text(config.read_text().replace(str(whole.parent), str(tmp_path)))
    return path


# -- damage to the newest checkpoint ----------------------------------------------------------


def bytes_of(name: str, change: Callable[[bytearray], object]) -> Damage:
    def damage(run: Path) -> None:
        file = run / "checkpoints" / NEW / name
        content = bytearray(file.read_bytes())
        result = change(content)
        file.write_bytes(result if isinstance(result, bytes) else bytes(content))

    return damage


def flip(seed: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        rng = random.Random(seed)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)

    return change


def state(change: Callable[[dict[str, Any]], object], without_digests: bool = True) -> Damage:
    """Change of the loaded state; without digests, as in a checkpoint of an earlier version."""

    def damage(run: Path) -> None:
        path = run / "checkpoints" / NEW
        content = torch.load(path / "state.pt", weights_only=True)
        result = change(content)
        torch.save(content if result is None else result, path / "state.pt")
        if without_digests:
            meta(lambda m: [m.pop("sha256"), m.pop("schema")])(run)

    return damage


def meta(change: Callable[[dict[str, Any]], object], digests: bool = True) -> Damage:
    def damage(run: Path) -> None:
        file = run / "checkpoints" / NEW / "meta.json"
        content = json.loads(file.read_text())
        change(content)
        if not digests:
            content.pop("sha256", None)
        file.write_text(json.dumps(content))

    return damage


def weight(change: Callable[[torch.Tensor], Any]) -> Damage:
    def apply(content: dict[str, Any]) -> None:
        agent = content["learner"]["agent"]
        name = next(name for name in agent if agent[name].ndim == 2)
        agent[name] = change(agent[name])

    return state(apply)


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return change


def slot(change: Callable[[torch.Tensor], Any]) -> Damage:
    def apply(content: dict[str, Any]) -> None:
        parts = next(iter(content["learner"]["optimizer"]["slots"].values()))
        parts[1] = change(parts[1])

    return state(apply)


def put(*path: str, value: Any) -> Damage:
    def apply(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return state(apply)


def drop(*path: str) -> Damage:
    def apply(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return state(apply)


def replace_with(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(run: Path) -> None:
        file = run / "checkpoints" / NEW / name
        file.unlink()
        make(file)

    return damage


def loop(file: Path) -> None:
    file.symlink_to(file)


def foreign(name: str) -> Damage:
    """The file of the older checkpoint in the place of the newer one's."""
    return lambda run: shutil.copy(run / "checkpoints" / OLD / name, run / "checkpoints" / NEW / name) and None


EVERYONE = {
    **{f"bit {seed} of state.pt": bytes_of("state.pt", flip(seed)) for seed in range(12)},
    **{f"bit {seed} of meta.json": bytes_of("meta.json", flip(seed)) for seed in range(12)},
    "state.pt cut": bytes_of("state.pt", lambda b: bytes(b[: len(b) // 2])),
    "state.pt empty": bytes_of("state.pt", lambda b: b""),
    "state.pt doubled": bytes_of("state.pt", lambda b: bytes(b + b)),
    "state.pt zeros": bytes_of("state.pt", lambda b: bytes(len(b))),
    "state.pt text": bytes_of("state.pt", lambda b: b"hello\n"),
    "state.pt missing": lambda run: (run / "checkpoints" / NEW / "state.pt").unlink(),
    "state.pt a folder": replace_with("state.pt", Path.mkdir),
    "state.pt a loop": replace_with("state.pt", loop),
    "state.pt of another checkpoint": foreign("state.pt"),
    "meta.json of another checkpoint": foreign("meta.json"),
    "meta.json cut": bytes_of("meta.json", lambda b: bytes(b[: len(b) // 2])),
    "meta.json empty": bytes_of("meta.json", lambda b: b""),
    "meta.json []": bytes_of("meta.json", lambda b: b"[]"),
    "meta.json null": bytes_of("meta.json", lambda b: b"null"),
    "meta.json deep": bytes_of("meta.json", lambda b: b"[" * 100_000),
    "meta.json large": bytes_of("meta.json", lambda b: b" " * 2**21 + bytes(b)),
    "meta.json digits": bytes_of("meta.json", lambda b: b'{"format": 2, "env_frames": ' + b"9" * 5000 + b"}"),
    "meta.json binary": bytes_of("meta.json", lambda b: bytes(range(256))),
    "meta.json missing": lambda run: (run / "checkpoints" / NEW / "meta.json").unlink(),
    "meta.json a folder": replace_with("meta.json", Path.mkdir),
    "meta.json a loop": replace_with("meta.json", loop),
    "meta.json a FIFO's name": replace_with("meta.json", lambda file: file.symlink_to("/dev/null")),
    "no env_frames": meta(lambda m: m.pop("env_frames"), digests=False),
    "env_frames NaN": meta(lambda m: m.update(env_frames=float("nan")), digests=False),
    "env_frames negative": meta(lambda m: m.update(env_frames=-1), digests=False),
    "env_frames true": meta(lambda m: m.update(env_frames=True), digests=False),
    "env_frames changed": meta(lambda m: m.update(env_frames=901)),
    "updates NaN": meta(lambda m: m.update(updates=float("nan")), digests=False),
    "score NaN": meta(lambda m: m.update(score=float("nan")), digests=False),
    "score a text": meta(lambda m: m.update(score="high"), digests=False),
    "format unknown": meta(lambda m: m.update(format=[]), digests=False),
    "digests a list": meta(lambda m: m.update(sha256=[1])),
    "digest another": meta(lambda m: m["sha256"].update({"state.pt": "0" * 64})),
    "weights NaN": weight(filled(float("nan"))),
    "weights infinite": weight(filled(-float("inf"))),
    "weights bool": weight(lambda t: t > 0),
    "weights complex": weight(lambda t: t.to(torch.complex64)),
    "weights whole": weight(lambda t: t.to(torch.int64)),
    "weights double": weight(lambda t: t.double()),
    "weights transposed": weight(lambda t: torch.zeros(t.shape[0] + 1, t.shape[1])),
    "weights of no size": weight(lambda t: torch.zeros(0)),
    "weights sparse": weight(lambda t: t.to_sparse()),
    "weights None": weight(lambda t: None),
    "weights a text": weight(lambda t: "weights"),
    "weights a list": weight(lambda t: [1.0]),
    "weights in excess": put("learner", "agent", "other", value=torch.zeros(1)),
    "no weights": put("learner", "agent", value={}),
    "weights null": put("learner", "agent", value=None),
    "one weight missing": state(lambda s: s["learner"]["agent"].popitem() and None),
    "learner missing": drop("learner"),
    "learner a list": put("learner", value=[1]),
    "run missing": drop("run"),
    "run null": put("run", value=None),
    "state a tensor": state(lambda s: torch.zeros(3)),
    "state a list": state(lambda s: [s]),
}
"""Damage that every command notices."""

RESUME_ONLY = {
    "no updates": meta(lambda m: m.pop("updates"), digests=False),
    "no optimiser": drop("learner", "optimizer"),
    "optimiser null": put("learner", "optimizer", value=None),
    "no slots": drop("learner", "optimizer", "slots"),
    "steps NaN": put("learner", "optimizer", "steps", value=float("nan")),
    "slot NaN": slot(filled(float("nan"))),
    "slot of another shape": slot(lambda t: torch.zeros(7)),
    "slot bool": slot(lambda t: t > 0),
    "slot a text": slot(lambda t: "slot"),
    "slots too few": state(lambda s: s["learner"]["optimizer"]["slots"]["mean"].pop() is None or None),
    "no counters": drop("learner", "counters"),
    "counter missing": drop("learner", "counters", "updates"),
    "counter negative": put("learner", "counters", "version", value=-3),
    "counter NaN": put("learner", "counters", "agent_steps", value=float("nan")),
    "counter unknown": put("learner", "counters", "laps", value=3),
    "no random state": drop("learner", "torch_rng"),
    "random state short": put("learner", "torch_rng", value=torch.zeros(3, dtype=torch.uint8)),
    "random state floats": put("learner", "torch_rng", value=torch.zeros(5056)),
    "no scores": drop("run", "scores"),
    "scores of fewer levels": put("run", "scores", "returns", value=[[1.0]]),
    "returns NaN": put("run", "scores", "returns", value=[[float("nan")]] * 5),
    "episodes of fewer levels": put("run", "scores", "episodes", value=[1]),
    "counts null": put("run", "counts", value=None),
    "counts of fewer levels": put("run", "counts", value=[{}]),
    "no time": drop("run", "time_s"),
    "time infinite": put("run", "time_s", value=float("inf")),
    "starts a text": put("run", "starts", value="first"),
    "member a list": put("run", "member", value=[]),
}
"""Damage to what only a run that continues needs."""


def resumed(run: Path) -> int:
    folder = open_run(str(run))
    return int(_checked(folder, folder.config, "last").meta["env_frames"])


@pytest.mark.parametrize("name", EVERYONE)
def test_the_checkpoint_before_is_taken(run, name):
    EVERYONE[name](run)
    with pytest.warns(UserWarning, match=f"{NEW}'.*; going on with {OLD}"):
        agent = read_agent(str(run), "last")
    assert agent.checkpoint == OLD
    with pytest.warns(UserWarning, match=f"{NEW}'.*; going on with {OLD}"):
        assert resumed(run) == 500
    with pytest.raises(UserError, match=f"the checkpoint .*{NEW}"):
        read_agent(str(run), NEW)
    with pytest.warns(UserWarning, match=f"{NEW}'.*; going on with {OLD}"):
        assert read_agent(str(run), "best").checkpoint == OLD
    assert read(str(run)).skipped == 0


@pytest.mark.parametrize("name", RESUME_ONLY)
def test_what_only_a_run_that_continues_needs(run, name):
    RESUME_ONLY[name](run)
    with pytest.warns(UserWarning, match=f"{NEW}' is damaged .*; going on with {OLD}"):
        assert resumed(run) == 500
    assert read_agent(str(run), "last").checkpoint == NEW


# -- damage to logs ---------------------------------------------------------------------------


def append(name: str, line: bytes) -> Damage:
    def damage(run: Path) -> None:
        with open(run / name, "ab") as file:
            file.write(line + b"\n")

    return damage


LINES = {
    "binary": bytes(range(128, 256)), "null": b"null", "list": b"[1,2]", "deep": b"[" * 100_000,
    "empty mapping": b"{}", "text": b'"env_frames"', "NaN": b"NaN", "cut": b'{"env_frames": 5',
    "digits": b'{"env_frames": ' + b"9" * 400 + b', "event": 3}',
    "many digits": b'{"env_frames": ' + b"9" * 5000 + b"}",
    "frames NaN": b'{"env_frames": NaN, "event": {}}', "frames negative": b'{"env_frames": -5, "event": null}',
    "frames a text": b'{"env_frames": "5", "event": [1]}', "frames true": b'{"env_frames": true}',
    "large": b'{"env_frames": 5, "x": "' + b"x" * 5 * 2**20 + b'"}',
    "not UTF-8": b'{"env_frames": 5, "x": "\xff\xfe"}',
    "over 64 bits": b'{"env_frames": ' + b"9" * 20 + b', "event": null}',
    "another number over 64 bits": b'{"env_frames": 5, "x": -' + b"9" * 200 + b', "event": null}',
}  # fmt: skip


@pytest.mark.parametrize("log", ["metrics.jsonl", "events.jsonl"])
@pytest.mark.parametrize("name", LINES)
def test_lines_are_skipped_and_counted(run, name, log, tmp_path):
    before = read_run(run)
    append(log, LINES[name])(run)
    history, after = read(str(run)), read_run(run)
    assert history.skipped >= 1
    assert after.skipped >= 1
    assert len(history.records) == 9
    assert len(after.events) == len(before.events)
    assert "damaged lines of the logs skipped" in rendered(view(history, 0.0))
    JsonLines(RunInfo(run, RunFolder(run).config, ["catch"], 500)).close()
    assert [json.loads(line)["env_frames"] for line in (run / "metrics.jsonl").open()] == [100, 200, 300, 400, 500]


@pytest.mark.parametrize("last", [b'{"env_frames": 450}', b'{"env_frames": 450, "x": "\xed\xa0\x80"}'])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_resumed_run_keeps_every_line_that_can_be_read(run, last, end):
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(last + end)
    sink = JsonLines(RunInfo(run, RunFolder(run).config, ["catch"], 500))
    sink.write({"env_frames": 600})
    sink.close()
    assert read_run(run).metrics["env_frames"].tolist() == [100, 200, 300, 400, 500, 450, 600]


PIPES = ("meta.json", "state.pt", "metrics.jsonl", "events.jsonl", "zeros")


@pytest.mark.parametrize("name", PIPES)
def test_pipes_and_devices_are_never_read(run, name):
    """A FIFO that nobody writes to would be waited for, and /dev/zero has no end; the alarm ends such a wait."""
    file = run / ("" if name.endswith("l") else f"checkpoints/{NEW}") / ("state.pt" if name == "zeros" else name)
    file.unlink()
    if name == "zeros":
        file.symlink_to("/dev/zero")
    else:
        os.mkfifo(file)

    def hangs(*_: object) -> None:
        pytest.fail(f"{name} is waited for")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(20)
    try:
        if name.endswith("l"):
            assert read(str(run)).skipped == read_run(run).skipped == 0
        else:
            with pytest.warns(UserWarning, match=f"{file.name} is missing or no file.*; going on with {OLD}"):
                assert resumed(run) == 500
            meta(lambda m: m.pop("sha256"))(run) if name != "meta.json" else None
            with pytest.warns(UserWarning, match=f"{file.name} is missing or no file.*; going on with {OLD}"):
                assert read_agent(str(run), "last").checkpoint == OLD
        if name == "metrics.jsonl":
            JsonLines(RunInfo(run, RunFolder(run).config, ["catch"], 500)).close()
            assert file.read_bytes() == b""
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fifo(file: Path) -> None:
    os.mkfifo(file)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "fifo": fifo, "zeros": lambda file: file.symlink_to("/dev/zero"), "folder": Path.mkdir, "loop": loop,
    "nowhere": lambda file: file.symlink_to("/nowhere/file"), "unreadable": lambda file: file.touch(0),
}  # fmt: skip
"""What lies in the place of a file, and is none that can be read."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """End of a wait for a FIFO or a device, which has none of its own."""

    def hangs(*_: object) -> None:
        pytest.fail("it is waited for")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.usefixtures("alarm")
def test_a_configuration_that_is_no_file_is_named(run, kind):
    (run / "config.yaml").unlink()
    NO_FILES[kind](run / "config.yaml")
    for command in ("eval", "tsne", "video", "units", "resume"):
        done = impala(command, str(run), cwd=run.parent)
        if kind != "unreadable" or not os.access(run / "config.yaml", os.R_OK):  # root may read all
            assert done.returncode == 2, done
            assert re.match(r"error: .*config.yaml[^\n]*\n$", done.stderr), done.stderr
        else:
            assert (done.returncode, len(done.stderr.splitlines())) in ((2, 1), (0, 0)), done
    for command in (("report",), ("watch", "--once")):
        done = impala(*command, str(run), cwd=run.parent)
        assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.parametrize("name", ["tsne/{}.npz", "tsne/{}.png", "videos/{}-catch-1.mp4", "eval/{}.json", ".lock"])
@pytest.mark.parametrize("kind", [kind for kind in NO_FILES if kind != "unreadable"])
@pytest.mark.usefixtures("alarm")
def test_other_files_that_are_none_are_never_waited_for(run, name, kind):
    file = run / name.format(NEW)
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    NO_FILES[kind](file)
    if name == ".lock":
        locked = pytest.raises(UserError, match="cannot be written to: ")
        with locked, RunFolder(run).locked():
            pass
    elif name.endswith("npz"):
        with (
            contextlib.nullcontext() if kind in ("nowhere", "loop") else pytest.raises(UserError, match="recreate")
        ):
            assert load_map(file) is None
    else:
        files = write_report([read(str(run))], "x", run.parent)
        assert files[0].exists()
        assert ("pictures and videos are left out" in files[0].read_text()) == (file.suffix != ".json")


def test_counts_of_games_may_be_any_finite_numbers(run):
    put("run", "counts", value=[{"env_frames": 9, "height": -2.5, "big": 2**70}] * 5)(run)
    assert resumed(run) == 900


def test_an_intact_checkpoint_of_a_newer_version_is_refused(run):
    path = run / "checkpoints" / NEW
    content = json.loads((path / "meta.json").read_text())
    schema = checkpoint_checks.SCHEMA
    content = {k: v for k, v in content.items() if k != "sha256"} | {"schema": schema + 1}
    digests = {"meta.json": checkpoint_checks._digest_of(content)}
    (path / "meta.json").write_text(json.dumps(content | {"sha256": digests}))
    for load in (resumed, lambda run: read_agent(str(run), "best")):
        with pytest.raises(UserError, match=f"{NEW}' is of a newer version: it has schema {schema + 1}"):
            load(run)


def rendered(view: Any) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


REST: dict[str, Damage] = {
    "levels null": lambda run: (run / "eval" / f"{NEW}.json").write_text('{"levels": null}') and None,
    "levels of numbers": lambda run: (run / "eval" / f"{NEW}.json").write_text('{"levels": [1]}') and None,
    "score NaN": lambda run: (
        (run / "eval" / f"{NEW}.json").write_text('{"levels": [{"level": "a", "score": NaN}]}') and None
    ),
    "evaluation a list": lambda run: (run / "eval" / f"{NEW}.json").write_text("[]") and None,
    "evaluation a folder": lambda run: (run / "eval" / "7.json").mkdir(),
    "evaluation a loop": lambda run: loop(run / "eval" / "7.json"),
}
CONFIGS = {
    "bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
    "deep": "[" * 100_000,
    "list": "[1]",
    "binary": "\0",
    "odd": "train: {log_every_s: [1], env_frames: many, max_time_s: x}\nseed: {a: 1}\n",
}


@pytest.mark.parametrize("name", [*REST, *CONFIGS, "a picture that is a loop"])
def test_reports_are_written(run, name, tmp_path):
    if name in CONFIGS:
        (run / "config.yaml").write_text(CONFIGS[name])
    elif name in REST:
        REST[name](run)
    else:
        loop(run / "tsne" / f"{NEW}.png")
    history = read(str(run))
    assert history.skipped == (name in REST)
    rendered(view(history, 0.0))
    files = write_report([history], "x", tmp_path)
    text = files[1].read_text()
    assert ("1 damaged lines of its logs" in text) == (name in REST)
    if name in CONFIGS:
        with pytest.raises(UserError):
            open_run(str(run)).config  # noqa: B018


@pytest.mark.parametrize(
    "content", ["null", "[]", "{}", '{"checkpoint": 3}', '{"checkpoint": "../x", "score": 1}', "x"]
)
def test_a_best_that_is_damaged_is_none(run, content):
    (run / "checkpoints" / "best.json").write_text(content)
    with pytest.raises(UserError, match="no best checkpoint"):
        read_agent(str(run), "best")
    assert read_agent(str(run), "last").checkpoint == NEW


def arrays(run: Path) -> Iterator[dict[str, np.ndarray]]:
    file = run / "tsne" / f"{NEW}.npz"
    for name in ("points", "core", "level", "kind"):
        for change in (
            lambda a: a[:0] if a.ndim else np.array(""), lambda a: np.full(a.shape, np.nan),
            lambda a: a[:-3] if a.ndim else np.array("value"), lambda a: np.full(a.shape, "x"),
            lambda a: a.ravel()[:7], lambda a: None,
        ):  # fmt: skip
            with np.load(file) as kept:
                content = {key: kept[key] for key in kept.files}
            changed = change(content[name])
            yield {k: v for k, v in (content | {name: changed}).items() if v is not None}


def test_maps_that_are_damaged_are_refused_in_one_line(run):
    file = run / "tsne" / f"{NEW}.npz"
    assert load_map(file) is not None
    for content in list(arrays(run)):
        np.savez(file, **content)
        with pytest.raises(UserError, match="recreate it with impala-mi tsne"):
            load_map(file)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="recreate it"):
        load_map(file)


def test_an_undamaged_run_gives_no_warning(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_agent(str(run), "last").checkpoint == read_agent(str(run), "best").checkpoint == NEW
        assert resumed(run) == 900
    assert read(str(run)).skipped == read_run(run).skipped == 0


def test_checkpoints_without_digests_still_load(run):
    state(lambda s: None)(run)
    meta(lambda m: m.pop("score"))(run)
    assert resumed(run) == 900


def test_there_are_a_hundred_kinds():
    assert len(EVERYONE) + len(RESUME_ONLY) + 2 * len(LINES) + len(REST) + len(CONFIGS) >= 100
