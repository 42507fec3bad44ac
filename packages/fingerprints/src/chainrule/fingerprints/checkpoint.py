"""The folder of a run: its settings, its metrics, and a checkpoint to go on from after a kill.

`config.json` holds the settings, `metrics.jsonl` one line per evaluation (null for NaN), `checkpoints/` the
state at the latest checkpoint, which is written whole or not at all (by orbax).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from chainrule.fingerprints.molecules import FEATURIZER_VERSION, Molecules
from chainrule.fingerprints.whole_files import as_json, write_whole


class AnotherRun(ValueError):
    """A folder holds something else than the run that was to be kept there."""

    def __init__(self, found: str, *, replaceable: bool):
        way_out = "give another run_dir" + (", or resume=False to replace it" if replaceable else "")
        super().__init__(f"{found}; {way_out}")
        self.found = found
        self.replaceable = replaceable  # whether a run that does not resume may take its place


class RunFolder:
    """Writes and reads one run. Without a path every method does nothing."""

    def __init__(self, path: str | Path | None, config: Any, params: Any, data: Sequence[Any]):
        """
        Args:
            path: the folder, made when the run starts.
            config, params, data: a frozen dataclass, the first weights, arrays or molecules; a run
                goes on only with the same settings, weights to start from, and data.
        """
        self.path = Path(path).expanduser().absolute() if path else None
        self.identity = {
            "config": dataclasses.asdict(config),
            "parameters": [list(np.shape(leaf)) for leaf in jax.tree.leaves(params)],
            "first_weights": _digest(jax.tree.leaves(params)) if path else "",
            "data": _digest(data) if path else "",
            "featurizer_version": FEATURIZER_VERSION,
        }

    def restore(self, arrays: Any) -> tuple[Any, dict[str, Any]] | None:
        """`(arrays, numbers)` as given to `save`, or None where there is no checkpoint.

        Raises:
            AnotherRun: the folder holds a run with other settings, other data or another model.
        """
        found = self._found()
        if self.path is None or found is None:
            return None
        for name, own in self.identity.items():
            if found.get(name) != own:
                difference = _difference(name, found.get(name), own)
                raise AnotherRun(f"{self.path} holds a run with {difference}", replaceable=True)
        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return None
            import orbax.checkpoint as ocp

            leaves, structure = jax.tree.flatten(arrays)
            stored = manager.restore(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardRestore(leaves), numbers=ocp.args.JsonRestore()
                ),
            )
        return jax.tree.unflatten(structure, stored["arrays"]), stored["numbers"]

    def start(self, history: Sequence[dict[str, int | float]]) -> None:
        """Make the folder hold this run and these metrics; what came after them is dropped.

        Raises:
            AnotherRun: the folder holds something else than a run.
        """
        if self.path is None:
            return
        if self.path.exists() and any(self.path.iterdir()) and self._found() is None:
            raise AnotherRun(f"{self.path} is not empty and holds no run", replaceable=False)
        if not history:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "config.json", json.dumps(self.identity, indent=1) + "\n")
        lines = "".join(as_json(metrics) + "\n" for metrics in history)
        write_whole(self.path / "metrics.jsonl", lines)

    def _found(self) -> dict[str, Any] | None:
        """The identity of the run in the folder; None where there is none."""
        if self.path is None:
            return None
        try:
            found = json.loads((self.path / "config.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return found if isinstance(found, dict) and "featurizer_version" in found else None

    def append(self, metrics: dict[str, int | float]) -> None:
        """Add a line to `metrics.jsonl`."""
        if self.path is not None:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(as_json(metrics) + "\n")

    def save(self, step: int, arrays: Any, numbers: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        if self.path is None:
            return
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            if manager.latest_step() != step:
                manager.save(
                    step,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardSave(jax.tree.leaves(arrays)),
                        numbers=ocp.args.JsonSave(numbers),
                    ),
                )

    def _manager(self):
        import orbax.checkpoint as ocp  # imported when a run is kept on disk, not before

        assert self.path is not None
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path / "checkpoints", options=options)


OTHER = {  # what a shape or a digest would not say
    "parameters": "other parameters: its model is of another make",
    "first_weights": "other first_weights: of another seed, or of another model to start from",
    "data": "other data: other rows or targets, or another split of them",
}


def _difference(name: str, found: Any, own: Any) -> str:
    if name in OTHER:
        return OTHER[name]
    if not (isinstance(found, dict) and isinstance(own, dict)):
        return f"{name} {found}, this one has {own}"
    differing = [key for key in found | own if found.get(key) != own.get(key)]
    in_words = lambda settings: ", ".join(f"{key} {settings.get(key)}" for key in differing)
    return f"{in_words(found)}, this one has {in_words(own)}"


def _digest(data: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for item in data:
        if isinstance(item, Molecules):
            digest.update(json.dumps(item.smiles).encode())
        else:
            array = np.ascontiguousarray(item)
            digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()[:24]
