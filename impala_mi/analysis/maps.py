"""All files of `impala-mi tsne`: maps of the steps that agents played, and the separation of their levels."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from impala_mi.analysis import tsne
from impala_mi.analysis.clusters import LevelSeparation, level_separation
from impala_mi.analysis.recording import Recording
from impala_mi.analysis.tsne_page import write_tsne_page


def write_maps(
    titles: Sequence[str], recordings: Sequence[Recording], kind: str | None, seed: int, folder: Path, stem: str
) -> tuple[list[tsne.Panel], dict[str, list[LevelSeparation]], list[Path]]:
    """Write the maps of several recordings side by side, and the separation of levels in each kind of vectors.

    Args:
        titles: titles of the recordings.
        recordings: recordings of the same levels.
        kind: kind of vectors to draw; None for each recording's default.
        seed: seed of PCA and t-SNE.
        folder: folder to write to.
        stem: stem of the files' names.

    Returns:
        The maps, the separation by name of vectors, and the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = {ending: folder / f"{stem}{ending}" for ending in (".png", ".svg", ".html", "-levels.png", ".json")}
    pairs = list(zip(titles, recordings, strict=True))
    panels = [tsne.make_panel(title, recording, kind or recording.default, seed) for title, recording in pairs]
    tsne.draw_maps(panels, [file[".png"], file[".svg"]])
    write_tsne_page(panels, stem, file[".html"])
    separation = {
        tsne.KINDS[vectors] + (f" ({title})" if len(titles) > 1 else ""): level_separation(recording, vectors, seed)
        for title, recording in pairs
        for vectors in recording.vectors
    }
    tsne.draw_separation(separation, file["-levels.png"])
    rows = {name: [asdict(octave) for octave in octaves] for name, octaves in separation.items()}
    file[".json"].write_text(json.dumps(rows, indent=1) + "\n")
    return panels, separation, list(file.values())
