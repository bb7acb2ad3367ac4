"""Maps of recordings: pictures, pages, numbers."""

import colorsys
import json

import numpy as np
import pytest

from impala_mi.analysis.colours import families, family, palette
from impala_mi.analysis.maps import write_maps
from impala_mi.analysis.recording import Recording, record
from impala_mi.analysis.tsne import Panel, embed, opacity
from impala_mi.analysis.tsne_page import write_tsne_page
from impala_mi.envs.dmlab30 import SCORES
from impala_mi.nn.agent import Agent
from tests.tiny import tiny_config


@pytest.mark.slow
def test_embedding_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    weights = np.concatenate([rng.normal(c, 0.1, (40, 64)) for c in (-1, 1)]).astype(np.float32)
    points, method = embed(weights, 0)
    assert method == "t-SNE"
    assert np.linalg.norm(points[:40].mean(0) - points[40:].mean(0)) > 2 * points[:40].std()


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_few_distinct_vectors_are_projected(distinct):
    vectors = np.repeat(np.random.default_rng(0).normal(size=(distinct, 6)), 4, axis=0)
    points, method = embed(vectors, 0)
    assert (method, points.shape) == ("PCA", (4 * distinct, 2))
    assert len(np.unique(points.round(6), axis=0)) == distinct


def test_later_steps_are_more_opaque():
    alpha = opacity(np.array([0, 1, 10, 100]))
    assert (np.diff(alpha) > 0).all()
    assert (alpha[0], alpha[-1]) == (0.15, 1.0)
    assert np.isfinite(opacity(np.zeros(3))).all()


def test_levels_of_a_family_look_alike_and_no_two_the_same():
    names = list(SCORES)
    styles, by_family = palette(names), families(names)
    assert len(set(styles)) == len(names) == 30
    assert len(by_family["psychlab"]) == 4
    hues = {f: [colorsys.rgb_to_hls(*styles[k][0])[0] for k in members] for f, members in by_family.items()}
    # from the first family's on, around the circle
    middle = [(np.mean([(h + 0.25) % 1 for h in family_hues]) - 0.25) % 1 for family_hues in hues.values()]
    assert np.allclose(np.diff(middle), 1 / len(by_family), atol=0.05)
    assert family("contributed/dmlab30/rooms_watermaze") == "rooms"
    assert families(["a_x", "a_y"]) == {"a_x": [0], "a_y": [1]}


@pytest.mark.slow
def test_maps_side_by_side(config, suite, tmp_path):
    recordings = [
        record(Agent(tiny_config(f"agent.head={head}").agent, suite.spaces).eval(), suite, 4, 16, 1)
        for head in ("mi_context", "shared")
    ]
    _, separation, files = write_maps(["ours", "theirs"], recordings, None, 1, tmp_path / "tsne", "both")
    assert all(file.stat().st_size > 1000 for file in files)
    assert {file.name for file in files} == {"both.png", "both.svg", "both.html", "both-levels.png", "both.json"}
    kept = json.loads((tmp_path / "tsne" / "both.json").read_text())
    assert list(kept) == list(separation)
    assert set(kept) == {
        f"{vectors} (ours)"
        for vectors in ("generated weights of the policy", "generated weights of the value", "context")
    } | {"state of the core (ours)", "state of the core (theirs)"}
    # step 0 of a level in words is told apart by its words alone, so not always, and nothing is by chance
    assert all(0 <= row["purity"] <= 1 for rows in kept.values() for row in rows)


def test_a_page_shows_words_as_they_are_and_pictures(tmp_path):
    rng = np.random.default_rng(0)
    data = Recording(
        ["a", "b"], np.repeat([0, 1], 20), np.arange(40), np.zeros(40, int), np.array(["<b>go & see</b>"] * 40),
        rng.integers(0, 255, (40, 8, 8, 3), np.uint8), {"core": rng.normal(size=(40, 5)).astype(np.float32)},
    )  # fmt: skip
    write_tsne_page([Panel("x", data, "core", rng.normal(size=(40, 2)), "t-SNE")], "x", tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "<b>go" not in text
    assert "lt;b" in text
    assert text.count("/9j/") >= 40  # how JPEG begins
