"""Compiled programs are dropped with the file that needed them: of all files together they take gigabytes."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _programs_are_dropped():
    yield
    jax.clear_caches()
