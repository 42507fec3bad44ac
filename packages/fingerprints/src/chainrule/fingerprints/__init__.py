"""Molecular fingerprints on JAX: circular ones, and neural ones trained end to end.

    from chainrule.fingerprints import PropertyModel, featurize, predict, train

Names are imported when first used, so that `import chainrule.fingerprints` and every `--help` are
immediate. A first use is in the package's README.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chainrule.fingerprints.batches import (
        PREDICTION_BUCKETS,
        Bucket,
        MoleculeBatch,
        collate,
        prediction_batches,
        shuffled_rows,
        training_batch,
        training_buckets,
    )
    from chainrule.fingerprints.circular import (
        circular_fingerprint,
        circular_fingerprints,
        environment_hashes,
    )
    from chainrule.fingerprints.datasets import (
        Dataset,
        load,
        read_csv,
    )
    from chainrule.fingerprints.explain import (
        Feature,
        Fragment,
        atom_contributions,
        most_predictive_features,
        top_fragments,
    )
    from chainrule.fingerprints.model import (
        Ensemble,
        Head,
        PropertyModel,
    )
    from chainrule.fingerprints.molecules import (
        Molecules,
        featurize,
        morgan_fingerprints,
    )
    from chainrule.fingerprints.morgan import (
        morgan_environments,
    )
    from chainrule.fingerprints.neural import (
        Convolution,
        NeuralFingerprint,
        Weights,
        Write,
        atom_writes,
        init_weights,
        neural_fingerprint,
    )
    from chainrule.fingerprints.objective import (
        Prediction,
    )
    from chainrule.fingerprints.prediction import (
        calibrate,
        predict,
        predict_distribution,
    )
    from chainrule.fingerprints.similarity import (
        Neighbors,
        most_similar,
        pack_bits,
        tanimoto,
    )
    from chainrule.fingerprints.smiles import (
        canonical_smiles,
    )
    from chainrule.fingerprints.splits import (
        Split,
        contiguous_folds,
        random_splits,
    )
    from chainrule.fingerprints.training import (
        TrainConfig,
        TrainingDiverged,
        TrainResult,
        train,
    )

_MODULE = {  # where each public name lives
    "PREDICTION_BUCKETS": "batches",
    "Bucket": "batches",
    "MoleculeBatch": "batches",
    "collate": "batches",
    "prediction_batches": "batches",
    "shuffled_rows": "batches",
    "training_batch": "batches",
    "training_buckets": "batches",
    "circular_fingerprint": "circular",
    "circular_fingerprints": "circular",
    "environment_hashes": "circular",
    "Dataset": "datasets",
    "load": "datasets",
    "read_csv": "datasets",
    "Feature": "explain",
    "Fragment": "explain",
    "atom_contributions": "explain",
    "most_predictive_features": "explain",
    "top_fragments": "explain",
    "Ensemble": "model",
    "Head": "model",
    "PropertyModel": "model",
    "Molecules": "molecules",
    "canonical_smiles": "smiles",
    "featurize": "molecules",
    "morgan_fingerprints": "molecules",
    "Convolution": "neural",
    "NeuralFingerprint": "neural",
    "Weights": "neural",
    "Write": "neural",
    "atom_writes": "neural",
    "init_weights": "neural",
    "neural_fingerprint": "neural",
    "morgan_environments": "morgan",
    "Prediction": "objective",
    "calibrate": "prediction",
    "predict": "prediction",
    "predict_distribution": "prediction",
    "Neighbors": "similarity",
    "most_similar": "similarity",
    "pack_bits": "similarity",
    "tanimoto": "similarity",
    "Split": "splits",
    "contiguous_folds": "splits",
    "random_splits": "splits",
    "TrainConfig": "training",
    "TrainResult": "training",
    "TrainingDiverged": "training",
    "train": "training",
}
__all__ = list(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
