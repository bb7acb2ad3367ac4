"""Reports on runs."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from impala_mi.analysis import report as reports
from impala_mi.analysis.report import write_report
from impala_mi.runs.history import History, read


def history(name, head="shared", seed=1, levels=("a", "b"), end="done", n=30, **more):
    rng = np.random.default_rng(seed)
    records = [
        {
            "env_frames": 1000 * (i + 1), "time_s": 60.0 * (i + 1), "fps": 100.0, "lag_mean": 1.0,
            "actors/faults": 2, "score/capped_mean": i + rng.normal(), "learner/learning_rate": 1e-4,
            **{f"level/{k}/{what}": v for k in levels
               for what, v in (("episodes", i), ("return_mean", 5.0 * i), ("score", i + rng.normal()))},
        }
        for i in range(n)
    ]  # fmt: skip
    settings = {"agent.head": head, "seed": seed}
    return History(
        f"runs/{name}", name, settings, records, Counter({"started": 1, end: 1, "fault": 2}),
        [{"event": "started"}, {"event": end, "error": "because <b>"}], [], **more,
    )  # fmt: skip


@pytest.mark.slow
def test_a_page_holds_everything_and_fetches_nothing(tmp_path):
    runs = [history(f"{head}-{seed}", head, seed) for head in ("shared", "mi_context") for seed in (1, 2, 3)]
    files = write_report(runs, "six runs", tmp_path)
    assert [file.name for file in files] == ["report.html", "report.md", "report.json"]
    html = files[0].read_text()
    body = html.split("</head>")[1]
    for heading in ("Runs", "Scores over levels", "Mean capped score", "Score of each level",
                    "Return of each level", "Learner", "Throughput and lag", "Settings that differ",
                    "Faults and events"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in body
    assert "head=mi_context" in body
    assert not re.findall(r'(?:src|href)="(?!data:)', html.split("<script>")[0] + body)
    assert len(html) < 7e6
    kept = json.loads(files[2].read_text())
    assert [group["group"] for group in kept["groups"]] == ["head=shared", "head=mi_context"]
    assert len(kept["groups"][0]["aggregates"]["interquartile mean"]["interval"]) == 2
    assert "| head=shared | 3 |" in files[1].read_text()


def test_runs_that_ended_badly(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").touch()
    empty = read(str(tmp_path / "empty"))
    runs = [history("crashed", end="failed", n=5), history("short", n=1), history("alone", levels=()), empty]
    html = write_report(runs, "<all>", tmp_path)[0].read_text()
    assert "because &lt;b&gt;" in html
    assert "&lt;all&gt;" in html
    assert '<td class="bad">failed</td>' in html
    assert "<td>empty</td>" in html
    markdown = (tmp_path / "report.md").read_text()
    assert "crashed failed: because \\<b\\>" in markdown


def test_only_an_empty_run(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").touch()
    html = write_report([read(str(tmp_path / "empty"))], "empty", tmp_path)[0].read_text()
    assert "<h2>Runs</h2>" in html
    assert "<h2>Learner</h2>" not in html


@pytest.mark.slow
def test_a_page_on_thirty_levels_is_small(tmp_path):
    levels = [f"family{k % 6}_level{k}" for k in range(30)]
    runs = [history(f"{head}{seed}", head, seed, levels, n=400) for head in "xy" for seed in (1, 2)]
    assert write_report(runs, "thirty", tmp_path)[0].stat().st_size < 9e6


def test_the_newest_pictures_as_far_as_there_is_room(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for name in ("tsne", "videos"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").touch()
    for name in ("0100.png", "0200.png", "0200-levels.png"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "tsne" / name)
    (folder / "videos" / "0200-a-1.mp4").write_bytes(b"x" * 1000)
    html = write_report([read(str(folder))], "x", tmp_path)[0].read_text()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["run: 0200", "run: 0200-levels", "run: 0200-a-1"]
    monkeypatch.setattr(reports, "MAX_PICTURE_BYTES", 1200)
    html = write_report([read(str(folder))], "x", tmp_path)[0].read_text()
    assert "1 pictures and videos are left out" in html
    assert "data:video" not in html


@pytest.mark.parametrize("name", ["a|b", "pipes | everywhere"])
def test_markdown_tables_survive_names(tmp_path, name):
    text = write_report([history(name)], "x", tmp_path)[1].read_text()
    header, _, row = text[text.index("| run") :].splitlines()[:3]
    assert "\\|" in row
    assert row.replace("\\|", "").count("|") == header.count("|")
