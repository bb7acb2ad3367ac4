"""Destinations of records: files of the run's folder, services without a network, sinks of the user."""

import io
import json
import os
import re
import struct
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from impala_mi.config import Config, LoggingConfig, build, load, parse_yaml, to_yaml
from impala_mi.errors import UserError
from impala_mi.host import files
from impala_mi.runs import sinks
from impala_mi.runs.folder import JOURNAL
from impala_mi.runs.sinks import BackgroundSink, RunInfo, Sink, Sinks, check_sinks, local_sinks, make_sinks
from impala_mi.types import RolloutPreview

SECRET = "0123456789abcdef0123456789abcdef01234567"
FRAMES = np.zeros((6, 5, 7, 3), np.uint8)
FRAMES[4] = 255  # the first of the second row


def info_of(folder, *overrides, **more):
    folder.mkdir(parents=True, exist_ok=True)
    return RunInfo(folder, build("x", {"seed": 3}, overrides), **more)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def board_of(folder):
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def local(folder, **more):
    return Sinks(local_sinks(RunInfo(folder, Config(), **more)))


# -- files of the folder --


def test_jsonl_and_tensorboard(tmp_path):
    sink = local(tmp_path)
    sink.write({"env_frames": 10, "fps": 3.0, "level/a/return_mean": float("nan")})
    sink.write({"env_frames": 20, "fps": 4.0, "loss/total": 1.5})
    sink.event("fault", {"level": "a"})
    sink.close()
    assert records(tmp_path) == [
        {"env_frames": 10, "fps": 3.0},
        {"env_frames": 20, "fps": 4.0, "loss/total": 1.5},
    ]
    board = board_of(tmp_path)
    assert [(e.step, e.value) for e in board.Scalars("run/fps")] == [(10, 3.0), (20, 4.0)]
    assert board.Scalars("loss/total")[0].value == pytest.approx(1.5)
    [event] = board.Tensors("events/fault/text_summary")
    assert (event.step, event.tensor_proto.string_val) == (20, [b'{"level": "a"}'])


def test_a_resumed_run_drops_what_was_lost_with_the_weights(tmp_path):
    sink = local(tmp_path)
    for frames in (10, 20, 30):
        sink.write({"env_frames": frames})
    sink.close()
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"env_frames": 4')  # a process that died while writing
    sink = local(tmp_path, resumed_at=20)
    sink.write({"env_frames": 25})
    sink.close()
    assert [record["env_frames"] for record in records(tmp_path)] == [10, 20, 25]


def test_a_clock_that_went_back_over_a_resume_leaves_tensorboard_in_order(monkeypatch, tmp_path):
    clock = [2_000_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    for resumed_at, steps in ((None, (10, 20, 30)), (20, (25, 35)), (35, (45,))):
        sink = local(tmp_path, resumed_at=resumed_at)
        for frames in steps:
            sink.write({"env_frames": frames, "fps": 1.0})
        sink.close()
        clock[0] -= 3600
    assert [record["env_frames"] for record in records(tmp_path)] == [10, 20, 25, 35, 45]
    assert [e.step for e in board_of(tmp_path).Scalars("run/fps")] == [10, 20, 25, 35, 45]


def test_a_picture_and_histograms_of_a_preview(tmp_path):
    sink = local(tmp_path)
    sink.write({"env_frames": 10})
    vectors = {"context": np.ones((9, 4), np.float32), "policy": np.full((2, 2), np.nan)}
    sink.preview("catch", RolloutPreview(0, FRAMES, vectors))
    sink.preview("vectors", RolloutPreview(1, None, {}))
    sink.close()
    board = board_of(tmp_path)
    assert board.Tags()["images"] == ["samples/catch"]
    [picture] = board.Images("samples/catch")
    assert (picture.step, picture.width, picture.height) == (10, 28, 10)
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    assert pixels[5:, :7].min() == 255
    assert pixels[:5].max() == 0
    [histogram] = board.Histograms("agent/context/catch")
    assert histogram.histogram_value.num == 36


@pytest.mark.parametrize(
    ("levels", "charts"),
    [(("rooms_a", "rooms_b", "sky_c"), {"score rooms", "score sky", "return rooms", "return sky"}),
     (("a_x", "b_y"), {"score", "return"})],
)  # fmt: skip
def test_the_layout_has_a_chart_for_each_family_and_matches_its_tags(tmp_path, levels, charts):
    local(tmp_path, levels=levels).close()
    [event] = board_of(tmp_path).Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    patterns = {chart.title: chart.multiline.tag[0] for group in layout.category for chart in group.chart}
    assert charts <= set(patterns)
    tags = {f"level/{name}/{key}" for name in levels for key in ("score", "return_mean", "episodes")}
    for title in charts:
        matched = {tag for tag in tags if re.search(patterns[title], tag)}
        assert matched
        assert len({tag.split("/")[-1] for tag in matched}) == 1
    everything = {tag for title in charts for tag in tags if re.search(patterns[title], tag)}
    assert everything == {tag for tag in tags if not tag.endswith("episodes")}


# -- services --


@pytest.fixture
def no_network(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    import wandb

    wandb.teardown()  # W&B reads its variables once in a process
    yield
    wandb.teardown()


def drive(info, *updates, end="done"):
    """Write records, a preview and events to all sinks of a run."""
    failures = []
    sink = make_sinks(info, lambda name, reason: failures.append((name, reason)))
    sink.hparams({"seed": 3}, "score/capped_mean")
    for n in updates:
        sink.write({"env_frames": 100.0 * n, "updates": n, "level/ALE/Pong-v5/score": 2.0 * n, "bad": float("inf")})
    sink.preview("ALE/Pong-v5", RolloutPreview(0, FRAMES, {}))
    sink.event("checkpoint", {"path": "x"})
    if end is not None:
        sink.event(end, {})
    sink.close()
    assert failures == []


def chunks(data):
    """Records of a W&B file: LevelDB's log format behind a header of 7 bytes."""
    position, parts = 7, b""
    while position < len(data):
        if 32768 - position % 32768 < 7:  # no chunk header fits in the rest of the block
            position += 32768 - position % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def wandb_content(folder):
    """Run, history and exit code of every file that W&B left in a run's folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    runs, history, exits = [], [], []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for chunk in chunks(file.read_bytes()):
            record = Record.FromString(chunk)
            if record.HasField("run"):
                runs.append(record.run)
            if record.HasField("history"):
                values = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                history.append({key: json.loads(value) for key, value in values.items()})
            if record.HasField("exit"):
                exits.append(record.exit.exit_code)
    return runs, history, exits


def mlflow_client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def assert_no_secret(folder):
    for file in folder.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("by_environment", [False, True])
def test_wandb_offline_continues_under_one_id(tmp_path, no_network, monkeypatch, by_environment):
    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["impala-mi", f"run.mirror=s3://key:{SECRET}@bucket"])
    overrides = ["logging.wandb.project=p"]
    if by_environment:
        monkeypatch.setenv("WANDB_MODE", "offline")
    else:
        overrides.append("logging.wandb.offline=true")
    end = "interrupted" if by_environment else None  # without a terminal event the run has failed
    drive(info_of(folder, *overrides), 1, 2, end=end)
    drive(info_of(folder, *overrides, resumed_at=200), 3)
    runs, history, exits = wandb_content(folder)
    assert exits == [1, 0]
    first, *others = runs
    assert (first.project, first.display_name, first.run_group) == ("p", "run", "")
    assert re.fullmatch(r"run-[0-9a-f]{8}", first.run_id)
    assert {run.run_id for run in others} == {first.run_id}
    config = {item.key: json.loads(item.value_json) for item in first.config.update}
    assert config["seed"] == 3
    assert {"run", "logging"}.isdisjoint(config)
    points = [(h["_step"], h["env_frames"], h["level/ALE/Pong-v5/score"]) for h in history if "env_frames" in h]
    assert points == [(1, 100.0, 2.0), (2, 200.0, 4.0), (3, 300.0, 6.0)]
    assert "bad" not in history[0]
    assert list(folder.glob("wandb/*/files/media/images/samples/**/*.png"))
    assert_no_secret(folder)


@pytest.mark.slow
def test_mlflow_without_a_server_continues_one_run(tmp_path, no_network):
    folder = tmp_path / "run"
    for end, status in (("interrupted", "KILLED"), ("failed", "FAILED"), (None, "FAILED")):
        drive(info_of(folder, "logging.mlflow.experiment=e"), end=end)
        client = mlflow_client((folder / "mlflow").as_uri())
        [run] = client.search_runs([client.get_experiment_by_name("e").experiment_id])
        assert run.info.status == status
    drive(info_of(folder, "logging.mlflow.experiment=e"), 1, 2)
    drive(info_of(folder, "logging.mlflow.experiment=e", resumed_at=200), 3)
    [run] = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["seed"]) == ("run", "FINISHED", "3")
    assert run.data.params["learner.batch_size"] == "32"
    points = client.get_metric_history(run.info.run_id, "level/ALE/Pong-v5/score")
    assert [(point.step, point.value) for point in points] == [(100, 2.0), (200, 4.0), (300, 6.0)]
    assert "bad" not in run.data.metrics
    assert_no_secret(folder)


@pytest.mark.slow
def test_members_of_a_population_are_a_group(tmp_path, no_network):
    uri = f"file://{tmp_path / 'store'}"
    (tmp_path / "population").mkdir()
    (tmp_path / "population" / JOURNAL).touch()
    for member in ("0.0", "0.1"):
        folder = tmp_path / "population" / "members" / member
        drive(info_of(folder, "logging.wandb.offline=true", f"logging.mlflow.tracking_uri={uri}"), 1)
        runs, *_ = wandb_content(folder)
        assert (runs[0].run_group, runs[0].display_name) == ("population", f"population-{member}")
        assert runs[0].run_id.startswith(f"population-{member}-")
    client = mlflow_client(uri)
    runs = client.search_runs([client.get_experiment_by_name("impala-mi").experiment_id])
    assert {run.info.run_name for run in runs} == {"population-0.0", "population-0.1"}
    assert {run.data.tags["group"] for run in runs} == {"population"}


def test_a_run_in_a_folder_named_members_is_no_member_of_a_population(tmp_path):
    info = RunInfo(tmp_path / "members" / "run", Config())
    assert (info.group, info.name) == (None, "run")


@pytest.mark.parametrize(
    ("override", "variables", "reason"),
    [
        (
            "logging.mlflow.tracking_uri=http://127.0.0.1:9",
            {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
            "127.0.0.1",
        ),
        ("logging.wandb={}", {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "1"}, ""),
    ],
    ids=["mlflow", "wandb"],
)
@pytest.mark.slow
def test_a_server_that_cannot_be_reached_is_dropped(tmp_path, no_network, monkeypatch, override, variables, reason):
    monkeypatch.setattr(sinks, "CLOSE_S", 5.0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    failures = []
    sink = make_sinks(info_of(tmp_path / "run", override), lambda name, reason: failures.append((name, reason)))
    sink.write({"env_frames": 1.0})
    sink.close()
    [(name, said)] = failures
    assert f"logging.{name}" in override
    assert reason in said
    assert [record["env_frames"] for record in records(tmp_path / "run")] == [1.0]
    assert_no_secret(tmp_path)


# -- configuration --


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, name):
    config = build("x", {}, [f"logging.{name}={{}}"]).logging
    check_sinks(config)
    check_sinks(LoggingConfig())
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    check_sinks(LoggingConfig())
    with pytest.raises(UserError, match=rf"^logging.{name} needs: pip install 'impala-mi\[{name}\]'$"):
        check_sinks(config)


def test_a_section_that_is_off_can_be_switched_on_by_an_override():
    off = parse_yaml(to_yaml(Config()), "x")
    assert off["logging"] == {"wandb": None, "mlflow": None, "sinks": []}
    assert build("x", off, ["logging.wandb.project=p"]).logging.wandb.project == "p"
    assert load("cartpole").logging == LoggingConfig()
    with pytest.raises(UserError, match=r"did you mean 'logging.wandb.offline'"):
        build("x", {}, ["logging.wandb.ofline=true"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logging.mlflow.tracking_uri", f"https://me:{SECRET}@host/x"),
        ("logging.mlflow.tracking_uri", f"https://{SECRET}@host"),
        ("logging.mlflow.tracking_uri", f"postgresql://host/db?password={SECRET}"),
        ("logging.wandb.project", f"https://host/x?sig={SECRET}"),
        ("env.gym.kwargs", f"{{all: {{server: 'https://me:{SECRET}@host'}}}}"),
        ("env.gym.kwargs", f"{{all: {{servers: [a, 'https://host/x#token={SECRET}']}}}}"),
        ("env.levels", f"['https://me:{SECRET}@host']"),
    ],
)
def test_a_password_in_the_configuration_is_refused_and_not_repeated(key, value):
    with pytest.raises(UserError, match=rf"{key}\S*='\w+://.*: must hold no user, password or token") as error:
        build("x", {}, ["env.suite=gym", f"{key}={value}"])
    assert SECRET not in str(error.value)


# -- sinks of the user, and failures --


class ListSink(Sink):
    def __init__(self, info):
        self.path = info.folder / "list.txt"

    def write(self, record):
        with open(self.path, "a") as file:
            print(record["env_frames"], threading.current_thread().name, file=file)


def failing(info):
    raise ConnectionError(f"no route to https://me:{SECRET}@host\nand more")


not_a_function = 3


def test_a_sink_of_the_user(tmp_path):
    hook = f"{__name__}:ListSink"
    info = info_of(tmp_path / "run", f"logging.sinks=[{hook}]")
    check_sinks(info.config.logging)
    drive(info, 1, 2)
    assert (tmp_path / "run" / "list.txt").read_text() == f"100.0 sink {hook}\n200.0 sink {hook}\n"


@pytest.mark.parametrize(
    ("hook", "reason"),
    [("nosuchmodule:f", "cannot be imported"), (f"{__name__}:nothing", "cannot be imported"),
     (f"{__name__}:not_a_function", "is no function that returns a Sink")],
)  # fmt: skip
def test_a_hook_that_is_no_sink_is_named(hook, reason):
    with pytest.raises(UserError, match=rf"^logging.sinks='{hook}': {reason}"):
        check_sinks(LoggingConfig(sinks=[hook]))


def test_a_sink_that_fails_is_reported_once_and_dropped(tmp_path):
    failures = []
    info = info_of(tmp_path / "run", f"logging.sinks=[{__name__}:failing, {__name__}:ListSink]")

    def report(name, reason):
        failures.append((name, reason))
        sink.event("sink_failed", {})  # as the recorder does

    sink = make_sinks(info, report)
    deadline = time.monotonic() + 20
    while not failures and time.monotonic() < deadline:
        sink.write({"env_frames": 1.0})
        time.sleep(0.01)
    for _ in range(3):
        sink.write({"env_frames": 2.0})
    sink.close()
    assert failures == [(f"{__name__}:failing", "ConnectionError: no route to https://***@host")]
    assert records(tmp_path / "run")[-3:] == 3 * [{"env_frames": 2.0}]
    assert (tmp_path / "run" / "list.txt").read_text().count("2.0 ") == 3


def test_a_sink_that_hangs_delays_neither_records_nor_the_end(monkeypatch):
    monkeypatch.setattr(sinks, "CLOSE_S", 0.1)
    monkeypatch.setattr(sinks, "MAX_WAITING", 3)
    go, failures = threading.Event(), []
    many, few = (BackgroundSink(lambda: (go.wait(20), Sink())[1], name) for name in ("many", "few"))
    sink = Sinks([], {"many": many}, lambda *failure: failures.append(failure))
    for n in range(10):
        sink.write({"env_frames": float(n)})
    assert failures == [("many", "TimeoutError: 3 calls wait for it")]
    Sinks([], {"few": few}, lambda *failure: failures.append(failure)).close()
    assert failures[1:] == [("few", "TimeoutError: it has not finished within 0.1 s")]
    go.set()


def test_all_sinks_that_hang_share_one_deadline_and_required_ones_are_closed_first(monkeypatch):
    monkeypatch.setattr(sinks, "CLOSE_S", 0.2)
    go, closed, failures = threading.Event(), [], []

    class Hangs(Sink):
        def close(self):
            go.wait(20)

    class Required(Sink):
        def close(self):
            closed.append(len(failures))

    optional = {str(n): BackgroundSink(Hangs, str(n)) for n in range(5)}
    sink = Sinks([Required()], optional, lambda name, reason: failures.append(name))
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 0.8
    assert (closed, failures) == ([0], list(optional))
    sink.event("sink_failed", {})  # goes nowhere
    go.set()


def test_records_that_a_full_disk_refuses_are_in_both_files_once_there_is_room(monkeypatch, tmp_path):
    full, append = [], files.append

    def append_if_room(file, data):
        if full and data:
            raise OSError(28, "No space left on device")
        append(file, data)

    monkeypatch.setattr(files, "append", append_if_room)
    sinks = local(tmp_path)
    sinks.write({"env_frames": 10, "fps": 1.0})
    full.append(True)
    for frames in (20, 30):
        with pytest.raises(OSError, match="No space left"):
            sinks.write({"env_frames": frames, "fps": 2.0})
    assert [e.step for e in board_of(tmp_path).Scalars("run/fps")] == [10]
    full.clear()
    sinks.write({"env_frames": 40, "fps": 3.0})
    sinks.close()
    assert [record["env_frames"] for record in records(tmp_path)] == [10, 20, 30, 40]
    assert [e.step for e in board_of(tmp_path).Scalars("run/fps")] == [10, 20, 30, 40]
