"""What holds in every test process: double precision, and no silent stretching of arrays.

Tests choose the precision of each array; with x64 off, a float64 oracle would quietly be float32. The
library itself never touches these switches, and child processes (examples, command lines) run as a
user's would.
"""

import importlib.util

if importlib.util.find_spec("jax"):  # tests/install runs where there is no jax
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
