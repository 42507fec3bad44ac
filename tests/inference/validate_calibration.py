"""Every move with every bound, untuned, tuned and local, and both updates of the brightness: minutes, so by

    python3 noxfile.py -s validate-inference

and by no other session. What is done, and why it needs no reference, stands in conftest.py. The joint
distribution test is done in double precision, calibration by simulation in single, as users run it.
"""

import numpy as np
import pytest

from chainrule.inference.flymc import HMC, MALA, Explicit, Firefly, Implicit, RandomWalk, Slice

LEAST = 1e-3  # for all numbers of a check together
MOVES = {"RandomWalk": RandomWalk(), "MALA": MALA(), "HMC": HMC(3), "Slice": Slice()}
UPDATES = {"Implicit": Implicit(0.3), "Explicit": Explicit(0.4)}

MODELS = ["logistic", "student_t", "softmax"]
MODELS += [f"local {name}" for name in MODELS]


def every(test):
    names = pytest.mark.parametrize("name", MODELS)
    return names(pytest.mark.parametrize("move", MOVES)(pytest.mark.parametrize("update", UPDATES)(test)))


def kernel_with(move, update):
    def kernel_of(model, bound, variant):
        step_size = 0.7 * MOVES[move].first_step_size(int(np.prod(model.shape)))
        return Firefly(
            model.log_prior,
            bound,
            move=MOVES[move],
            brightness=UPDATES[update],
            step_size=step_size,
            scale=model.scale_of(bound),
        )

    return kernel_of


def kinds(name):
    return (True,) if name.startswith("local") else (False, True)


@every
def test_chains_that_alternate_with_new_data_have_the_joint_law(calibration, name, move, update):
    assert (
        min(calibration(name).geweke(kernel_with(move, update), kinds(name), chains=1000, rounds=30)) > LEAST
    )


@every
def test_the_truth_has_any_rank_among_draws_of_its_posterior(calibration, name, move, update):
    model = calibration(name, np.float32)
    assert min(model.ranks(kernel_with(move, update), kinds(name), simulations=400, thin=16)) > LEAST
