"""Experiments go on to the same outcomes after a kill, and their tables say the spread."""

import json

import numpy as np
import pytest

from chainrule.core.experiments.outcomes import Outcome, Outcomes
from chainrule.core.experiments.report import averages, difference, write_report
from chainrule.core.experiments.whole_files import write_columns

IDENTITY = {"experiment": "made up", "widths": (3, 4), "rate": 0.1}


def some(folder, seeds, *, resume=False, computed=None):
    """Outcomes whose measures depend on the seed alone."""
    outcomes = Outcomes(folder, IDENTITY, resume=resume)
    for seed in seeds:

        def compute(seed=seed):
            if computed is not None:
                computed.append(seed)
            return {"loss": np.float32(1 / (seed + 3)), "curve": np.arange(seed + 1) / 7}

        outcomes.once("ours", seed, compute)
    return [*outcomes]


def test_a_killed_experiment_goes_on_to_equal_outcomes(tmp_path):
    whole = some(tmp_path / "whole", range(4))
    some(tmp_path / "killed", range(2))
    with (tmp_path / "killed/outcomes.jsonl").open("a") as file:
        file.write('{"method": "ours", "se')  # the line that the kill cut off
    computed = []
    assert some(tmp_path / "killed", range(4), resume=True, computed=computed) == whole
    assert computed == [2, 3]
    assert some(tmp_path / "killed", range(4), resume=True) == whole  # read back, bit for bit


def test_without_resume_it_begins_anew(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "fit.npz").write_text("old")
    some(tmp_path, range(2))
    computed = []
    some(tmp_path, range(2), computed=computed)
    assert computed == [0, 1]
    assert Outcomes(tmp_path, IDENTITY, resume=True).folder("state").exists()
    assert not Outcomes(tmp_path, IDENTITY).folder("state").exists()


def test_outcomes_of_other_settings_are_refused(tmp_path):
    some(tmp_path, range(2))
    with pytest.raises(ValueError, match=r"outcomes\.jsonl holds outcomes of .*0\.1.* would be of .*0\.2"):
        Outcomes(tmp_path, IDENTITY | {"rate": 0.2}, resume=True)
    (tmp_path / "outcomes.jsonl").write_text(f"{json.dumps(IDENTITY)}\nno json\n{{}}\n")
    with pytest.raises(ValueError, match=r"line 2 of .* is no JSON"):
        Outcomes(tmp_path, IDENTITY, resume=True)


PAIRED = [
    Outcome(method, seed, {"loss": 10 * seed + offset + (0.1 * seed if method == "ours" else 0)})
    for seed in range(5)
    for method, offset in (("ours", 0.0), ("theirs", 1.0))
]


def test_an_average_has_the_standard_error_of_the_mean():
    found = averages(PAIRED, "loss")["theirs"]
    values = np.array([1.0, 11, 21, 31, 41])
    assert found.mean == values.mean() and found.seeds == 5
    np.testing.assert_allclose(found.standard_error, values.std(ddof=1) / np.sqrt(5))
    assert str(found) == "21.0 ± 7.1"
    assert averages(PAIRED, "other") == {}


def test_differences_are_taken_seed_by_seed():
    """The seeds are far apart, the methods are not, and always in the same direction."""
    found = difference(PAIRED, "ours", "theirs", "loss")
    values = 0.1 * np.arange(5) - 1
    np.testing.assert_allclose(found[:2], [values.mean(), values.std(ddof=1) / np.sqrt(5)])
    assert found.apart and found.standard_error < averages(PAIRED, "loss")["ours"].standard_error / 10
    assert not difference([*PAIRED[:4]], "ours", "ours", "loss").apart
    with pytest.raises(ValueError, match="share no seed"):
        difference(PAIRED, "ours", "nobody", "loss")


def test_a_report_is_a_table_in_text_markdown_and_csv(tmp_path):
    curve = write_columns(tmp_path / "curve.csv", {"step": [0, 1], "loss (nats)": [2.5, 1.5]})
    report = write_report(
        tmp_path,
        "A title",
        [*PAIRED, Outcome("extra", 0, {"curve": [1.0]})],
        {"loss": "nats"},
        differences=[("ours", "theirs")],
        notes=["A note."],
        files=[curve],
    )
    assert {file.name for file in report.files} == {"table.md", "table.csv", "curve.csv"}
    assert (tmp_path / "table.md").read_text() == report.text + "\n"
    for row in ("loss (nats)", "| theirs", "21.0 ± 7.1", "| ours − theirs", "-0.800 ± 0.071", "A note."):
        assert row in report.text
    assert "extra" not in report.text  # it has no number to show
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == "method,measure,unit,mean,standard error,seeds" and len(lines) == 4
    assert curve.read_text() == "step,loss (nats)\n0,2.5\n1,1.5\n"
    assert not [*tmp_path.glob("*.part")]
