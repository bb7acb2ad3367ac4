"""The charts of a report; on paper of no colour, so that they suit light and dark."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from impala_mi.analysis.compare import Curve, Group, curve

COLOURS = qualitative.D3
GREY, GRID = "#888", "rgba(128,128,128,0.2)"
COLUMNS = 3
"""Of small charts in a row."""
TITLE = 24
"""Pixels that the title of a small chart takes, or a word above a line."""
LOW = -60.0
"""Below which scores are off the chart."""


def _colour(number: int) -> str:
    return str(COLOURS[number % len(COLOURS)])


def _faint(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},0.18)"


def _finish(figure: go.Figure, height: int, above: int = 4, **layout: object) -> go.Figure:
    """Colours that do on light and on dark, and little room wasted; the legend so many pixels above the charts."""
    top, bottom = 40 + above, 40
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1 + above / (height - top - bottom), "x": 0}
    figure.update_layout(
        height=height, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font_color=GREY,
        margin={"l": 50, "r": 15, "t": top, "b": bottom}, hovermode="closest", legend=legend, **layout,
    )  # fmt: skip
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
    return figure


def _add(figure: go.Figure, found: Curve, name: str, number: int, first: bool, row: int = 1, col: int = 1) -> None:
    colour, digits = _colour(number), 4
    x = found.frames.round().astype(int)
    if found.low is not None and found.high is not None:
        known = ~np.isnan(found.low)
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([x[known], x[known][::-1]]),
                y=_short(np.concatenate([found.high[known], found.low[known][::-1]]), digits),
                fill="toself", fillcolor=_faint(colour), line={"width": 0}, hoverinfo="skip", showlegend=False,
                legendgroup=name,
            ),
            row=row, col=col,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=x, y=_short(found.mean, digits), name=name, legendgroup=name, showlegend=first,
            line={"color": colour, "width": 1.8},
        ),
        row=row, col=col,
    )  # fmt: skip


def _short(values: np.ndarray, digits: int) -> list[float]:
    """So many significant digits: pages are smaller."""
    return [float(f"{v:.{digits}g}") for v in values]


def learning(groups: Sequence[Group], key: str, label: str) -> go.Figure | None:
    """One metric of all groups, means with 95 % bands; None where nobody has it."""
    figure = make_subplots(1, 1)
    for number, group in enumerate(groups):
        if (found := curve(group.runs, key)) is not None:
            _add(figure, found, html.escape(group.name), number, first=True)
    if not figure.data:
        return None
    figure.update_xaxes(title="env frames")
    figure.update_yaxes(title=label)
    return _finish(figure, 420)


def small(groups: Sequence[Group], charts: Sequence[tuple[str, str]]) -> go.Figure | None:
    """A small chart for each (title, metric) that some group has."""
    found = [(title, [curve(group.runs, key) for group in groups]) for title, key in charts]
    found = [(title, curves) for title, curves in found if any(c is not None for c in curves)]
    if not found:
        return None
    rows = -(-len(found) // COLUMNS)
    figure = make_subplots(
        rows,
        COLUMNS,
        subplot_titles=[html.escape(title) for title, _ in found],
        vertical_spacing=0.35 / max(rows, 2),
    )
    named: set[int] = set()
    for place, (_, curves) in enumerate(found):
        for number, one in enumerate(curves):
            if one is not None:
                _add(figure, one, html.escape(groups[number].name), number, number not in named, *_at(place))
                named.add(number)
        row, col = _at(place)
        figure.update_yaxes(range=_span([one for one in curves if one is not None]), row=row, col=col)
    figure.update_annotations(font_size=12)
    return _finish(figure, 90 + 210 * rows, above=TITLE)


def _span(curves: Sequence[Curve]) -> list[float]:
    """Of the means and of as much of the bands: those of two runs may be wide, and would leave the curves flat."""
    means = np.concatenate([one.mean for one in curves])
    ends = [means, *(end for one in curves for end in (one.low, one.high) if end is not None)]
    low, high = float(means.min()), float(means.max())
    room = high - low
    if room < 1e-3 * abs(high) or room == 0:  # Plotly would show it as 0 +- 1
        room = abs(high) / 2 or 1.0
        return [low - room, high + room]
    outer, edge = np.concatenate(ends), 0.05 * room
    return [max(float(np.nanmin(outer)), low - room) - edge, min(float(np.nanmax(outer)), high + room) + edge]


def _at(place: int) -> tuple[int, int]:
    return place // COLUMNS + 1, place % COLUMNS + 1


def bars(groups: Sequence[Group], known: Mapping[str, Mapping[str, float]]) -> go.Figure | None:
    """Normalised score of each level, averaged over a group's runs: 0 random, 100 reference.

    Args:
        groups: of runs.
        known: scores of the levels by a run's path.
    """
    figure, levels, ends = go.Figure(), dict[str, None](), [0.0, 105.0]
    for number, group in enumerate(groups):
        rows = [known[run.path] for run in group.runs if run.path in known]
        if not rows:
            continue
        mine = list(dict.fromkeys(level for row in rows for level in row))
        levels |= dict.fromkeys(mine)
        values = [np.array([row[level] for row in rows if level in row]) for level in mine]
        mean, low, high = (np.array([f(v) for v in values]) for f in (np.mean, np.min, np.max))
        ends += [*low, *high]
        spread = {
            "type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "color": GREY,
            "thickness": 1, "width": 2,
        }  # fmt: skip
        figure.add_trace(
            go.Bar(
                y=[html.escape(level) for level in mine], x=_short(mean, 4), name=html.escape(group.name),
                orientation="h", marker_color=_colour(number), error_x=spread if len(rows) > 1 else None,
            )
        )  # fmt: skip
    if not figure.data:
        return None
    for x, text in ((0, "random"), (100, "reference")):
        figure.add_vline(
            x, line={"color": GREY, "width": 1, "dash": "dot"}, annotation_text=text, annotation_position="top"
        )
    figure.update_yaxes(autorange="reversed", automargin=True)
    # One level far below random play would leave no room for the others.
    figure.update_xaxes(title="normalised score", range=[max(LOW, 1.05 * min(ends)), 1.05 * max(ends)])
    return _finish(
        figure, 140 + 10 * len(levels) + 14 * len(levels) * len(figure.data), above=TITLE, barmode="group"
    )
