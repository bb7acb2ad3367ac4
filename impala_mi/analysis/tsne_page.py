"""The t-SNE as a page that shows the level, the step, the instruction and the frame under the mouse."""

import base64
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from PIL import Image
from plotly.subplots import make_subplots

from impala_mi.analysis.colours import SYMBOLS, palette
from impala_mi.analysis.pages import figure_html, plain, render_page
from impala_mi.analysis.recording import rgb
from impala_mi.analysis.tsne import KINDS, Panel, opacity

MAX_THUMBNAILS = 4000
"""Thumbnails in a page, about 1.5 kB each."""
WRAP = 60
"""Characters of a line of an instruction."""


def tsne_figure(panels: Sequence[Panel], title: str) -> go.Figure:
    """Draw the maps side by side; a click on a level in the legend hides it in all of them."""
    levels = panels[0].recording.names
    names = [plain(name) for name in levels]
    titles = [f"{plain(panel.title)}<br>{panel.method} of the {KINDS[panel.kind]}" for panel in panels]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.02)
    for column, panel in enumerate(panels, 1):
        recording, offset = panel.recording, sum(len(p.points) for p in panels[: column - 1])
        alpha = opacity(recording.time)
        for k, ((r, g, b), marker) in enumerate(palette(levels)):
            steps = np.flatnonzero(recording.level == k)
            data = [(offset + int(i), int(recording.time[i]), _wrap(str(recording.instruction[i]))) for i in steps]
            figure.add_trace(
                go.Scattergl(
                    x=panel.points[steps, 0].round(3), y=panel.points[steps, 1].round(3), mode="markers",
                    name=names[k], legendgroup=names[k], showlegend=column == 1, customdata=data,
                    marker={"color": f"rgb({255 * r:.0f},{255 * g:.0f},{255 * b:.0f})", "size": 6,
                            "opacity": alpha[steps].round(2), "symbol": SYMBOLS[marker]},
                    hovertemplate="%{fullData.name}<br>step %{customdata[1]}<br>%{customdata[2]}<extra></extra>",
                ),
                row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(
        title=plain(title) if len(panels) > 1 else None, height=720,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font_color="#888",
        legend={"itemsizing": "constant", "font": {"size": 11}}, margin={"l": 10, "r": 10, "b": 10},
    )  # fmt: skip
    return figure


def write_tsne_page(panels: Sequence[Panel], title: str, file: Path) -> None:
    """Write the maps as one HTML file that fetches nothing from elsewhere."""
    figure = figure_html(tsne_figure(panels, title), div_id="tsne")
    pictures = Markup(json.dumps(_thumbnails(panels)))
    file.write_text(
        render_page("tsne.html", title=title, figure=figure, div="tsne", pictures=pictures), encoding="utf-8"
    )


def _thumbnails(panels: Sequence[Panel]) -> dict[int, str]:
    """JPEGs in base64 by point, of every n-th point if there are many."""
    pictures, offset = {}, 0
    every = max(1, -(-sum(len(panel.points) for panel in panels) // MAX_THUMBNAILS))
    for panel in panels:
        if panel.recording.frame is not None:
            for i in range(0, len(panel.points), every):
                jpeg = io.BytesIO()
                Image.fromarray(rgb(panel.recording.frame[i])).save(jpeg, "JPEG", quality=70)
                pictures[offset + i] = base64.b64encode(jpeg.getvalue()).decode()
        offset += len(panel.points)
    return pictures


def _wrap(text: str) -> str:
    return "<br>".join(plain(line) for line in textwrap.wrap(text, WRAP))
