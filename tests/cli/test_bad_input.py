"""A user's mistakes: one line with the remedy, exit code 2, nothing started, nothing overwritten."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from impala_mi.errors import StartError, UserError
from impala_mi.learner.update import Learner
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs import folder as run_folder
from impala_mi.training import preflight
from tests.commands import impala, refused
from tests.tiny import tiny_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere.yaml"], "neither a file nor one of the shipped"),
        (["doom", "learner.batchsize=3"], "did you mean 'learner.batch_size'"),
        (["doom", "learner.batch_size=3"], "must be a multiple of actors.envs"),
        (["doom", "actors.count=0"], "actors.count=0"),
        (["doom", "env.levels=[health_gatherin]"], "did you mean 'health_gathering'"),
        (["doom", "env.suite=doomed"], "no such suite"),
        (["doom", "actors.count=1", "actors.envs=6"], "9 levels but only actors.count=1 x actors.envs=6"),
        (["cartpole", "agent.torso=shallow"], "use agent.torso=mlp"),
        (["cartpole", "run.root=/proc/nothing"], "cannot make the folder"),
        (["cartpole", "env.levels=[NoSuch-v1]"], "Gymnasium cannot make 'NoSuch-v1'"),
        (["cartpole", "run.root=s3://bucket/runs"], "name it in run.mirror"),
        (["cartpole", "run.root=~nosuchuser/x"], "run.root='~nosuchuser/x': there is no such user"),
        (["cartpole", "agent.core_width=1e9"], "this machine has"),
        (["cartpole", "learner.unroll_length=1e9"], "batches of"),
        (["cartpole", "learner.num_threads=4000"], "learner.num_threads=4000: more than the"),
    ],
)
def test_train(tmp_path, args, says):
    refused(impala("train", *args, cwd=tmp_path), says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(tmp_path):
    refused(
        impala("train", "cartpole", "learner.num_gpus=1", cwd=tmp_path),
        "sees no GPU; set learner.num_gpus=0 to learn",
    )
    central = ("train", "cartpole", "actors.inference=central")
    refused(impala(*central, "inference.num_gpus=0.5", cwd=tmp_path), "inference.num_gpus=0.5, but this PyTorch")
    refused(impala(*central, "inference.workers=90", cwd=tmp_path), "inference.workers=90: more than the")


def test_shared_memory_and_disk_are_checked_first(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(UserError, match=r"--shm-size=\d+m"):
        preflight.check(tiny_config())
    config = tiny_config(f"run.root={tmp_path}/runs")
    with pytest.raises(UserError, match="only 1 MiB of disk"):
        run_folder.create(config, "x")
    assert not (tmp_path / "runs" / "x").exists()


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return make_run()


@pytest.fixture
def run(saved_run, tmp_path) -> Path:
    """A copy of the same run for each test."""
    return Path(shutil.copytree(saved_run, tmp_path / "runs" / "x"))


def make_run(*overrides: str) -> Path:
    """A run of the tiny suite in the current folder with one checkpoint, made without Ray."""
    config = tiny_config("run.root=runs", "train.env_frames=1000", "learner.batch_size=5", *overrides)
    folder = run_folder.create(config, "x")
    from impala_mi.envs.suites import make_suite

    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, torch.device("cpu"))
    scores = {"returns": [[]] * 5, "lengths": [[]] * 5, "episodes": [0] * 5}
    driver = {"scores": scores, "time_s": 1.0, "discarded": 0, "starts": 0}
    meta = {"env_frames": 500, "updates": 1, "score": 1.0}
    checkpoints.save(folder.checkpoints, learner.state(), driver, meta, 2)
    return folder.path.resolve()


def test_a_run_that_exists_is_not_touched(run):
    cwd = run.parent.parent
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    refused(impala("train", "cartpole", "run.name=x", cwd=cwd), "exists; continue it with: impala-mi resume runs/x")
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["runs/y"], "there is no such folder"),
        (["runs"], "it has no config.yaml"),
        (["runs/x", "agent.head=shared"], "agent cannot change"),
        (["runs/x", "env.levels=[catch]"], "env.levels cannot change"),
        (["runs/x", "seed=3"], "seed cannot change"),
        (["runs/x", "run.root=elsewhere"], "run.root cannot change"),
        (["runs/x", "learner.optimizer=rmsprop"], "learner.optimizer cannot change"),
        (["runs/x", "train.env_frames=400"], "the run is done"),
        (["runs/x", "--checkpoint", "7"], "no checkpoint '7'"),
    ],
)
def test_resume(run, args, says):
    cwd = run.parent.parent
    kept = (run / "config.yaml").read_text()
    refused(impala("resume", *args, cwd=cwd), says)
    assert (run / "config.yaml").read_text() == kept


def test_paths_and_numbers_of_commands_on_runs(run):
    cwd = run.parent.parent
    for command in ("eval", "resume", "tsne", "video", "units", "report", "watch"):
        for path in ("~nosuchuser/x", "a\0b", "n" * 300, ""):
            refused(impala(command, path, cwd=cwd), repr(path)[:5])
    for args in (["eval", str(2**70)], ["tsne", str(2**40)], ["video", str(2**64)], ["units", "9" * 5000]):
        done = impala(args[0], "runs/x", "--seed", args[1], cwd=cwd)
        assert done.returncode == 2
        assert "Error: Invalid value for '--seed'" in done.stderr


@pytest.mark.slow
def test_runs_without_a_name_that_start_in_the_same_second(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "20261128-093800")
    config = tiny_config(f"run.root={tmp_path}")
    names = [run_folder.create_named(config, "tiny").path.name for _ in range(4)]
    assert names == [f"tiny-20261128-093800{suffix}" for suffix in ("", "-2", "-3", "-4")]
    with ThreadPoolExecutor(8) as threads:
        many = list(threads.map(lambda _: run_folder.create_named(config, "together").path, range(8)))
    assert len(set(many)) == 8
    named = tiny_config(f"run.root={tmp_path}", "run.name=mine")
    run_folder.create_named(named, "tiny")
    with pytest.raises(UserError, match="exists; continue it with"):
        run_folder.create_named(named, "tiny")


@pytest.mark.slow
def test_bench_envs_checks_only_what_it_uses(tmp_path):
    done = impala(
        "bench", "envs", "env.suite=tiny", "env.levels=all", "actors.envs=31", "--seconds", "0.1", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    refused(
        impala("bench", "inference", "env.suite=tiny", "env.levels=all", "actors.envs=31", cwd=tmp_path),
        "must be a multiple",
    )


def test_a_shipped_alternative_gives_way_to_the_command_line(tmp_path):
    with pytest.warns(UserWarning, match="replaces actors.per_level=5 of dmlab30"):
        done = impala("train", "dmlab30", "actors.count=2", "--print-config", cwd=tmp_path)
    assert done.returncode == 0
    assert "per_level: null" in done.stdout


def test_resume_of_a_damaged_or_foreign_checkpoint(run):
    cwd, state = run.parent.parent, next(run.glob("checkpoints/0*/state.pt"))
    good = state.read_bytes()
    state.write_bytes(good[: len(good) // 2])
    refused(impala("resume", "runs/x", cwd=cwd), "is damaged")
    state.write_bytes(good)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("core_width: 32", "core_width: 64"))
    refused(impala("resume", "runs/x", cwd=cwd), "is of another architecture")
    refused(impala("eval", "runs/x", cwd=cwd), "is of another architecture")


@pytest.mark.slow
def test_eval_and_tsne(run):
    cwd = run.parent.parent
    refused(impala("eval", "runs/y", cwd=cwd), "no such folder")
    done = impala("eval", "runs/x", "--episodes", "3", "--against-random", "--no-task-ids", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "memory" in done.stdout
    assert list((run / "eval").glob("*.json"))
    done = impala(
        "tsne", "runs/x", "--episodes", "3", "--points", "20", "--beside", "./runs/x", "--of", "core", cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    assert "state of the core" in done.stdout
    assert {file.suffix for file in (run / "tsne").iterdir()} == {".png", ".svg", ".html", ".json", ".npz"}
    assert list(run.glob("tensorboard/tsne/*-core/projector_config.pbtxt"))


def test_what_a_head_cannot_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run("agent.head=mi_task")
    refused(impala("eval", "runs/x", "--no-task-ids", cwd=tmp_path), "cannot act without it")
    (tmp_path / "runs").rename(tmp_path / "first")
    make_run("agent.head=shared")
    refused(impala("tsne", "runs/x", "--of", "policy", cwd=tmp_path), "has none with agent.head=shared")


def test_one_episode_is_valid_json(run):
    done = impala("eval", "runs/x", "--episodes", "1", cwd=run.parent.parent)
    assert done.returncode == 0, done.stderr
    text = next((run / "eval").glob("*.json")).read_text()
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["levels"]
    assert rows[0]["agent"]["stderr"] is None


def test_a_run_out_of_time_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run("train.max_time_s=1.0")
    refused(impala("resume", "runs/x", cwd=tmp_path), "train.max_time_s=null")


def test_a_ray_that_does_not_start_leaves_the_name_free(tmp_path, monkeypatch):
    from impala_mi.cli.train import command
    from impala_mi.training import ray_cluster

    def fail(**_: object) -> None:
        raise RuntimeError("no room\nfor Ray")

    monkeypatch.setattr(ray_cluster.ray, "init", fail)
    monkeypatch.chdir(tmp_path)
    with (
        pytest.warns(UserWarning, match="starting it again"),
        pytest.raises(StartError, match=r"Ray did not start on this machine, tried 3 times \(.*\): no room(;|$)"),
    ):
        command.main(["cartpole", "run.name=x"], standalone_mode=False)
    assert not (tmp_path / "runs" / "x").exists()


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "impala_mi", "train", "doom", "actors.count=0"]
    refused(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120), "actors.count=0")


@pytest.mark.slow
@pytest.mark.parametrize(
    "args", [["--help"], ["train", "cartpole", "--print-config"], ["pbt", "cartpole_pbt", "--print-config"]]
)
def test_commands_that_only_print_import_neither_pytorch_nor_ray(tmp_path, args):
    code = "import sys; from impala_mi.cli.main import cli; cli.main(sys.argv[1:], standalone_mode=False)"
    check = "; print(sorted({'torch', 'ray', 'matplotlib'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code + check, *args], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_exit_codes_of_the_command_line_itself(tmp_path):
    assert impala("--help", cwd=tmp_path).returncode == 0
    assert impala("trian", cwd=tmp_path).returncode == 2
    assert impala("train", cwd=tmp_path).returncode == 2
    for command in ("train", "resume", "eval", "tsne", "levels", "doctor"):
        done = impala(command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "Usage:" in done.stdout


def test_print_config_starts_nothing(tmp_path):
    done = impala("train", "doom", "learner.batch_size=72", "--print-config", cwd=tmp_path)
    assert "batch_size: 72" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_levels_and_doctor(tmp_path):
    done = impala("levels", "tiny", "--measure-random", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "always_left" in done.stdout
    done = impala("doctor", cwd=tmp_path)
    assert "shared memory" in done.stdout, done.stderr
    assert done.returncode == any(line.split()[0] == "bad" for line in done.stdout.splitlines())


@pytest.mark.slow
def test_doctor_says_that_it_compiles_and_leaves_nothing_in_the_cache(tmp_path, monkeypatch, lab_double):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    done = impala("doctor", "env.dmlab.level_cache=cache", cwd=tmp_path)
    assert "DMLab compiles a map, for about a minute ..." in done.stdout, done.stderr
    assert "compiles a map: 96x72" in done.stdout
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("DMLAB_DOUBLE_BREAKS", "explore_goal_locations_small:reset:abort")
    done = impala("doctor", "env.dmlab.level_cache=cache", cwd=tmp_path)
    assert done.returncode == 1
    assert "double: abort" in done.stdout, "the cause stands above a traceback"


def test_report_of_what_is_none(run, tmp_path):
    cwd = run.parent.parent
    refused(impala("report", "runs/y", cwd=cwd), "no run 'runs/y': there is no such folder")
    (cwd / "file").touch()
    refused(impala("report", "runs/x", "--out", "file", cwd=cwd), "cannot be written to")
    (cwd / "population").mkdir()
    (cwd / "population" / "pbt.jsonl").touch()
    refused(impala("report", "runs/x", "population", cwd=cwd), "which is reported alone")
    assert impala("report", "runs/x", "runs/x/", cwd=cwd).returncode == 0
    assert (cwd / "report" / "report.html").exists()


@pytest.mark.slow
def test_video(run):
    cwd = run.parent.parent
    refused(impala("video", "runs/x", "--level", "nowhere", cwd=cwd), "plays catch, memory")
    (run / "tsne").mkdir()
    (run / "tsne" / f"{next((run / 'checkpoints').glob('0*')).name}.npz").write_bytes(b"")
    refused(impala("video", "runs/x", "--level", "catch", cwd=cwd), "recreate it with impala-mi tsne")
    assert not (run / "videos").exists(), "empty folders are not left"
    shutil.rmtree(run / "tsne")
    done = impala("video", "runs/x", "--level", "catch", "--episodes", "2", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert len(list((run / "videos").glob("*-catch-[12].mp4"))) == 2


@pytest.mark.slow
def test_units(run, monkeypatch):
    cwd = run.parent.parent
    done = impala("units", "runs/x", "--episodes", "2", "--most", "2", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "of 10 drops or gains are real" in done.stdout
    [file] = (run / "units").glob("*.json")
    found = json.loads(file.read_text())
    assert len(found["drop"]) == len(found["levels"]) == 5
    assert found["rank_correlation"] is None  # of two of eight units
    monkeypatch.chdir(cwd)
    (cwd / "runs").rename(cwd / "first")
    make_run("agent.conditioned=value")
    refused(impala("units", "runs/x", cwd=cwd), "does not depend on the context")


@pytest.mark.slow
def test_names_of_files_that_are_no_text_are_printed_escaped(tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"env_frames": 5}\n')
    command = [sys.executable, "-m", "impala_mi", "report", str(folder), "--out", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {tmp_path}/caf\\udce9/out/report.md" in done.stdout
    assert "caf\\\\udce9" in (folder / "out" / "report.md").read_text(encoding="utf-8"), "as Markdown shows it"
