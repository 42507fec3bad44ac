"""Tables in and out: every row in its place, every cell as it stood, whatever the format; or an error that
says where."""

import gzip
import io
import os
import sys
import tracemalloc

import numpy as np
import pytest
from rdkit import Chem

from chainrule.fingerprints.archives import read_archive
from chainrule.fingerprints.outputs import output
from chainrule.fingerprints.tables import read_chunks, read_table

CELLS = {
    "id": ["1", "2", "a, b", 'a "quoted" word', "two\nlines", ""],
    "smiles": ["CCO", "not a molecule", "", " CC ", "c1ccccc1", "C[N+](C)(C)C"],
    "Schmelzpunkt, °C": ["-114.10", "1e3", "", "  ", "5.5", "NaN"],
}
FORMATS = ["csv", "tsv", "csv.gz", "tsv.gz", "parquet"]


def needs(name):
    if name.startswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs the extra [parquet]")


def write(path, columns, **settings):
    with output(path, **settings) as file:
        file.write(columns, np.ones(len(next(iter(columns.values()))), bool))


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read(tmp_path, name):
    needs(name)
    path = tmp_path / f"new folder/table.{name}"
    write(path, CELLS)
    table = read_table(path)
    assert table.columns == CELLS and list(table.columns) == list(CELLS)
    assert table.smiles_column == "smiles" and len(table) == 6
    assert table.molecules().valid.tolist() == [True, False, False, True, True, True]


@pytest.mark.parametrize("name", FORMATS)
def test_a_cell_may_have_any_end_of_a_line_in_it(tmp_path, name):
    needs(name)
    columns = {"smiles": ["C", "CC", "C", "C"], "note\r": ["\r", "a\rb", "\r\n", "\n"]}
    write(tmp_path / f"table.{name}", columns)
    assert read_table(tmp_path / f"table.{name}").columns == columns


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 6, 100])
def test_chunks_are_the_table_in_pieces(tmp_path, name, rows):
    needs(name)
    write(tmp_path / f"table.{name}", CELLS)
    chunks = list(read_chunks(tmp_path / f"table.{name}", rows=rows))
    assert [chunk.first_row for chunk in chunks if len(chunk)] == list(range(0, 6, rows))
    for column, cells in CELLS.items():
        assert [cell for chunk in chunks for cell in chunk.columns[column]] == cells


def test_a_pipe_is_read_as_a_file_is(tmp_path, monkeypatch):
    write(tmp_path / "table.tsv", CELLS)
    content = (tmp_path / "table.tsv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_table("-", format="tsv").columns == CELLS
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"smiles\nC\n")))
    assert read_table("-").smiles == ["C"]  # CSV, unless said otherwise


def test_memory_is_that_of_a_chunk(tmp_path):
    path = tmp_path / "long.csv.gz"
    write(path, {"smiles": ["C" * 50] * 50_000})
    tracemalloc.start()
    rows = sum(len(chunk) for chunk in read_chunks(path, rows=500))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 50_000 and peak < 1e6  # the cells alone take 5 MB


def test_lists_of_smiles_have_names_and_blank_lines_are_rows_but_at_the_end(tmp_path):
    path = tmp_path / "list.smi"
    path.write_text("CCO  ethyl alcohol\n\nC\tmethane \nCC\n\n\n")
    assert read_table(path).columns == {
        "smiles": ["CCO", "", "C", "CC"],
        "name": ["ethyl alcohol", "", "methane", ""],
    }
    csv = tmp_path / "list.csv"
    csv.write_text("smiles\nCCO\n\nC\n\n")
    assert read_table(csv).smiles == ["CCO", "", "C"]
    csv.write_text("smiles\n")
    assert read_table(csv).columns == {"smiles": []}


def sd_file(*smiles):
    """Records with a title and a property each; None makes one that cannot be read."""
    text = ""
    for i, one in enumerate(smiles):
        block = Chem.MolToMolBlock(Chem.MolFromSmiles(one or "C"))
        block = block if one else block.replace(" C ", " Qq")
        text += f"title {i}{block}>  <log S>  ({i})\n-{i}.50\n\n> <only {i}>\ntwo\nlines\n\n$$$$\n"
    return text


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("rows", [1, 100])
def test_sd_files_keep_every_record_and_property(tmp_path, capfd, ending, rows):
    path = tmp_path / "records.sdf.gz"
    text = sd_file("OCC", None, "C[C@H](N)C(=O)O").replace("\n", ending)
    path.write_bytes(gzip.compress(text.removesuffix(f"$$$${ending}").encode()))
    tables = list(read_chunks(path, rows=rows))
    cells = {name: [cell for table in tables for cell in table.columns[name]] for name in tables[0].columns}
    assert cells == {
        "smiles": ["CCO", "", "C[C@H](N)C(=O)O"],
        "_Name": ["title 0", "title 1", "title 2"],
        "log S": ["-0.50", "-1.50", "-2.50"],
        "only 0": ["two\nlines", "", ""],
        "only 1": ["", "two\nlines", ""],
        "only 2": ["", "", "two\nlines"],
    }
    reasons = [reason for table in tables for reason in table.molecules().reasons]
    assert reasons == ["", "this record has no structure that RDKit can read", ""]
    assert capfd.readouterr() == ("", "")


EMPTY = ("", "\n", "\n\n\n", "\n> <log S>\n1.5\n\n", Chem.MolToMolBlock(Chem.Mol()))


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_record_without_a_structure_is_a_row_with_a_reason(tmp_path, empty, place):
    records = sd_file("CCO", "CC").removesuffix("$$$$\n").split("$$$$\n")
    records.insert(place, empty)
    path = tmp_path / "records.sdf"
    path.write_text("".join(f"{record}$$$$\n" for record in records))
    table = read_table(path)
    expected = ["CCO", "CC"]
    expected.insert(place, "")
    assert table.smiles == expected
    assert table.columns["log S"][place] == ("1.5" if "log S" in empty else "")
    reasons = ["", ""]
    reasons.insert(place, "this record has no structure that RDKit can read")
    assert list(table.molecules().reasons) == reasons


def test_an_sd_file_may_have_a_property_named_smiles(tmp_path):
    path = tmp_path / "records.sdf"
    path.write_text(sd_file("CCO").replace("only 0", "smiles"))
    table = read_table(path)
    assert table.smiles == ["CCO"] and table.columns["smiles"] == ["two\nlines"]
    assert read_table(path, smiles_column="smiles").molecules().valid.tolist() == [False]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("id,SMILES", "SMILES"),
        ("Canonical SMILES,id", "Canonical SMILES"),
        ("structure,smiles", "smiles"),
        ("structure,id", "structure"),
    ],
)
def test_the_smiles_column_is_found_by_its_name(tmp_path, header, found):
    (tmp_path / "a.csv").write_text(f"{header}\nC,C\n")
    assert read_table(tmp_path / "a.csv").smiles_column == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv is empty: its first line must name the columns"),
        (b"id,y\n1,2\n", r"no column named smiles, canonical_smiles.*\(--smiles-column\); it has id, y"),
        (b"smiles,SMILES\nC,C\n", r"the columns smiles, SMILES: say which one \(--smiles-column\)"),
        (b"smiles,y,y\nC,1,2\n", r"more than one column 'y'"),
        (b'smiles,y\n"C\nC",1\nC,1,2\n', r"a\.csv, line 4: 3 cells for 2 columns \(smiles, y\)"),
        (b"smiles,y\nC,1\nCC\n", r"a\.csv, line 3: 1 cells for 2 columns"),
        (b"smiles,y\nC,1\n\nC,1\n", r"a\.csv, line 3: 1 cells for 2 columns"),
        (
            b'smiles,y\nC,1\n"CC,2\nC,3\n',
            r"a\.csv cannot be read as CSV beyond line 2 .*quote not closed",
        ),
        (b"smiles,y\nC,1\n" + b"C,1\n" * 9000 + b"\xe9,1\n", r"line 9003 has the byte 0xe9, number 36013 "),
        ("smiles\nC\n".encode("utf-16"), r"not utf-8-sig: line 1 has the byte 0xff, number 0 .*--encoding"),
    ],
)
def test_what_is_no_table_is_an_error_that_says_where(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message.replace(r"a\.csv", r"a\.csv.gz")):
        read_table(path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8", "utf-8-sig"])
def test_other_encodings_are_read_when_they_are_named(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes("smiles,n\nC,é\nCC,ö\n".encode(encoding))
    assert read_table(path, encoding=encoding).columns == {"smiles": ["C", "CC"], "n": ["é", "ö"]}


def test_other_errors_name_the_file_and_the_way_out(tmp_path):
    whole = gzip.compress(b"smiles\n" + os.urandom(1000).hex().encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-100])
    (tmp_path / "plain.csv.gz").write_bytes(b"smiles\nC\n")
    for name in ("cut.csv.gz", "plain.csv.gz"):
        with pytest.raises(ValueError, match=f"{name} is no whole gzip file"):
            read_table(tmp_path / name)
    (tmp_path / "a.csv").write_text("smiles,y\nC,1\n")
    with pytest.raises(ValueError, match=r"a\.csv has no column 'z'; it has smiles, y"):
        read_table(tmp_path / "a.csv", columns=["y", "z"])
    with pytest.raises(ValueError, match=r"encoding 'utf8000' is unknown.*--encoding"):
        read_table(tmp_path / "a.csv", encoding="utf8000")
    with pytest.raises(ValueError, match=r"a\.xls is none of \.csv, .*--format csv\|tsv"):
        read_table("a.xls")
    for name, message in (("e.smi", "a line has a SMILES"), ("e.sdf", "no record of a structure")):
        (tmp_path / name).write_text("\n")
        with pytest.raises(ValueError, match=rf"{name} is empty: .*{message}"):
            read_table(tmp_path / name)


def test_parquet_cells_become_text(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="Parquet needs the extra [parquet]")
    from pyarrow import parquet

    cells = {"smiles": ["C", None], "n": pa.array([0.1, None], pa.float32()), "list": [[1, 2], None]}
    for name in ("a.parquet", "a.pq"):
        parquet.write_table(pa.table(cells), tmp_path / name)
        table = read_table(tmp_path / name, columns=["n"])
        assert table.columns == {"smiles": ["C", ""], "n": ["0.1", ""], "list": ["[1, 2]", ""]}
    (tmp_path / "a.parquet").write_text("smiles\nC\n")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as Parquet"):
        read_table(tmp_path / "a.parquet")


def test_without_pyarrow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "chainrule.fingerprints.parquet", raising=False)
    (tmp_path / "a.parquet").write_text("")
    with pytest.raises(ModuleNotFoundError, match=r"chainrule-fingerprints\[parquet\]"):
        read_table(tmp_path / "a.parquet")


# Results: two chunks, of which row 1 has none.
RESULTS = [
    (
        {
            "id": ["a", "b,é"],
            "n": np.array([1, 2], np.int32),
            "fp": np.array([[0.1, 1 / 3], [np.nan, np.nan]], np.float32),
            "reason": ["", "no"],
        },
        np.array([True, False]),
    ),
    (
        {
            "id": ["c"],
            "n": np.array([3], np.int32),
            "fp": np.array([[1e-30, -2.0]], np.float32),
            "reason": [""],
        },
        np.array([True]),
    ),
]


def write_results(path, chunks=RESULTS, **settings):
    with output(path, **settings) as file:
        for chunk, valid in chunks:
            file.write(chunk, valid)


@pytest.mark.parametrize("name", ["csv", "tsv", "csv.gz"])
def test_text_has_a_column_for_each_number_and_nothing_where_there_is_none(tmp_path, name):
    path = tmp_path / f"out.{name}"
    write_results(path)
    content = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    expected = 'id,n,fp0,fp1,reason\na,1,0.1,0.33333334,\n"b,é",,,,no\nc,3,1e-30,-2.0,\n'
    if name == "tsv":
        expected = expected.replace('"b,é"', "b;é").replace(",", "\t").replace(";", ",")
    assert content.decode() == expected
    write_results(tmp_path / f"again.{name}")
    assert (tmp_path / f"again.{name}").read_bytes() == path.read_bytes()  # no time, no name in it


def test_parquet_has_lists_and_nulls(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs the extra [parquet]")
    from pyarrow import parquet

    write_results(tmp_path / "out.parquet")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["n"] for row in rows] == [1, None, 3] and rows[1]["fp"] is None
    assert [row["id"] for row in rows] == ["a", "b,é", "c"]
    np.testing.assert_array_equal(np.float32(rows[0]["fp"]), RESULTS[0][0]["fp"][0])


def test_archives_are_read_back_whole(tmp_path):
    write_results(tmp_path / "out.npz", settings={"radius": 2})
    columns, valid, settings = read_archive(tmp_path / "out.npz")
    assert settings == {"radius": 2} and valid.tolist() == [True, False, True]
    assert list(columns["id"]) == ["a", "b,é", "c"] and columns["id"][-2] == "b,é"
    assert list(columns["reason"]) == ["", "no", ""]
    for name in ("n", "fp"):
        expected = np.concatenate([chunk[name] for chunk, _ in RESULTS])
        np.testing.assert_array_equal(columns[name], expected)
        assert columns[name].dtype == expected.dtype
    only = [({"id": ["a"], "fp": np.ones((1, 3), np.uint8)}, np.ones(1, bool))]
    write_results(tmp_path / "out.npy", only * 2)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.ones((2, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fp": np.ones((2, 2))}, "fp has 2 rows, and there are 3"),
        ({"n": np.array(1)}, "n has no rows"),
        ({"valid": np.ones(3)}, r"valid is float64\[3\], not bool\[rows\]"),
        ({"valid": np.ones((3, 1), bool)}, r"valid is bool\[3, 1\]"),
        ({"id.ends": np.array([1, 6])}, "id has 2 rows"),
        ({"id.ends": np.array([1, 6, 4])}, "id ends at"),
        ({"id.ends": np.array([1, 6, 99])}, "id ends at"),
        ({"id.ends": np.array([1.0, 6.0, 7.0])}, "id ends at"),
        ({"id": np.ones((7, 1), np.uint8)}, "id ends at"),
        ({"settings": np.array("[]")}, "settings"),
    ],
)
def test_archives_whose_arrays_do_not_fit_together_are_refused(tmp_path, change, message):
    write_results(tmp_path / "out.npz")
    np.savez(tmp_path / "out.npz", **(dict(np.load(tmp_path / "out.npz")) | change))
    with pytest.raises(ValueError, match=rf"out\.npz is no \.npz that .*, or is damaged: .*{message}"):
        read_archive(tmp_path / "out.npz")


@pytest.mark.parametrize("name", [*FORMATS, "npz", "npy"])
def test_a_failure_leaves_what_was_there(tmp_path, name):
    needs(name)
    path = tmp_path / f"out.{name}"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), output(path) as file:
        file.write({"fp": np.ones((2, 2))}, np.ones(2, bool))
        raise KeyboardInterrupt
    assert path.read_text() == "before" and os.listdir(tmp_path) == [path.name]


def test_a_device_is_written_to_and_a_link_stays_a_link(tmp_path):
    write(os.devnull, {"smiles": ["C"]}, format="csv")
    assert not os.path.isfile(os.devnull)
    (tmp_path / "link.csv").symlink_to(tmp_path / "file.csv")
    write(tmp_path / "link.csv", {"smiles": ["C"]})
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "file.csv").read_text() == "smiles\nC\n"


@pytest.mark.parametrize("whole", [False, True])
def test_on_stdout_rows_appear_at_once_or_all_together(capfdbinary, whole):
    with output("-", whole=whole) as file:
        file.write({"smiles": ["C"]}, np.ones(1, bool))
        sys.stdout.buffer.flush()
        assert capfdbinary.readouterr().out == (b"" if whole else b"smiles\nC\n")
    assert capfdbinary.readouterr().out == (b"smiles\nC\n" if whole else b"")
    with pytest.raises(KeyboardInterrupt), output("-", whole=True) as file:
        file.write({"smiles": ["C"]}, np.ones(1, bool))
        raise KeyboardInterrupt
    assert capfdbinary.readouterr().out == b""


def test_results_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--out a\.xls: .*\.csv, \.tsv.*--output-format"):
        write("a.xls", CELLS)
    with pytest.raises(ValueError, match=r"--on-invalid drop, or write \.npz"):
        write_results(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"\.npy holds one array and here are n, fp: write \.npz"):
        write_results(tmp_path / "a.npy", RESULTS[1:])
    with pytest.raises(ValueError, match="'settings' cannot be written"):
        write(tmp_path / "a.npz", {"settings": ["x"]})
    with pytest.raises(ValueError, match="a column 'fp1', as the results have"):
        write(tmp_path / "a.csv", {"fp1": ["x"], "fp": np.ones((1, 2))})
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    (tmp_path / "no.npz").write_text("PK")
    for name in ("other.npz", "no.npz"):
        with pytest.raises(ValueError, match=rf"{name} is no \.npz that the command `fingerprint` wrote"):
            read_archive(tmp_path / name)
