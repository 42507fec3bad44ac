"""Molecular fingerprints on JAX: circular ones, and neural ones trained end to end.

    from chainrule.fingerprints import PropertyModel, featurize, predict, train

See the package's README for a first use, and `python -m chainrule.fingerprints --help`.
"""

from chainrule.fingerprints.batches import (
    PREDICTION_BUCKETS,
    Bucket,
    MoleculeBatch,
    collate,
    prediction_batches,
    training_buckets,
)
from chainrule.fingerprints.circular import circular_fingerprint, circular_fingerprints
from chainrule.fingerprints.datasets import Dataset, load, read_csv
from chainrule.fingerprints.model import Head, PropertyModel, predict
from chainrule.fingerprints.molecules import Molecules, featurize, morgan_fingerprints
from chainrule.fingerprints.neural import (
    Convolution,
    NeuralFingerprint,
    Weights,
    Write,
    atom_writes,
    init_weights,
    neural_fingerprint,
)
from chainrule.fingerprints.splits import Split, contiguous_folds, random_splits
from chainrule.fingerprints.training import TrainConfig, TrainingDiverged, TrainResult, train

__all__ = [
    "PREDICTION_BUCKETS",
    "Bucket",
    "Convolution",
    "Dataset",
    "Head",
    "MoleculeBatch",
    "Molecules",
    "NeuralFingerprint",
    "PropertyModel",
    "Split",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "Weights",
    "Write",
    "atom_writes",
    "circular_fingerprint",
    "circular_fingerprints",
    "collate",
    "contiguous_folds",
    "featurize",
    "init_weights",
    "load",
    "morgan_fingerprints",
    "neural_fingerprint",
    "predict",
    "prediction_batches",
    "random_splits",
    "read_csv",
    "train",
    "training_buckets",
]
