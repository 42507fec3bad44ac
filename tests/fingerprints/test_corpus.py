"""A corpus is the table of its source in pieces, whatever happens while it is made.

This file is also the program that is killed: python test_corpus.py SOURCE FOLDER.
"""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rdkit import Chem

from chainrule.fingerprints import corpus as corpora
from chainrule.fingerprints import featurize
from chainrule.fingerprints.corpus import featurize_corpus, open_corpus
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.tables import read_table

ROWS = ["CCO", "bad", "c1ccccc1", "C", "*C", "[Na+].[Cl-]", "CC(=O)O", "", "CS(=O)(=O)C", "N"]
PATIENCE = 60  # seconds until the child must have got anywhere


def assert_same(left, right):
    for field in dataclasses.fields(Molecules):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name), strict=True)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_shards_are_the_table_of_the_source_in_pieces(tmp_path):
    whole = featurize(ROWS)
    corpus = featurize_corpus(iter(ROWS), tmp_path / "c", shard_rows=4)
    assert len(corpus) == 10 and [len(shard) for shard in corpus] == [4, 4, 2]
    for i, shard in enumerate(corpus):
        assert_same(shard, whole.take(range(4 * i, min(4 * i + 4, 10))))
    assert corpus.invalid == np.sum(~whole.valid) == 3
    assert open_corpus(tmp_path / "c") == corpus


def test_every_kind_of_file_gives_the_same_corpus(tmp_path):
    rows = [row.replace("bad", "b,d") for row in ROWS]
    smi = "\n".join(f"{row}\tname {i}" if row else "" for i, row in enumerate(rows))
    table = "\r\n".join(["id,SMILES", *(f'{i},"{row}"' for i, row in enumerate(rows))])
    (tmp_path / "a.smi").write_text(smi)
    (tmp_path / "a.csv").write_text("\ufeff" + table, encoding="utf-8")
    (tmp_path / "a.smi.gz").write_bytes(gzip.compress(smi.encode()))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(table.encode()))
    (tmp_path / "a.tsv").write_text(table.replace(",", "\t").replace("b\td", "b,d"))
    (tmp_path / "b").write_bytes(table.replace("id", "Näme").encode("latin-1"))
    expected = featurize_corpus(rows, tmp_path / "c", shard_rows=4).shards
    settings = {"b": {"format": "csv", "encoding": "latin-1", "smiles_column": "SMILES"}}
    for name in ("a.smi", "a.csv", "a.smi.gz", "a.csv.gz", "a.tsv", "b"):
        folder = tmp_path / f"c-{name}"
        corpus = featurize_corpus(tmp_path / name, folder, shard_rows=4, **settings.get(name, {}))
        assert corpus.shards == expected, name


def test_a_record_that_rdkit_cannot_draw_says_so_in_its_shard_too(tmp_path):
    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles(smiles)) for smiles in ("CCO", "C", "N")]
    blocks[1] = blocks[1].replace(" C ", " Qq")
    (tmp_path / "a.sdf").write_text("".join(f"{block}$$$$\n" for block in blocks))
    (shard,) = featurize_corpus(tmp_path / "a.sdf", tmp_path / "c")
    assert_same(shard, read_table(tmp_path / "a.sdf").molecules())
    assert shard.reasons[1] == "this record has no structure that RDKit can read"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"smiles,y\nC,1\nCC\n", r"a\.csv, line 3: 1 cells for 2 columns"),
        (b"smiles\nC\n\xe9\n", r"line 3 has the byte 0xe9"),
        (b"smiles,smiles\nC,C\n", "more than one column 'smiles'"),
        (b'smiles\nC\n"CC\n', "quote"),
        (b"id\n1\n", r"no column named smiles"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_table_makes_no_corpus(tmp_path, content, message):
    """The same errors as everywhere, and nothing is left in the way of the mended file."""
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        featurize_corpus(tmp_path / "a.csv", tmp_path / "c", shard_rows=1)
    (tmp_path / "a.csv").write_text("smiles\nC\nCC\n")
    assert len(featurize_corpus(tmp_path / "a.csv", tmp_path / "c", shard_rows=1)) == 2


def test_several_processes_write_the_same_files(tmp_path):
    told = []
    featurize_corpus(ROWS, tmp_path / "one", shard_rows=3)
    featurize_corpus(ROWS, tmp_path / "two", shard_rows=3, processes=2, log=told.append)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert [shard.file for shard in told] == [f"shard-0000{i}.npz" for i in range(4)]


def test_what_is_finished_is_kept_and_what_is_damaged_is_made_anew(tmp_path, monkeypatch):
    corpus = featurize_corpus(ROWS, tmp_path, shard_rows=4)
    before = files_of(tmp_path)
    made = []
    save = corpora.save_molecules
    monkeypatch.setattr(
        corpora, "save_molecules", lambda path, table: (made.append(path.name), save(path, table))
    )
    assert featurize_corpus(ROWS, tmp_path, shard_rows=4) == corpus and made == []
    (tmp_path / "shard-00000.npz").unlink()
    (tmp_path / "shard-00001.npz").write_bytes(before["shard-00001.npz"][:-1])
    for i in (0, 1):
        with pytest.raises(ValueError, match=f"shard-0000{i}.npz is missing or changed"):
            corpus.shard(i)
    featurize_corpus(ROWS, tmp_path, shard_rows=4)
    assert made == ["shard-00000.npz", "shard-00001.npz"] and files_of(tmp_path) == before


@pytest.mark.parametrize("other", [ROWS[1:], [*ROWS, "CC"], ROWS[:8], ROWS[:9], [*ROWS[:9], "O"]])
def test_another_source_is_refused_and_leaves_the_corpus_as_it_was(tmp_path, other):
    for rows in (ROWS, ROWS[:8]):  # the last shard not full, and full
        if other == rows:
            continue
        folder = tmp_path / str(len(rows))
        featurize_corpus(rows, folder, shard_rows=4)
        before = files_of(folder)
        with pytest.raises(ValueError, match="resume=False to replace"):
            featurize_corpus(other, folder, shard_rows=4)
        assert {name: files_of(folder)[name] for name in before} == before
        assert len(open_corpus(folder)) == len(rows)
    assert len(featurize_corpus(other, tmp_path / "10", shard_rows=4, resume=False)) == len(other)


def test_another_featuriser_or_shard_size_or_folder_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    featurize_corpus(ROWS, folder, shard_rows=4)
    with pytest.raises(ValueError, match="shard_rows 4, not 5"):
        featurize_corpus(ROWS, folder, shard_rows=5)
    monkeypatch.setattr(corpora, "FEATURIZER_VERSION", -1)
    for call in (lambda: featurize_corpus(ROWS, folder, shard_rows=4), lambda: open_corpus(folder)):
        with pytest.raises(ValueError, match="featurizer_version"):
            call()
    (tmp_path / "mine.txt").write_text("keep me")
    for resume in (True, False):
        with pytest.raises(ValueError, match="not empty and holds no corpus"):
            featurize_corpus(ROWS, tmp_path, resume=resume)
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    with pytest.raises(FileNotFoundError, match="holds no corpus"):
        open_corpus(tmp_path)
    with pytest.raises(ValueError, match="shard_rows=0"):
        featurize_corpus(ROWS, tmp_path / "d", shard_rows=0)


def test_a_corpus_of_nothing_is_a_corpus(tmp_path):
    assert len(featurize_corpus([], tmp_path / "c")) == 0
    assert list(open_corpus(tmp_path / "c")) == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_corpus_killed_by_the_system_goes_on_to_the_same_files(tmp_path, processes):
    source, part, whole = tmp_path / "a.smi", tmp_path / "part", tmp_path / "whole"
    source.write_text("\n".join(f"{'C' * (i % 9 + 1)}O {i}" for i in range(3000)))
    with subprocess.Popen([sys.executable, __file__, source, part, str(processes)]) as child:
        deadline = time.monotonic() + PATIENCE
        while not (part / "shard-00003.npz").exists():
            assert child.poll() is None and time.monotonic() < deadline, "the run ended by itself"
            time.sleep(0.001)
        child.kill()
    assert child.returncode == (-signal.SIGKILL if os.name == "posix" else 1)
    with pytest.raises(ValueError, match="is not finished"):
        open_corpus(part)
    finished = [shard["file"] for shard in json.loads((part / "manifest.json").read_text())["shards"]]
    assert 0 < len(finished) < 30
    time.sleep(0.5 * (processes > 1))  # workers end with their parent, after the shard at hand
    written = {file: (part / file).stat().st_mtime_ns for file in finished}
    featurize_corpus(source, part, shard_rows=100)
    assert written == {file: (part / file).stat().st_mtime_ns for file in finished}  # not made again
    featurize_corpus(source, whole, shard_rows=100)
    assert files_of(part) == files_of(whole)


if __name__ == "__main__":
    featurize_corpus(sys.argv[1], sys.argv[2], shard_rows=100, processes=int(sys.argv[3]))
