"""Films of any world: a batch of them at once, from one key.

simulate(world, key, sequences, frames)   -> Films(frames, clean, states)
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax import lax
from jaxtyping import Array, Float, Key, PyTree


@runtime_checkable
class World(Protocol):
    """What `simulate` needs of a world."""

    def reset(self, key: Key[Array, ""]) -> Any:
        """A state to begin with."""
        ...

    def step(self, state: Any) -> Any:
        """The state one frame later."""
        ...

    def render(self, state: Any) -> Array:
        """What it looks like, without noise."""
        ...

    def observe(self, key: Key[Array, ""], frame: Array) -> Array:
        """What is seen of it."""
        ...


class Films(NamedTuple):
    """A batch of films."""

    frames: Float[Array, "sequences frames *pixels"]  # as seen
    clean: Float[Array, "sequences frames *pixels"]  # without noise
    states: PyTree  # of the world, with axes (sequences, frames)


def simulate(world: World, key: Key[Array, ""], sequences: int, frames: int) -> Films:
    """Films of a world, each from a reset of its own; the first frame is that of the reset.

    Args:
        world: `Dot()`, `Ball()` or any other `World`.
        key: for resets and noise.
        sequences, frames: how many films, and of what length. Both are static under `jax.jit`.

    Raises:
        ValueError: for a number below one.

    Example:
        >>> films = simulate(Dot(), jax.random.key(0), sequences=3, frames=50)
        >>> films.frames.shape, films.states.phase.shape
        ((3, 50, 20), (3, 50))
    """
    if sequences < 1 or frames < 1:
        raise ValueError(f"simulate: sequences and frames must be at least 1, got {sequences} and {frames}")

    def film(key):
        start_key, noise_key = jax.random.split(key)
        start = world.reset(start_key)
        _, states = lax.scan(lambda state, _: (world.step(state), state), start, length=frames)
        clean = jax.vmap(world.render)(states)
        return Films(jax.vmap(world.observe)(jax.random.split(noise_key, frames), clean), clean, states)

    return jax.vmap(film)(jax.random.split(key, sequences))
