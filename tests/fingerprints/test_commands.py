"""The commands `fingerprint` and `similarity`: from file to file, every row accounted for."""

import csv
import io
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from chainrule.fingerprints import circular_fingerprints, featurize, morgan_fingerprints, pack_bits, tanimoto
from chainrule.fingerprints.__main__ import main
from chainrule.fingerprints.archives import read_archive
from chainrule.fingerprints.molecules import FEATURIZER_VERSION

SMILES = ["CCO", "C(C", "c1ccccc1", "", "CC(=O)Oc1ccccc1C(=O)O", "CCN", "F[Si-2](F)(F)(F)(F)F"]
VALID = np.array([True, False, True, False, True, True, True])  # the last one is RDKit's
LENGTH = 64


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = "".join(f"{i},{smiles},note {i}\n" for i, smiles in enumerate(SMILES))
    (tmp_path / "in.csv").write_text(f"id,smiles,note\n{rows}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def fingerprint(*arguments):
    return run("fingerprint", "in.csv", "--length", LENGTH, *arguments)


def rows_of(file):
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def numbers(rows, name="fp"):
    """The columns name0, name1 and so on; NaN where they are empty."""
    n = sum(column.startswith(name) for column in rows[0])
    return np.array([[float(row[f"{name}{i}"] or "nan") for i in range(n)] for row in rows], np.float32)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("radius", [0, 2])
def test_morgan_fingerprints_are_rdkits_row_by_row(folder, counts, radius):
    options = ["--counts"] if counts else []
    assert fingerprint("-o", "out.csv", "--radius", radius, *options) == 0
    rows = rows_of("out.csv")
    assert [row["smiles"] for row in rows] == SMILES
    assert [row["note"] for row in rows] == [f"note {i}" for i in range(len(SMILES))]
    expected = morgan_fingerprints(featurize(SMILES), radius=radius, length=LENGTH, counts=counts)
    np.testing.assert_array_equal(numbers(rows), expected)
    assert [not row["reason"] for row in rows] == VALID.tolist()
    assert rows[1]["reason"] == "RDKit cannot read 'C(C' as SMILES" and rows[3]["reason"] == "empty cell"


def test_algorithm_1_is_the_other_kind(folder):
    assert fingerprint("-o", "out.tsv", "--kind", "circular") == 0
    with open("out.tsv", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    expected = circular_fingerprints(featurize(SMILES), length=LENGTH)
    np.testing.assert_array_equal(numbers(rows), expected)
    assert "6 neighbours" in rows[-1]["reason"]  # only Morgan's can be left to RDKit


def test_arrays_are_packed_and_say_which_rows_are_there(folder):
    pa = pytest.importorskip("pyarrow.parquet", reason="Parquet needs the extra [parquet]")
    expected = pack_bits(morgan_fingerprints(featurize(SMILES), length=LENGTH)[VALID])
    for name in ("out.npz", "out.parquet"):
        assert fingerprint("-o", name) == 0
    columns, valid, settings = read_archive("out.npz")
    np.testing.assert_array_equal(columns["fingerprint"][VALID], expected)
    np.testing.assert_array_equal(valid, VALID)
    assert list(columns["smiles"]) == SMILES and columns["reason"][3] == "empty cell"
    made_with = {"kind": "morgan", "radius": 2, "length": LENGTH, "counts": False}
    assert settings == made_with | {"smiles_column": "smiles", "featurizer_version": FEATURIZER_VERSION}
    rows = pa.read_table("out.parquet").to_pylist()
    np.testing.assert_array_equal([row["fingerprint"] for row in rows if row["fingerprint"]], expected)
    assert [row["fingerprint"] is not None for row in rows] == VALID.tolist()
    assert fingerprint("-o", "out.npy", "--on-invalid", "drop") == 0
    np.testing.assert_array_equal(np.load("out.npy"), expected)


def test_what_becomes_of_invalid_rows_is_said_on_stderr(folder, capfd):
    assert fingerprint() == 0
    out, err = capfd.readouterr()
    assert len(list(csv.DictReader(io.StringIO(out)))) == 7
    assert err.splitlines() == [
        "7 rows of in.csv, 2 without a molecule (kept, with a reason)",
        "1 of them left to RDKit, the first row 6: atom 1 of 'F[Si-2](F)(F)(F)(F)F' has 6 neighbours; the "
        "fingerprint has weights for 5",
    ]
    assert fingerprint("--on-invalid", "drop") == 0
    out, err = capfd.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["smiles"] for row in rows] == [SMILES[i] for i in np.flatnonzero(VALID)]
    assert "reason" not in rows[0] and "7 rows of in.csv, 2 without a molecule (left out)" in err
    assert fingerprint("--on-invalid", "fail") == 1
    assert fingerprint("--on-invalid", "fail", "-o", "out.csv") == 1
    out, err = capfd.readouterr()
    assert out == "" and os.listdir(folder) == ["in.csv"]
    line, again = err.splitlines()
    assert line == again and line.startswith(
        "error: row 1 of in.csv (the first is row 0) has the SMILES 'C(C': RDKit cannot read 'C(C' as SMILES"
    )


def test_rows_keep_their_numbers_and_their_order_over_the_chunks(folder, capfd):
    n = 4100  # more than a chunk
    (folder / "in.csv").write_text("smiles\n" + "".join("C" * (1 + i % 7) + "\n" for i in range(n)) + "C(\n")
    assert run("fingerprint", "in.csv", "--length", 8, "-o", "out.csv") == 0
    rows = rows_of("out.csv")
    expected = morgan_fingerprints(featurize([row["smiles"] for row in rows[:7]]), length=8)
    np.testing.assert_array_equal(numbers(rows[:n]), expected[np.arange(n) % 7])
    assert len(rows) == n + 1 and rows[n]["reason"]
    assert run("fingerprint", "in.csv", "--length", 8, "--on-invalid", "fail") == 1
    out, err = capfd.readouterr()
    assert out == "" and f"row {n} of in.csv" in err


def test_a_models_fingerprints_are_written_as_they_are(folder, monkeypatch):
    answers = np.random.default_rng(0).normal(size=(len(SMILES), 3)).astype(np.float32)
    answers[~VALID] = np.nan
    saved = ModuleType("chainrule.fingerprints.saved")
    loaded = []
    saved.load_model = lambda path: loaded.append(path) or SimpleNamespace(fingerprint=lambda _: answers)
    monkeypatch.setitem(sys.modules, saved.__name__, saved)
    for out in ("out.csv", "out.npz"):
        assert run("fingerprint", "in.csv", "--model", "trained", "-o", out) == 0
    np.testing.assert_array_equal(numbers(rows_of("out.csv")), answers)
    columns, _, settings = read_archive("out.npz")
    np.testing.assert_array_equal(columns["fingerprint"], answers)
    assert settings["model"] == "trained" and [path.name for path in loaded] == ["trained"] * 2


def neighbors(file):
    rows = rows_of(file)
    return [(int(r["query"]), r["rank"], r["row"], r["smiles"], r["similarity"]) for r in rows]


@pytest.mark.parametrize("library", ["in.csv", "in.npz"])
def test_neighbors_are_the_best_of_all_similarities(folder, library):
    assert fingerprint("-o", "in.npz") == 0
    (folder / "queries.smi").write_text("OCC ethanol\nnonsense\nc1ccccc1C benzene\n")
    options = [] if library == "in.npz" else ["--length", LENGTH]
    assert run("similarity", "queries.smi", library, "-n", 3, "-o", "out.csv", *options) == 0
    there = np.flatnonzero(VALID)
    bits = lambda smiles: pack_bits(morgan_fingerprints(featurize(smiles), length=LENGTH))
    similarities = np.asarray(tanimoto(bits(["OCC", "c1ccccc1C"]), bits([SMILES[i] for i in there])))
    expected = []
    for query, row in zip((0, 2), similarities, strict=True):
        best = np.argsort(-row, kind="stable")[:3]
        for rank, i in enumerate(best, 1):
            expected.append((query, str(rank), str(there[i]), SMILES[there[i]], str(row[i])))
    assert neighbors("out.csv") == [*expected[:3], (1, "", "", "", ""), *expected[3:]]
    rows = rows_of("out.csv")
    assert (
        rows[3]["reason"] == "RDKit cannot read 'nonsense' as SMILES"
        and rows[3]["query_smiles"] == "nonsense"
    )
    assert rows[0]["smiles"] == "CCO" and float(rows[0]["similarity"]) == 1


def test_a_library_may_be_compressed_and_be_read_its_own_way(folder):
    """What is said of how QUERIES are read is not said of LIBRARY, nor the other way round."""
    assert fingerprint("-o", "in.npz.gz") == 0
    text = (folder / "in.csv").read_text().replace("smiles", "as drawn").replace("note 0", "süß")
    (folder / "library").write_bytes(text.encode("latin-1"))
    (folder / "queries").write_text("molecule\tsmiles\nCCO\tx\n")
    queries = ["queries", "--format", "tsv", "--smiles-column", "molecule"]
    library = ["--library-format", "csv", "--library-encoding", "latin-1", "--length", LENGTH]
    library += ["--library-smiles-column", "as drawn"]
    assert run("similarity", *queries, "library", *library, "-o", "one.csv") == 0
    assert run("similarity", *queries, "in.npz.gz", "-o", "two.csv") == 0
    assert neighbors("one.csv") == neighbors("two.csv") and neighbors("one.csv")[0][3] == "CCO"


def test_a_library_of_another_version_of_the_featurizer_is_refused(folder, capfd, monkeypatch):
    version = "chainrule.fingerprints.fingerprinting.FEATURIZER_VERSION"
    with monkeypatch.context() as before:
        before.setattr(version, FEATURIZER_VERSION - 1)
        assert fingerprint("-o", "old.npz") == 0
    assert run("similarity", "in.csv", "old.npz") == 1
    assert "was made with featurizer_version" in (error := capfd.readouterr().err)
    assert f"{FEATURIZER_VERSION - 1}" in error and "write it again by `fingerprint`" in error


@pytest.mark.parametrize(
    "change",
    [lambda packed: packed[:, :-1], lambda packed: packed.astype(np.int64), lambda packed: packed[:, 0]],
)
def test_a_library_of_other_fingerprints_than_its_settings_say_is_refused(folder, capfd, change):
    assert fingerprint("-o", "bits.npz") == 0
    arrays = dict(np.load("bits.npz"))
    arrays["fingerprint"] = change(arrays["fingerprint"])
    np.savez("bits.npz", **arrays)
    assert run("similarity", "in.csv", "bits.npz", "-o", "out.csv") == 1
    assert "bits.npz has fingerprints of" in (error := capfd.readouterr().err)
    assert error.rstrip().endswith("write it again by `fingerprint`")


def test_many_queries_and_many_devices_find_the_same(folder):
    (folder / "queries.smi").write_text("\n".join("C" * (1 + i % 9) + "O" for i in range(300)))
    options = ["similarity", "queries.smi", "in.csv", "-n", 100, "--length", LENGTH]  # all five there are
    assert run(*options, "-o", "one.csv") == 0
    found = neighbors("one.csv")
    assert len(found) == 300 * 5 and found[0][1:] == found[9 * 5][1:]
    eight = "--xla_force_host_platform_device_count=8"
    flags = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {eight}"}
    command = [sys.executable, "-m", "chainrule.fingerprints", *map(str, options), "-o", "-"]
    child = subprocess.run(command, env=flags, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stdout == (folder / "one.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fingerprint", "no.csv"], "No such file or directory: 'no.csv'"),
        (["fingerprint", "in.csv", "-o", "out.xls"], "--out out.xls: results are written as .csv"),
        (
            ["fingerprint", "in.csv", "--smiles-column", "x"],
            "in.csv has no column 'x'; it has id",
        ),
        (["fingerprint", "in.csv", "-o", "out.npy"], "give --on-invalid drop, or write .npz"),
        (
            ["fingerprint", "in.csv", "--model", "m", "--radius", 1, "--counts"],
            "--radius, --counts: this",
        ),
        (["fingerprint", "in.csv", "--radius", -1], "radius=-1 must be at least 0"),
        (["similarity", "in.csv", "in.csv", "-n", 0], "-n 0 must be at least 1"),
        (
            ["similarity", "in.csv", "bits.npz", "--radius", 3],
            "--radius 3: bits.npz has 2; leave it out",
        ),
        (
            ["similarity", "in.csv", "bits.npz", "--on-invalid", "fail"],
            "row 1 of bits.npz has no",
        ),
        (["similarity", "in.csv", "out.npy"], "out.npy has no SMILES; write the library as .npz"),
        (["similarity", "in.csv", "in.smiley"], "say what it is (--library-format csv|"),
        (
            ["similarity", "in.csv", "bits.npz", "--library-smiles-column", "id"],
            "--library-smiles-column id: bits.npz has its own; leave it out",
        ),
        (["similarity", "in.csv", "counts.npz"], "counts.npz has no binary circular fingerprints of SMILES"),
        (
            ["similarity", "in.csv", "bad.smi"],
            "bad.smi has no molecule to search among (1 rows, none",
        ),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(folder, capfd, arguments, message):
    assert fingerprint("-o", "bits.npz") == fingerprint("-o", "counts.npz", "--counts") == 0
    (folder / "bad.smi").write_text("nonsense")
    before = sorted(os.listdir(folder))
    capfd.readouterr()
    assert run(*arguments) == 1
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("error: ") and message in err
    assert sorted(os.listdir(folder)) == before


def test_a_tilde_that_no_shell_has_seen_is_the_home(folder, monkeypatch, capfd):
    """As in --out=~/x, which a shell leaves as it is."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "home").mkdir()
    (folder / "in.csv").rename(folder / "home" / "in.csv")
    assert run("fingerprint", "~/in.csv", "--length", 8, "--out=~/new/out.csv") == 0
    assert os.listdir(folder) == ["home"] and (folder / "home" / "new" / "out.csv").is_file()
    assert run("fingerprint", "~/in.csv", "--model=~/none") == 1
    assert run("fingerprint", "~nobody-here/in.csv") == 1
    first, second = capfd.readouterr().err.splitlines()[-2:]
    assert f"{folder}/home/none holds no model" in first
    assert second.startswith("error: ~nobody-here/in.csv: nobody's home has that name; write")


def test_whoever_has_read_enough_may_go(folder):
    (folder / "in.csv").write_text("smiles\n" + "CCO\n" * 9)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "chainrule.fingerprints", "fingerprint", "in.csv"]
    child = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert child.returncode == 141 and child.stderr == ""
