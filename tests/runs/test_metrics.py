import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from impala_mi.envs.base import Level
from impala_mi.runs.metrics import LevelScores, Means, MetricsWriter
from impala_mi.types import Episode, RolloutPreview

LEVELS = (Level("a", 0, 10), Level("b", 0, 10))


def test_levels_are_averaged_over_a_window_and_scored_together():
    scores = LevelScores(LEVELS, window=2)
    scores.add([Episode(0, r, 3) for r in (100.0, 2.0, 4.0)])
    assert scores.metrics() == {
        "level/a/return_mean": 3.0, "level/a/length_mean": 3.0, "level/a/score": 30.0, "level/a/episodes": 3,
        "level/b/episodes": 0,
    }  # fmt: skip
    scores.add([Episode(1, 50.0, 5)])
    assert scores.metrics()["score/capped_mean"] == (30 + 100) / 2
    again = LevelScores(LEVELS, window=2)
    again.load_state(scores.state())
    assert again.metrics() == scores.metrics()


def test_windows_begin_anew_and_episodes_count_on():
    scores = LevelScores(LEVELS, window=3)
    scores.add([Episode(0, 1.0, 3), Episode(0, 3.0, 3), Episode(1, 5.0, 3)])
    assert scores.mean_returns(least=2) == {"a": 2.0}
    scores.forget()
    assert (scores.mean_returns(), scores.score(), scores.episodes) == ({}, None, [2, 1])


def test_means_begin_anew():
    means = Means()
    means.add({"lag_mean": 1.0, "lag_max": 1.0})
    means.add({"lag_mean": 2.0, "lag_max": 5.0, "late": 1.0})
    means.add({"lag_max": 2.0})
    assert means.take() == {"lag_mean": 1.5, "lag_max": 5.0, "late": 1.0}
    assert means.take() == {}


def test_jsonl_and_tensorboard(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write({"env_frames": 10, "fps": 3.0, "level/a/return_mean": float("nan")})
    writer.write({"env_frames": 20, "fps": 4.0, "loss/total": 1.5})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"env_frames": 10, "fps": 3.0},
        {"env_frames": 20, "fps": 4.0, "loss/total": 1.5},
    ]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("run/fps")] == [(10, 3.0), (20, 4.0)]
    assert board.Scalars("loss/total")[0].value == pytest.approx(1.5)


def test_a_resumed_run_drops_what_was_lost_with_the_weights(tmp_path):
    writer = MetricsWriter(tmp_path)
    for frames in (10, 20, 30):
        writer.write({"env_frames": frames})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"env_frames": 4')  # a process that died while writing
    writer = MetricsWriter(tmp_path, resumed_at=20)
    writer.write({"env_frames": 25})
    writer.close()
    lines = [json.loads(line)["env_frames"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [10, 20, 25]


def test_values_that_are_not_numbers_do_not_spoil_a_mean():
    means = Means()
    means.add({"loss/total": 1.0})
    means.add({"loss/total": float("nan")})
    assert means.take() == {"loss/total": 1.0}


def test_a_picture_and_histograms_of_a_sample(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write({"env_frames": 10})
    frames = np.zeros((6, 5, 7, 3), np.uint8)
    frames[4] = 255  # the first of the second row
    writer.sample(
        "catch",
        RolloutPreview(0, frames, {"context": np.ones((9, 4), np.float32), "policy": np.full((2, 2), np.nan)}),
    )
    writer.sample("vectors", RolloutPreview(1, None, {}))
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
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
def test_the_layout_has_a_chart_for_each_family_and_finds_its_tags(tmp_path, levels, charts):
    writer = MetricsWriter(tmp_path)
    writer.layout(levels)
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    [event] = board.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    found = {chart.title: chart.multiline.tag[0] for group in layout.category for chart in group.chart}
    assert charts <= set(found)
    tags = {f"level/{name}/{what}" for name in levels for what in ("score", "return_mean", "episodes")}
    for title in charts:
        matched = {tag for tag in tags if re.search(found[title], tag)}
        assert matched
        assert len({tag.split("/")[-1] for tag in matched}) == 1
    everything = {tag for title in charts for tag in tags if re.search(found[title], tag)}
    assert everything == {tag for tag in tags if not tag.endswith("episodes")}
