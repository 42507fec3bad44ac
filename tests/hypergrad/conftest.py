"""Training problems that the tests share: small networks of every kind that matters, on made-up data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax


def _normal(rng, *shape, scale=0.3):
    return rng.normal(size=shape).astype(np.float32) * np.float32(scale)


def _bias(x, b):
    return x + b.reshape((1,) * (x.ndim - b.ndim) + b.shape)


def _norm(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred
        * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        * scale.reshape((1,) * (x.ndim - 1) + (-1,))
    )


def _mlp(params, x):
    return _bias(
        jnp.tanh(_bias(x.reshape(len(x), -1) @ params["w"], params["b"])) @ params["out"], params["c"]
    )


def _conv(params, x):
    maps = lax.conv_general_dilated(x[:, None], params["kernel"], (1, 1), "SAME")
    return jax.nn.relu(maps).mean((2, 3)) @ params["out"]


def _layernorm(params, x):
    hidden = jax.nn.gelu(_norm(x.reshape(len(x), -1) @ params["w"], params["scale"]))
    return _norm(hidden, params["scale"]) @ params["out"]


def _attention(params, x):
    queries, keys, values = jnp.split(x @ params["qkv"], 3, -1)
    weights = jax.nn.softmax(jnp.einsum("bij,bkj->bik", queries, keys))
    return jnp.einsum("bik,bkj->bij", weights, values).mean(1) @ params["out"]


def _models(rng):
    n = lambda *shape: _normal(rng, *shape)
    return {
        "mlp": (_mlp, {"w": n(16, 8), "b": n(8), "out": n(8, 3), "c": n(3)}),
        "conv": (_conv, {"kernel": n(4, 1, 3, 3), "out": n(4, 3)}),
        "layernorm": (_layernorm, {"w": n(16, 8), "scale": n(8) + 1, "out": n(8, 3)}),
        "attention": (_attention, {"qkv": n(4, 12), "out": n(4, 3)}),
    }


MODELS = ["mlp", "conv", "layernorm", "attention"]


class Problem:
    """A network, data for it, and a penalty on its weights as the hyperparameter."""

    def __init__(self, name, dtype=np.float32):
        rng = np.random.default_rng(0)
        self.model, params = _models(rng)[name]
        cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)
        self.params = cast(params)
        self.data = cast({"x": _normal(rng, 40, 4, 4, scale=1), "y": _normal(rng, 40, 3, scale=1)})
        self.valid = cast({"x": _normal(rng, 20, 4, 4, scale=1), "y": _normal(rng, 20, 3, scale=1)})
        self.hyper = jnp.asarray(-4.0, dtype)

    def error(self, params, batch):
        return jnp.mean((self.model(params, batch["x"]) - batch["y"]) ** 2)

    def loss(self, params, hyper, batch, key):
        return self.error(params, batch) + jnp.exp(hyper) * sum(
            jnp.sum(w**2) for w in jax.tree.leaves(params)
        )

    def objective(self, params):
        return self.error(params, self.valid)


@pytest.fixture
def problem():
    return Problem
