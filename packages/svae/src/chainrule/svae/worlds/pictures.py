"""Pictures of films, by Pillow: `pip install chainrule-svae[pictures]`.

write_film(path, panels)      films of lines of pixels as one PNG: time to the right, panel under panel
write_gif(path, panels)       films of square frames as one moving GIF: panel beside panel

Both mark where observation stops: by a red line, and by a red frame around what follows.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike
from PIL import Image, ImageDraw

RED = (214, 39, 40)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
MARGIN = 4  # between panels, in pixels of the picture
CAPTION = 12  # height of a line of text, likewise


def write_film(
    path: str | Path,
    panels: Mapping[str, ArrayLike],
    *,
    observed: int | None = None,
    scale: int = 4,
) -> Path:
    """Films of lines of pixels as matrices: time runs to the right, dark is bright.

    Args:
        path: of a PNG.
        panels: for each caption, such as data or mean, a film (frames, pixels): brightness from 0 to 1.
            All have one length.
        observed: how many frames were seen; a red line stands behind them.
        scale: pixels of the picture for each of the film.

    Returns:
        The path.

    Raises:
        ValueError: for panels that are none, not matrices, or of different lengths.
    """
    films = _checked("write_film", panels, 2)
    frames = next(iter(films.values())).shape[0]
    heights = [CAPTION + scale * film.shape[1] + MARGIN for film in films.values()]
    picture = Image.new("RGB", (scale * frames + 2 * MARGIN, sum(heights) + MARGIN), WHITE)
    draw, top = ImageDraw.Draw(picture), MARGIN
    for (caption, film), height in zip(films.items(), heights, strict=True):
        draw.text((MARGIN, top), caption, fill=BLACK)
        picture.paste(_grey(1 - film.T, scale), (MARGIN, top + CAPTION))
        bottom = top + height - MARGIN
        draw.rectangle((MARGIN - 1, top + CAPTION - 1, MARGIN + scale * frames, bottom), outline=BLACK)
        if observed is not None:
            across = MARGIN + scale * observed
            draw.line((across, top + CAPTION, across, bottom), fill=RED, width=2)
        top += height
    picture.save(path)
    return Path(path)


def write_gif(
    path: str | Path,
    panels: Mapping[str, ArrayLike],
    *,
    observed: int | ArrayLike | None = None,
    scale: int = 4,
    frames_per_second: float = 10.0,
) -> Path:
    """Films of frames side by side, moving for ever.

    Args:
        path: of a GIF.
        panels: for each caption a film (frames, down, across): brightness from 0 to 1. All have one length.
        observed: how many frames were seen, or for each whether it was; the others have a red frame.
        scale: pixels of the picture for each of the film.
        frames_per_second: how fast it moves.

    Returns:
        The path.

    Raises:
        ValueError: for panels that are none, not films of frames, or of different lengths.
    """
    films = _checked("write_gif", panels, 3)
    frames = next(iter(films.values())).shape[0]
    widths = [scale * film.shape[2] + MARGIN for film in films.values()]
    height = CAPTION + scale * max(film.shape[1] for film in films.values()) + 2 * MARGIN
    seen = np.arange(frames) < observed if isinstance(observed, int) else np.asarray(observed)
    pictures = []
    for t in range(frames):
        picture = Image.new("RGB", (sum(widths) + MARGIN, height), WHITE)
        draw, left = ImageDraw.Draw(picture), MARGIN
        colour = BLACK if observed is None or seen[t] else RED
        for (caption, film), width in zip(films.items(), widths, strict=True):
            draw.text((left, 0), caption, fill=BLACK)
            picture.paste(_grey(film[t], scale), (left, CAPTION + MARGIN))
            box = (
                left - 1,
                CAPTION + MARGIN - 1,
                left + width - MARGIN,
                CAPTION + MARGIN + scale * film.shape[1],
            )
            draw.rectangle(box, outline=colour, width=2)
            left += width
        pictures.append(picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    milliseconds = round(1000 / frames_per_second)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return Path(path)


def _grey(frame, scale):
    levels = np.clip(np.nan_to_num(frame, nan=0.5) * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(np.repeat(levels, scale, 0), scale, 1)).convert("RGB")


def _checked(caller, panels, rank):
    films = {caption: np.asarray(film) for caption, film in panels.items()}
    shapes = {caption: film.shape for caption, film in films.items()}
    if not films or any(len(s) != rank for s in shapes.values()) or len({s[0] for s in shapes.values()}) > 1:
        raise ValueError(
            f"{caller}: panels must be films with {rank - 1} axes beside time, of one length, got {shapes}"
        )
    return films
