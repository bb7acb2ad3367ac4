"""The t-SNE as a page: under the mouse are the level, the step, the instruction and what was seen."""

import base64
import html
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from impala_mi.analysis.colours import SYMBOLS, palette
from impala_mi.analysis.recording import rgb
from impala_mi.analysis.tsne import WHAT, Panel, opacity

MOST_THUMBNAILS = 4000
"""In a page: some 1.5 kB each."""

# Plotly draws no pictures under the mouse.
_HOVER = """
const pictures = %s, plot = document.getElementById("{plot_id}"), box = document.createElement("img");
box.style = "position:fixed;right:12px;bottom:12px;width:192px;image-rendering:pixelated;border-radius:4px";
box.alt = "";
document.body.append(box);
plot.on("plotly_hover", event => {
  const picture = pictures[event.points[0].customdata[0]];
  box.hidden = !picture;
  if (picture) box.src = "data:image/jpeg;base64," + picture;
});
"""


def page(panels: Sequence[Panel], title: str) -> go.Figure:
    """The maps side by side; clicking on a level in the legend hides it in all."""
    names = [html.escape(name) for name in panels[0].recording.names]
    titles = [f"{html.escape(one.title)}<br>{one.method} of the {WHAT[one.kind]}" for one in panels]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.02)
    for column, one in enumerate(panels, 1):
        alpha, offset = opacity(one.recording.time), sum(len(p.points) for p in panels[: column - 1])
        for k, ((r, g, b), marker) in enumerate(palette(panels[0].recording.names)):
            mine = np.flatnonzero(one.recording.level == k)
            data = [
                (
                    offset + int(i),
                    int(one.recording.time[i]),
                    _wrapped(str(one.recording.instruction[i])),
                )
                for i in mine
            ]
            figure.add_trace(
                go.Scattergl(
                    x=one.points[mine, 0].round(3), y=one.points[mine, 1].round(3), mode="markers", name=names[k],
                    legendgroup=names[k], showlegend=column == 1, customdata=data,
                    marker={"color": f"rgb({255 * r:.0f},{255 * g:.0f},{255 * b:.0f})", "size": 6,
                            "opacity": alpha[mine].round(2), "symbol": SYMBOLS[marker]},
                    hovertemplate="%{fullData.name}<br>step %{customdata[1]}<br>%{customdata[2]}<extra></extra>",
                ),
                row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(
        title=html.escape(title) if len(panels) > 1 else None, height=720,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font_color="#888",
        legend={"itemsizing": "constant", "font": {"size": 11}}, margin={"l": 10, "r": 10, "b": 10},
    )  # fmt: skip
    return figure


def write(panels: Sequence[Panel], title: str, file: Path) -> None:
    """`page` as one file that fetches nothing from elsewhere."""
    page(panels, title).write_html(
        file, include_plotlyjs=True, post_script=_HOVER % json.dumps(_pictures(panels)), full_html=True
    )


def _pictures(panels: Sequence[Panel]) -> dict[int, str]:
    """Thumbnails by point, of every n-th where there are many."""
    found, offset = {}, 0
    total = sum(len(one.points) for one in panels)
    every = max(1, -(-total // MOST_THUMBNAILS))
    for one in panels:
        if one.recording.frame is not None:
            for i in range(0, len(one.points), every):
                found[offset + i] = jpeg(one.recording.frame[i])
        offset += len(one.points)
    return found


def jpeg(frame: np.ndarray) -> str:
    """A frame [h, w, c] in base64."""
    out = io.BytesIO()
    Image.fromarray(rgb(frame)).save(out, "JPEG", quality=70)
    return base64.b64encode(out.getvalue()).decode()


def _wrapped(text: str, width: int = 60) -> str:
    """In lines for a small box."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(text, width))
