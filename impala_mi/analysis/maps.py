"""Maps of what agents made of the steps they played: everything that `impala-mi tsne` writes."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from impala_mi.analysis import tsne, tsne_page
from impala_mi.analysis.clusters import Apartness, apartness
from impala_mi.analysis.recording import Recording


def write_maps(
    titles: Sequence[str], recordings: Sequence[Recording], kind: str | None, seed: int, folder: Path, stem: str
) -> tuple[list[tsne.Panel], dict[str, list[Apartness]], list[Path]]:
    """The maps of several recordings side by side, and how far levels lie apart in each kind of vectors.

    Args:
        titles: of the recordings.
        recordings: of the same levels.
        kind: of vectors to draw; None for each recording's default.
        seed: of PCA and t-SNE.
        folder: to write to.
        stem: of the files' names.

    Returns:
        the maps, the numbers by name, and the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = {ending: folder / f"{stem}{ending}" for ending in (".png", ".svg", ".html", "-levels.png", ".json")}
    panels = [
        tsne.panel(title, recording, kind or recording.default, seed)
        for title, recording in zip(titles, recordings, strict=True)
    ]
    tsne.draw(panels, [file[".png"], file[".svg"]])
    tsne_page.write(panels, stem, file[".html"])
    found = {
        tsne.WHAT[vectors] + (f" ({title})" if len(titles) > 1 else ""): apartness(recording, vectors, seed)
        for title, recording in zip(titles, recordings, strict=True)
        for vectors in recording.vectors
    }
    tsne.draw_apartness(found, file["-levels.png"])
    rows = {name: [asdict(row) for row in some] for name, some in found.items()}
    file[".json"].write_text(json.dumps(rows, indent=1) + "\n")
    return panels, found, list(file.values())
