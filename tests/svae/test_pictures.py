"""Pictures show the films that they are given, and where observation stops."""

import jax.numpy as jnp
import numpy as np
import pytest

image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install chainrule-svae[pictures]")
from chainrule.svae.worlds import pictures  # noqa: E402

RED = np.array(pictures.RED)


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def is_red(array):
    return np.abs(array - RED).max(-1) < 12


def test_a_film_is_a_matrix_with_a_line_behind_what_was_seen(tmp_path):
    film = np.random.default_rng(0).uniform(size=(30, 5))
    path = pictures.write_film(
        tmp_path / "a.png", {"data": film, "mean": jnp.zeros((30, 5))}, observed=10, scale=4
    )
    shown = pixels(image.open(path))
    top, left = pictures.MARGIN + pictures.CAPTION, pictures.MARGIN
    middles = shown[top + 2 : top + 20 : 4, left + 2 : left + 120 : 4, 0]
    np.testing.assert_allclose(middles, 255 * (1 - film.T), atol=1)
    red = np.unique(np.nonzero(is_red(shown))[1])
    assert red.size and abs(red.mean() - (left + 40)) <= 1


@pytest.mark.parametrize("observed", [4, np.arange(6) < 4], ids=["how many", "which"])
def test_a_gif_moves_and_has_a_red_frame_after_what_was_seen(tmp_path, observed):
    film = np.zeros((6, 8, 8))
    film[np.arange(6), np.arange(6), 3] = 1.0
    path = pictures.write_gif(tmp_path / "a.gif", {"data": film, "samples": film}, observed=observed, scale=5)
    with image.open(path) as gif:
        assert gif.n_frames == 6 and gif.info["loop"] == 0 and gif.info["duration"] == 100
        for t in range(6):
            gif.seek(t)
            shown = pixels(gif)
            assert is_red(shown).any() == (t >= 4)
            top, left = pictures.CAPTION + pictures.MARGIN, pictures.MARGIN
            ball = shown[top : top + 40, left : left + 40, 0][2::5, 2::5]
            np.testing.assert_allclose(ball, 255 * film[t], atol=12)


@pytest.mark.parametrize("shapes", [{}, {"a": (3, 2, 2)}, {"a": (3, 2), "b": (4, 2)}])
def test_panels_that_do_not_fit_are_refused(tmp_path, shapes):
    panels = {caption: np.zeros(shape) for caption, shape in shapes.items()}
    with pytest.raises(ValueError, match="panels must be films with 1 axes beside time, of one length"):
        pictures.write_film(tmp_path / "a.png", panels)
