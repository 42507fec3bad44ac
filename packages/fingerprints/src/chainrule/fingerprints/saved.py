"""A trained model as a folder: everything that another process needs to predict the same.

One can
- keep a model with what it predicts and how well it did (`save_model`),
- get it back (`load_model` -> `SavedModel`) and ask it for predictions or fingerprints.

`model.json` holds the architecture, the version of the featuriser, the names of the targets and the
metrics; `weights/` the weights and the scale of the targets (written by orbax).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from chainrule.fingerprints.configs import ModelConfig
from chainrule.fingerprints.model import Ensemble, PropertyModel, members_of, size_of
from chainrule.fingerprints.molecules import FEATURIZER_VERSION, Molecules
from chainrule.fingerprints.prediction import predict
from chainrule.fingerprints.whole_files import as_json, write_whole

FORMAT = 1  # of the folder


@dataclass(frozen=True)
class SavedModel:
    """A model and what its answers are."""

    model: PropertyModel | Ensemble
    targets: tuple[str, ...]  # a name for every column of the answers
    units: str  # of the targets; '' if unknown
    metrics: dict[str, Any]  # how it did where it was tested, as given to `save_model`; None for NaN

    @property
    def task(self) -> str:
        return self.model.task

    @property
    def members(self) -> int:
        return size_of(self.model)

    def predict(self, molecules: Molecules) -> Float[np.ndarray, "rows ..."]:
        """See `predict`."""
        return predict(self.model, molecules)

    def fingerprint(self, molecules: Molecules) -> Float[np.ndarray, "rows length"]:
        """Neural fingerprints; of an ensemble those of all members side by side."""
        parts = [predict(model.fingerprint, molecules) for model in members_of(self.model)]
        return np.concatenate(parts, axis=1)


def save_model(
    folder: str | Path,
    model: PropertyModel | Ensemble,
    *,
    targets: Sequence[str] = ("prediction",),
    units: str = "",
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Keep a model in a folder; one that is there already is replaced. Returns the folder.

    Raises:
        ValueError: there is not one name for each target, or the folder holds something else.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).expanduser().absolute()
    one = _one(model)
    head = one.head
    if len(targets) != (head.targets or 1):
        raise ValueError(f"{len(targets)} names, {', '.join(targets)}, for {head.targets or 1} targets")
    if folder.exists() and not (folder / "model.json").exists() and any(folder.glob("weights")):
        raise ValueError(f"{folder} holds weights of something else; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "format": FORMAT,
        "featurizer_version": FEATURIZER_VERSION,
        "model": asdict(one.config),
        "columns": head.targets,
        "members": model.size if isinstance(model, Ensemble) else None,
        "targets": list(targets),
        "units": units,
        "metrics": dict(metrics or {}),
        "jax": jax.__version__,
    }
    # The description goes first and comes back last: a folder without it is no model, whenever a kill comes.
    (folder / "model.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "weights", ignore_errors=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "weights", jax.tree.leaves(nnx.state(model)))
    write_whole(folder / "model.json", as_json(about, indent=1) + "\n")
    return folder


def load_model(folder: str | Path) -> SavedModel:
    """A model that `save_model` kept.

    Raises:
        FileNotFoundError: there is none.
        ValueError: another version made it, whose molecules look different to a network, or it is damaged.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).expanduser().absolute()
    file = folder / "model.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: there is no {file}; `train --out {folder}` makes one"
        )
    wanted = {"format": FORMAT, "featurizer_version": FEATURIZER_VERSION}
    try:
        about = json.loads(file.read_text())
        found = {name: about[name] for name in wanted}
        parts = _parts(about) if found == wanted else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); train the model again") from None
    if parts is None:
        raise ValueError(f"{folder} was made with {found}, this version has {wanted}; train the model again")
    graphdef, state = parts
    leaves, structure = jax.tree.flatten(state)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(folder / "weights", leaves)
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}/weights is damaged ({error}); train the model again") from None
    model = nnx.merge(graphdef, jax.tree.unflatten(structure, restored))
    return SavedModel(model, tuple(about["targets"]), about["units"], about["metrics"])


def _one(model: PropertyModel | Ensemble) -> PropertyModel:
    """A model that says what all members are made of."""
    one = model.stacked if isinstance(model, Ensemble) else model
    if type(one) is not PropertyModel:
        raise ValueError(
            f"only a PropertyModel, or an Ensemble of them, can be kept; this is a {type(one).__name__}"
        )
    return one


def _parts(about: Mapping[str, Any]) -> tuple[nnx.GraphDef, nnx.State]:
    """A model's structure and the shapes of its weights; of these nothing is drawn."""
    config, columns, members = ModelConfig(**about["model"]), about["columns"], about["members"]
    if len(about["targets"]) != (columns or 1) or not {"units", "metrics"} <= set(about):
        raise ValueError("not one name for each target, or no units or metrics")
    one = lambda: PropertyModel(**asdict(config), targets=columns, rngs=nnx.Rngs(0))
    return nnx.split(
        nnx.eval_shape(lambda: one() if members is None else Ensemble([one() for _ in range(members)]))
    )
