"""The charts of a report, on a transparent background that suits light and dark."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from impala_mi.analysis.compare import Curve, RunGroup, curve
from impala_mi.analysis.pages import plain

COLOURS = qualitative.D3
GREY, GRID = "#888", "rgba(128,128,128,0.2)"
COLUMNS = 3
"""Small charts in a row."""
TITLE = 24
"""Pixels for the title of a small chart, or for a word above a line."""
MIN_SCORE = -60.0
"""Lowest score on the axis."""


def _colour(number: int) -> str:
    return str(COLOURS[number % len(COLOURS)])


def _faint(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},0.18)"


def _finish(figure: go.Figure, height: int, above: int = 4, **layout: object) -> go.Figure:
    """Set colours for light and dark and narrow margins; the legend is `above` pixels above the charts."""
    top, bottom = 40 + above, 40
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1 + above / (height - top - bottom), "x": 0}
    figure.update_layout(
        height=height, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font_color=GREY,
        margin={"l": 50, "r": 15, "t": top, "b": bottom}, hovermode="closest", legend=legend, **layout,
    )  # fmt: skip
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
    return figure


def _add(figure: go.Figure, line: Curve, name: str, number: int, first: bool, row: int = 1, col: int = 1) -> None:
    colour, digits = _colour(number), 4
    x = line.frames.round().astype(int)
    if line.low is not None and line.high is not None:
        known = ~np.isnan(line.low)
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([x[known], x[known][::-1]]),
                y=_short(np.concatenate([line.high[known], line.low[known][::-1]]), digits),
                fill="toself", fillcolor=_faint(colour), line={"width": 0}, hoverinfo="skip", showlegend=False,
                legendgroup=name,
            ),
            row=row, col=col,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=x, y=_short(line.mean, digits), name=name, legendgroup=name, showlegend=first,
            line={"color": colour, "width": 1.8},
        ),
        row=row, col=col,
    )  # fmt: skip


def _short(values: np.ndarray, digits: int) -> list[float]:
    """Values with few significant digits, for smaller pages."""
    return [float(f"{v:.{digits}g}") for v in values]


def learning_chart(groups: Sequence[RunGroup], key: str, label: str) -> go.Figure | None:
    """Chart of one metric of all groups, means with 95 % bands; None if no group has it."""
    figure = make_subplots(1, 1)
    for number, group in enumerate(groups):
        if (line := curve(group.runs, key)) is not None:
            _add(figure, line, plain(group.name), number, first=True)
    if not figure.data:
        return None
    figure.update_xaxes(title="env frames")
    figure.update_yaxes(title=label)
    return _finish(figure, 420)


def small_charts(groups: Sequence[RunGroup], charts: Sequence[tuple[str, str]]) -> go.Figure | None:
    """A small chart for each (title, metric) that any group has; None if there is none."""
    lines = [(title, [curve(group.runs, key) for group in groups]) for title, key in charts]
    lines = [(title, curves) for title, curves in lines if any(c is not None for c in curves)]
    if not lines:
        return None
    rows = -(-len(lines) // COLUMNS)
    figure = make_subplots(
        rows,
        COLUMNS,
        subplot_titles=[plain(title) for title, _ in lines],
        vertical_spacing=0.35 / max(rows, 2),
    )
    named: set[int] = set()
    for place, (_, curves) in enumerate(lines):
        for number, line in enumerate(curves):
            if line is not None:
                _add(figure, line, plain(groups[number].name), number, number not in named, *_at(place))
                named.add(number)
        row, col = _at(place)
        figure.update_yaxes(range=_span([line for line in curves if line is not None]), row=row, col=col)
    figure.update_annotations(font_size=12)
    return _finish(figure, 90 + 210 * rows, above=TITLE)


def _span(curves: Sequence[Curve]) -> list[float]:
    """Range of the y axis: the means and part of the bands, which would flatten the curves if they are wide."""
    means = np.concatenate([line.mean for line in curves])
    ends = [means, *(end for line in curves for end in (line.low, line.high) if end is not None)]
    low, high = float(means.min()), float(means.max())
    span = high - low
    if span < 1e-3 * abs(high) or span == 0:  # Plotly would show it as 0 +- 1
        span = abs(high) / 2 or 1.0
        return [low - span, high + span]
    outer, edge = np.concatenate(ends), 0.05 * span
    return [max(float(np.nanmin(outer)), low - span) - edge, min(float(np.nanmax(outer)), high + span) + edge]


def _at(place: int) -> tuple[int, int]:
    return place // COLUMNS + 1, place % COLUMNS + 1


def score_bars(groups: Sequence[RunGroup], known: Mapping[str, Mapping[str, float]]) -> go.Figure | None:
    """Bars of the normalised score of each level, averaged over a group's runs: 0 random, 100 reference.

    Args:
        groups: groups of runs.
        known: scores of the levels by a run's path.

    Returns:
        The chart, or None if no run has scores.
    """
    figure, levels, ends = go.Figure(), dict[str, None](), [0.0, 105.0]
    for number, group in enumerate(groups):
        rows = [known[run.path] for run in group.runs if run.path in known]
        if not rows:
            continue
        own = list(dict.fromkeys(level for row in rows for level in row))
        levels |= dict.fromkeys(own)
        values = [np.array([row[level] for row in rows if level in row]) for level in own]
        mean, low, high = (np.array([f(v) for v in values]) for f in (np.mean, np.min, np.max))
        ends += [*low, *high]
        spread = {
            "type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "color": GREY,
            "thickness": 1, "width": 2,
        }  # fmt: skip
        figure.add_trace(
            go.Bar(
                y=[plain(level) for level in own], x=_short(mean, 4), name=plain(group.name),
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
    # A level far below random play would compress the others.
    figure.update_xaxes(title="normalised score", range=[max(MIN_SCORE, 1.05 * min(ends)), 1.05 * max(ends)])
    return _finish(
        figure, 140 + 10 * len(levels) + 14 * len(levels) * len(figure.data), above=TITLE, barmode="group"
    )
