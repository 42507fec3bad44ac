"""A page that shows why a model predicts what it does: one HTML file that needs nothing else.

One can
- write it (`explain_page`): every molecule with its atoms coloured by what they add to the prediction,
  and the fragments behind the features that move predictions most.

The drawings are part of the page; it has no scripts and loads nothing. It adapts to narrow screens and
to a dark theme, and every colour is also said in numbers, for a printer without any.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from chainrule.fingerprints.draw import BLUE, ORANGE, contributions_svg, fragment_svg
from chainrule.fingerprints.explain import (
    Contributions,
    Feature,
    adds_up,
    atom_contributions,
    most_predictive_features,
    surroundings,
    top_fragments,
)
from chainrule.fingerprints.model import Ensemble, PropertyModel, head_of, size_of
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.smiles import fragment_smiles

SHOWN_ATOMS = 6  # with a number beside them and a row in the table, per molecule


def explain_page(
    model: PropertyModel | Ensemble,
    molecules: Molecules,
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    quantity: str = "prediction",
    units: str = "",
    target: int = 0,
    reference: Molecules | None = None,
    max_molecules: int = 20,
    n_features: int = 2,
    n_fragments: int = 6,
) -> Path:
    """Write why a model predicts what it does for these molecules; returns the file.

    Args:
        model: one model, or an ensemble, see `atom_contributions`.
        molecules: the table to explain. Invalid rows are named with their reason.
        path: of the HTML file.
        names: of the rows; default: their numbers.
        quantity, units: what is predicted, and in what. Of a classifier the page explains the log-odds, which
            have no units.
        target: the column to explain, if the model has several.
        reference: molecules to take fragments from, such as the training set; default: `molecules`.
        max_molecules: rows that are drawn; the page says, and a warning does, if there are more.
        n_features: features shown that pull upward, and as many downward; none of a model with a hidden
            layer or several columns, whose features have no weight of their own.
        n_fragments: fragments shown of each feature.

    Raises:
        ValueError: names do not fit the rows, or a number is out of range.
    """
    if names is not None and len(names) != len(molecules):
        raise ValueError(f"names has {len(names)} entries; the table has {len(molecules)} rows")
    if max_molecules < 1:
        raise ValueError(f"max_molecules={max_molecules} must be at least 1")
    names = [f"row {row}" for row in range(len(molecules))] if names is None else list(names)
    shown = molecules.take(np.arange(min(len(molecules), max_molecules)))
    explained = atom_contributions(model, shown, target=target)
    limit = max((float(np.abs(own).max()) for own in explained.atoms if len(own)), default=0.0)
    head = head_of(model)
    if model.task == "classification":
        quantity, units = f"log-odds of {quantity}", ""
    body = [f"<h1>Why: {escape(quantity)}</h1>"]
    if len(shown) < len(molecules):
        missing = f"only the first {len(shown)} of {len(molecules)} rows are drawn (max_molecules)"
        warnings.warn(missing, stacklevel=2)
        body.append(f"<p><strong>Attention: {missing}.</strong></p>")
    body += [_how_to_read(model, explained, limit, units), "<section>"]
    body += [
        _molecule(model, shown, row, names[row], explained, limit, quantity, units)
        for row in range(len(shown))
    ]
    body.append("</section>")
    if head.hidden is None and head.targets is None:
        reference = molecules if reference is None else reference
        up, down = most_predictive_features(model, reference, n_features)
        features = top_fragments(model, reference, [*up, *down], n_fragments)
        body.append("<h2>What the fingerprint's features respond to</h2>")
        body.append(
            "<p>The features that move predictions up most, then those that move them down most. The "
            "coloured fragments are those to which a feature responds most beyond the average.</p>"
        )
        body += [_feature(model, reference, feature, units) for feature in features]
    else:
        body.append(
            "<p>Features are left out: with a hidden layer, or several columns, a feature has no weight of "
            "its own. A model trained with hidden=0 has.</p>"
        )
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGE.format(title=escape(quantity), body="\n".join(body)), encoding="utf-8")
    return path


def _how_to_read(model: PropertyModel | Ensemble, explained: Contributions, limit: float, units: str) -> str:
    if head_of(model).hidden is not None:
        how = (
            "The head is a neural net: what an atom adds is its activation times the gradient at its "
            "molecule. These do <em>not</em> add up to the prediction; what is left over is named the "
            "remainder, and where it is large the colours say little."
        )
    elif adds_up(model):
        how = (
            "The head is linear, so each prediction is exactly a base, the same for all molecules, plus what "
            "every atom adds."
        )
    else:
        how = (
            "The heads are linear, so what atoms add gives exactly the mean of the log-odds of the models. "
            "Their answer is the mean of their probabilities; what its log-odds are beyond that is named the "
            "remainder."
        )
    if size_of(model) > 1:
        how += (
            f" This is an ensemble of {size_of(model)} models: the base, and what an atom adds, are means "
            "over these."
        )
    if model.task == "classification":
        how += (
            " Of a probability p the log-odds are log(p / (1 - p)): 0 for one half, and one more makes a yes "
            "2.7 times as likely beside a no."
        )
    low, high = (_number(value, limit, units) for value in (-limit, limit))
    return f"""<p>{how} The base is {_number(explained.base, limit, units)}.</p>
<p class="scale"><span>{low}</span><span class="bar"></span><span>{high}</span></p>
<p>Orange atoms lower the prediction, blue ones raise it; the {SHOWN_ATOMS} largest have their number
beside them. Atoms are numbered from 0, in the order of the SMILES.</p>"""


def _molecule(
    model: PropertyModel | Ensemble,
    molecules: Molecules,
    row: int,
    name: str,
    explained: Contributions,
    limit: float,
    quantity: str,
    units: str,
) -> str:
    smiles, reason = molecules.smiles[row], molecules.reasons[row]
    title = f"<h3>{escape(name)}</h3><p><code>{escape(smiles)}</code></p>"
    if not molecules.valid[row]:
        return f'<article>{title}<p class="invalid">Not predicted: {escape(reason)}</p></article>'
    own = explained.atoms[row]
    largest = np.argsort(-np.abs(own), kind="stable")[:SHOWN_ATOMS].tolist()
    notes = {atom: _number(own[atom], limit) for atom in largest}
    rest = "" if adds_up(model) else f" + remainder {_number(explained.remainders[row], limit)}"
    prediction = explained.predictions[row]
    odds = ""
    if model.task == "classification":
        odds = f", a probability of {0.5 * (1 + math.tanh(prediction / 2)):.3f}"
    cells = "".join(
        f"<tr><td>{_number(own[atom], limit)}</td><td>{atom}</td>"
        f"<td><code>{escape(_around(molecules, row, atom))}</code></td></tr>"
        for atom in largest
    )
    return f"""<article>{title}
<figure>{contributions_svg(smiles, own, limit=limit, notes=notes)}</figure>
<p>{escape(quantity)}: <strong>{_number(prediction, limit, units, sign="")}</strong>{odds}
= base {_number(explained.base, limit)} + atoms {_number(own.sum(), limit)}{rest}</p>
<table><thead><tr><th>adds</th><th>atom</th><th>with its neighbours</th></tr></thead>
<tbody>{cells}</tbody></table>
{f"<p>{escape(reason)}</p>" if reason else ""}</article>"""


def _around(molecules: Molecules, row: int, atom: int) -> str:
    first = int(molecules.atom_offsets[row])
    atoms = sorted(a - first for a in surroundings(molecules, first + atom, 1))
    return fragment_smiles(molecules.smiles[row], atoms)


def _feature(model: PropertyModel | Ensemble, molecules: Molecules, feature: Feature, units: str) -> str:
    name = f"Feature {feature.index}"
    if isinstance(model, Ensemble) and model.size > 1:
        member, entry = divmod(feature.index, model.stacked.fingerprint.length)
        name += f", entry {entry} of member {member}"
    colour = BLUE if feature.pull > 0 else ORANGE
    size = abs(feature.pull)
    figures = "".join(
        f"<figure>{fragment_svg(molecules, fragment, colour=colour)}<figcaption>"
        f"<code>{escape(fragment.smiles)}</code><br>activation {fragment.activation:.2f}, "
        f"{fragment.occurrences} times</figcaption></figure>"
        for fragment in feature.fragments
    )
    return f"""<article class="feature"><h3>{name}</h3>
<p>moves the average prediction by <strong>{_number(feature.pull, size, units)}</strong>; one more of it
adds {_number(feature.weight, size, units)}</p><div class="fragments">{figures}</div></article>"""


def _number(value: float, size: float, units: str = "", *, sign: str = "+") -> str:
    """With a sign, and as many digits as tell hundredths of `size` apart."""
    decimals = max(0, 2 - math.floor(math.log10(size))) if size > 0 else 2
    return f"{value:{sign}.{decimals}f} {escape(units)}".rstrip()


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #ccc; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8e8e8; --paper: #161616; --line: #444; }} }}
body {{ margin: 0 auto; padding: 1rem; max-width: 75rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }}
section, .fragments {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
article {{ box-sizing: border-box; border: 1px solid var(--line); border-radius: .5rem; padding: 1rem;
  flex: 1 1 20rem; max-width: 100%; }}
article.feature {{ margin-bottom: 1rem; }}
.fragments figure {{ flex: 0 1 14rem; }}
h1, h2, h3 {{ line-height: 1.2; overflow-wrap: anywhere; }}
h3 {{ margin-top: 0; }}
figure {{ margin: 0; }}
figure svg {{ display: block; width: 100%; max-width: 26rem; height: auto; background: #fff; }}
code {{ overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .1rem 1rem .1rem 0; border-bottom: 1px solid var(--line); }}
.scale {{ display: flex; gap: .5rem; align-items: center; max-width: 30rem; }}
.bar {{ flex: 1; height: 1rem; border: 1px solid var(--line);
  background: linear-gradient(to right, rgb(255 184 115), #fff, rgb(140 191 255)); }}
.invalid {{ font-weight: bold; }}
@media print {{ article {{ break-inside: avoid; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
