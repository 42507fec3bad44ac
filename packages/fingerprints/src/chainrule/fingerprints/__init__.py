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
    )
    from chainrule.fingerprints.circular import (
        circular_fingerprint,
        circular_fingerprints,
        environment_hashes,
    )
    from chainrule.fingerprints.configs import (
        ModelConfig,
        TrainConfig,
    )
    from chainrule.fingerprints.corpus import (
        Corpus,
        Shard,
        featurize_corpus,
        open_corpus,
    )
    from chainrule.fingerprints.datasets import (
        Dataset,
        load,
        read_csv,
    )
    from chainrule.fingerprints.environments import (
        EnvironmentBatch,
        EnvironmentBucket,
        Environments,
        collate_environments,
        distinct_environments,
    )
    from chainrule.fingerprints.explain import (
        Contributions,
        Feature,
        Fragment,
        atom_contributions,
        feature_pulls,
        most_predictive_features,
        top_fragments,
    )
    from chainrule.fingerprints.fingerprinting import (
        Circular,
        write_fingerprints,
    )
    from chainrule.fingerprints.fitting import (
        Fitted,
        assess,
        fit,
    )
    from chainrule.fingerprints.messages import (
        Linear,
        Message,
        MessageWeights,
    )
    from chainrule.fingerprints.model import (
        Ensemble,
        Head,
        PropertyModel,
    )
    from chainrule.fingerprints.molecules import (
        Molecules,
        featurize,
        load_molecules,
        morgan_fingerprints,
        save_molecules,
    )
    from chainrule.fingerprints.morgan import (
        morgan_environments,
    )
    from chainrule.fingerprints.neural import (
        Convolution,
        NeuralFingerprint,
        Weights,
        atom_writes,
        init_weights,
        neural_fingerprint,
    )
    from chainrule.fingerprints.objective import (
        Prediction,
    )
    from chainrule.fingerprints.page import (
        explain_page,
    )
    from chainrule.fingerprints.prediction import (
        calibrate,
        predict,
        predict_distribution,
    )
    from chainrule.fingerprints.ray_data import (
        featurize_dataset,
        join_rows,
        split_rows,
    )
    from chainrule.fingerprints.saved import (
        SavedModel,
        load_model,
        save_model,
    )
    from chainrule.fingerprints.similarity import (
        Neighbors,
        most_similar,
        pack_bits,
        tanimoto,
    )
    from chainrule.fingerprints.smiles import (
        canonical_smiles,
        scaffold_smiles,
    )
    from chainrule.fingerprints.splits import (
        Split,
        column_split,
        contiguous_folds,
        random_splits,
        scaffold_split,
    )
    from chainrule.fingerprints.tables import (
        Table,
        read_chunks,
        read_table,
    )
    from chainrule.fingerprints.training import (
        TrainingDiverged,
        TrainResult,
        train,
    )
    from chainrule.fingerprints.training_batches import (
        shuffled_rows,
        training_batch,
        training_buckets,
    )
    from chainrule.fingerprints.tuning import (
        Trial,
        tune,
    )

_MODULE = {  # where each public name lives
    "PREDICTION_BUCKETS": "batches",
    "Bucket": "batches",
    "MoleculeBatch": "batches",
    "collate": "batches",
    "prediction_batches": "batches",
    "circular_fingerprint": "circular",
    "circular_fingerprints": "circular",
    "environment_hashes": "circular",
    "ModelConfig": "configs",
    "TrainConfig": "configs",
    "Corpus": "corpus",
    "Shard": "corpus",
    "featurize_corpus": "corpus",
    "open_corpus": "corpus",
    "Dataset": "datasets",
    "load": "datasets",
    "read_csv": "datasets",
    "EnvironmentBatch": "environments",
    "EnvironmentBucket": "environments",
    "Environments": "environments",
    "collate_environments": "environments",
    "distinct_environments": "environments",
    "Contributions": "explain",
    "Feature": "explain",
    "feature_pulls": "explain",
    "Fragment": "explain",
    "atom_contributions": "explain",
    "most_predictive_features": "explain",
    "top_fragments": "explain",
    "Linear": "messages",
    "Message": "messages",
    "MessageWeights": "messages",
    "Ensemble": "model",
    "Head": "model",
    "PropertyModel": "model",
    "Molecules": "molecules",
    "canonical_smiles": "smiles",
    "scaffold_smiles": "smiles",
    "featurize": "molecules",
    "load_molecules": "molecules",
    "save_molecules": "molecules",
    "morgan_fingerprints": "molecules",
    "Convolution": "neural",
    "NeuralFingerprint": "neural",
    "Weights": "neural",
    "atom_writes": "neural",
    "init_weights": "neural",
    "neural_fingerprint": "neural",
    "morgan_environments": "morgan",
    "Prediction": "objective",
    "explain_page": "page",
    "calibrate": "prediction",
    "predict": "prediction",
    "predict_distribution": "prediction",
    "featurize_dataset": "ray_data",
    "join_rows": "ray_data",
    "split_rows": "ray_data",
    "SavedModel": "saved",
    "load_model": "saved",
    "save_model": "saved",
    "Neighbors": "similarity",
    "most_similar": "similarity",
    "pack_bits": "similarity",
    "tanimoto": "similarity",
    "Fitted": "fitting",
    "assess": "fitting",
    "fit": "fitting",
    "Table": "tables",
    "read_chunks": "tables",
    "read_table": "tables",
    "Circular": "fingerprinting",
    "write_fingerprints": "fingerprinting",
    "Split": "splits",
    "contiguous_folds": "splits",
    "column_split": "splits",
    "random_splits": "splits",
    "scaffold_split": "splits",
    "shuffled_rows": "training_batches",
    "training_batch": "training_batches",
    "training_buckets": "training_batches",
    "Trial": "tuning",
    "tune": "tuning",
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
