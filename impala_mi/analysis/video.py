"""Films as MP4 or GIF: the frame beside the agent's policy, value and place in the t-SNE."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from impala_mi.analysis.colours import palette
from impala_mi.analysis.film import Film, FilmStep, TsneMap
from impala_mi.analysis.recording import rgb

HEIGHT = 360
"""Height of a video in pixels."""
SIDE = 300
"""Width in pixels of the panel beside the picture."""
LINE = 15
"""Height in pixels of a line of text."""
BACKGROUND, INK, FAINT, BLUE, GREEN, RED = "#16181d", "#e8e8e8", "#7c828d", "#4c9be8", "#5fbf77", "#e0605e"
END_FRAMES = 12
"""Frames that show the return at the end."""
CURVE_STEPS = 120
"""Steps of the curves of value and reward."""


def draw_film(
    film: Film, actions: Sequence[str], names: Sequence[str], chart: TsneMap | None
) -> Iterator[np.ndarray]:
    """Draw frames [HEIGHT, W, 3] uint8 of a film; the last ones show the return.

    Args:
        film: the episode.
        actions: names of the actions.
        names: names of the levels, for the map's colours.
        chart: the map, if there is one.
    """
    base = _map(chart, names) if chart is not None else None
    values = [step.value for step in film.steps]
    span, earned = (min(values), max(values)), None
    for t, step in enumerate(film.steps):
        last = _frame(film, t, actions, base, span, earned)
        yield np.asarray(last)
        earned = step.reward or earned
    text = f"return {film.episode.return_:.4g} in {film.episode.length} steps"
    pen, wide = ImageDraw.Draw(last), last.width - SIDE
    pen.rectangle((0, HEIGHT // 2 - 18, wide, HEIGHT // 2 + 18), fill=BACKGROUND)
    pen.text((wide // 2, HEIGHT // 2), text, INK, _font(16), anchor="mm")
    for _ in range(END_FRAMES):
        yield np.asarray(last)


def write_video(frames: Iterator[np.ndarray], file: Path, fps: int) -> None:
    """Write frames as .mp4 (H.264) or .gif; the encoder comes with PyAV."""
    if file.suffix == ".gif":
        iio.imwrite(file, [frame[::2, ::2] for frame in frames], duration=1000 / fps, loop=0)
        return
    with iio.imopen(file, "w", plugin="pyav") as video:
        video.init_video_stream("libx264", fps=fps)
        for frame in frames:
            video.write_frame(frame)


def _frame(
    film: Film,
    t: int,
    actions: Sequence[str],
    base: tuple[Image.Image, np.ndarray] | None,
    values: tuple[float, float],
    earned: float | None,
) -> Image.Image:
    step = film.steps[t]
    height, width = step.frame.shape[:2]
    wide = 2 * round(HEIGHT * width / height / 2)  # encoders want even sizes
    out = Image.new("RGB", (wide + SIDE, HEIGHT), BACKGROUND)
    out.paste(Image.fromarray(rgb(step.frame)).resize((wide, HEIGHT), Image.Resampling.NEAREST), (0, 0))
    pen, x = ImageDraw.Draw(out), wide + 10
    pen.text((x, 6), film.level, INK, _font(13))
    pen.text((x, 6 + LINE), f"step {t}   entropy {step.entropy:.2f}", FAINT, _font(11))
    y = 10 + 2 * LINE
    for line in textwrap.wrap(step.instruction, 46)[:3]:
        pen.text((x, y), line, INK, _font(11))
        y += LINE
    y = _policy(pen, step, actions, x, y + 4)
    y = _curve(pen, film.steps[max(0, t + 1 - CURVE_STEPS) : t + 1], x, y + 6, values, earned)
    space = HEIGHT - y - 8
    if base is not None and step.place is not None and space > 60:
        picture, box = base
        side = min(space, SIDE - 20)
        out.paste(picture.resize((side, side)), (x, y + 4))
        px, py = x + side * _within(step.place, box)[0], y + 4 + side * _within(step.place, box)[1]
        pen.ellipse((px - 4, py - 4, px + 4, py + 4), outline="white", width=2)
    return out


def _policy(pen: ImageDraw.ImageDraw, step: FilmStep, actions: Sequence[str], left: int, y: int) -> int:
    """Draw a bar for each of the likeliest actions, the one taken in colour; return the y below."""
    likeliest = np.argsort(-step.policy, kind="stable")[:6].tolist()
    if step.action not in likeliest:
        likeliest[-1] = step.action
    for k in sorted(likeliest):
        taken = k == step.action
        pen.rectangle(
            (left + 110, y + 2, left + 110 + 160 * float(step.policy[k]), y + 11), fill=BLUE if taken else FAINT
        )
        pen.text((left, y), actions[k][:17], INK if taken else FAINT, _font(11))
        y += LINE
    return y


def _curve(
    pen: ImageDraw.ImageDraw,
    steps: Sequence[FilmStep],
    left: int,
    y: int,
    values: tuple[float, float],
    earned: float | None,
) -> int:
    """Draw the value over the last steps, and rewards as bars; return the y below."""
    height, width = 44, SIDE - 24
    pen.text((left, y), f"value {steps[-1].value:.3g}", BLUE, _font(11))
    if earned is not None:
        pen.text((left + 110, y), f"last reward {earned:.3g}", GREEN if earned > 0 else RED, _font(11))
    y += LINE + 2
    low, high = values
    span = high - low or 1.0
    pen.line((left, y + height, left + width, y + height), FAINT)
    points = []
    for i, step in enumerate(steps):
        x = left + width * i / CURVE_STEPS
        points.append((x, y + height * (1 - (step.value - low) / span)))
        if step.reward:
            tall = height * min(1.0, 0.3 + 0.7 * abs(math.tanh(step.reward)))
            pen.line((x, y + height, x, y + height - tall), GREEN if step.reward > 0 else RED)
    if len(points) > 1:
        pen.line(points, BLUE, 2)
    return y + height + 4


def _map(chart: TsneMap, names: Sequence[str]) -> tuple[Image.Image, np.ndarray]:
    """The map as a picture, and its corners [2, 2]."""
    side, looks = 2 * (SIDE - 20), palette(names)
    box = np.stack([chart.points.min(0), chart.points.max(0)])
    picture = Image.new("RGB", (side, side), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for place, level in zip(chart.points, chart.level, strict=True):
        x, y = side * _within(place, box)
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=tuple(int(255 * c) for c in looks[level][0]))
    return picture, box


def _within(place: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Position [2] in [0, 1] with a margin; y points down in pictures."""
    share = 0.03 + 0.94 * (place - box[0]) / np.maximum(box[1] - box[0], 1e-9)
    return np.array([share[0], 1 - share[1]])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that none must be installed."""
    return ImageFont.load_default(size)
