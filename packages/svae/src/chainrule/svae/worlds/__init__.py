"""Worlds with reset, step and render, in pure JAX.

Dot(...)                                  a blurred dot that bounces along a line of pixels
Ball(...)                                 a ball that bounces in a box, seen from above
simulate(world, key, sequences, frames)   a batch of films: Films(frames, clean, states)
pinwheel(key, ...)                        points on the arms of a wheel, and which arm

A world is a frozen dataclass of settings with

    reset(key) -> state    step(state) -> state    render(state) -> frame    observe(key, frame) -> frame

States are NamedTuples of numbers. All is jittable; `vmap` makes batches. `chainrule.svae.worlds.pictures`
draws films, with Pillow.
"""

from chainrule.svae.worlds.ball import Ball, BallState
from chainrule.svae.worlds.dot import Dot, DotState
from chainrule.svae.worlds.films import Films, World, simulate
from chainrule.svae.worlds.pinwheel import pinwheel

__all__ = ["Ball", "BallState", "Dot", "DotState", "Films", "World", "pinwheel", "simulate"]
