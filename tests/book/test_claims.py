"""The ledger: every claim has its cell, every verdict its form, and a false one is found."""

import dataclasses
import json
import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from figures.plots import Checked, Table

BOOK = Path(__file__).parent.parent.parent / "book"
CLAIMS = json.loads((BOOK / "claims.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ledger(beside):
    """The module beside the notebook."""
    return beside("ledger")


@pytest.fixture(scope="module")
def cells(ledger):
    return ledger.tagged_cells()


def test_every_verdict_agrees_with_its_cell(ledger, cells) -> None:
    assert ledger.problems(CLAIMS, cells) == []


def test_tags_and_claims_match(cells) -> None:
    twice = {tag for tag, found in cells.items() if len(found) != 1}
    assert not twice, f"more than one cell has the tag: {twice}"
    used = {tag for claim in CLAIMS for tag in claim["cells"]}
    assert used <= set(cells), f"no cell has the tag: {used - set(cells)}"
    assert set(cells) <= used, f"in no claim of the ledger: {set(cells) - used}"


def test_numbered_without_gaps() -> None:
    for letter in "PR":
        ids = [claim["id"] for claim in CLAIMS if claim["id"].startswith(letter)]
        assert ids == [f"{letter}{n}" for n in range(1, len(ids) + 1)]
    assert {claim["id"][0] for claim in CLAIMS} == {"P", "R"}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_form(claim: dict) -> None:
    required = {"id", "topic", "claim", "source", "cells", "verdict"}
    assert required <= set(claim) <= required | {"lines", "rule", "on", "remark"}
    where = {"P": "paper, ", "R": "report, "}[claim["id"][0]]
    assert claim["source"].startswith(where)
    verdicts = "holds|holds here only if .+|not seen here|does not hold"
    assert re.fullmatch(verdicts, claim["verdict"])
    assert claim["cells"]
    assert claim["claim"].endswith(".")


def test_every_claim_is_shown() -> None:
    """By a cell of the notebook, once."""
    book = json.loads((BOOK / "claims.ipynb").read_text(encoding="utf-8"))
    html = [
        "".join(output["data"]["text/html"])
        for cell in book["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    found = re.findall(r'<th scope="row"><b>([PR]\d+)</b>', "".join(html))
    assert found == [claim["id"] for claim in CLAIMS]


def decided(ledger, cells) -> list:
    return [
        (claim, tag)
        for claim in CLAIMS
        for tag in claim["cells"]
        if ledger.outcome(claim, ledger.lines_of(claim, cells[tag][0])) is not None
    ]


def test_most_verdicts_are_decided_by_a_rule(ledger, cells) -> None:
    by_rule = {claim["id"] for claim, _ in decided(ledger, cells)}
    assert len(by_rule) * 4 >= len(CLAIMS) * 3


def test_an_opposite_verdict_is_found(ledger, cells) -> None:
    for claim, _ in decided(ledger, cells):
        other = deepcopy(claim)
        other["verdict"] = "not seen here" if claim["verdict"].startswith("holds") else "holds"
        assert ledger.problems([other], cells), claim["id"]


def test_an_opposite_output_is_found(ledger, cells) -> None:
    turned = {"True": "False", "False": "True"}
    for claim, tag in decided(ledger, cells):
        if "number" in claim.get("rule", "") or "ends in none" in claim.get("rule", ""):
            continue
        cell = cells[tag][0]
        printed = re.sub("(True|False)$", lambda m: turned[m[0]], cell.printed, flags=re.M)
        false = {**cells, tag: [dataclasses.replace(cell, printed=printed)]}
        assert ledger.problems([claim], false), claim["id"]


def test_a_corrupted_chapter_is_found(ledger, tmp_path: Path) -> None:
    for path in BOOK.glob("*.ipynb"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "02-weight-normalization.ipynb"
    text = path.read_text(encoding="utf-8")
    right, wrong = (f"of g by hand is autograd's: {x}" for x in (True, False))
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    (found,) = ledger.problems(CLAIMS, ledger.tagged_cells(tmp_path))
    assert "claim-gradient-g" in found


def test_a_table_and_a_check_are_read_as_print(ledger, tmp_path: Path) -> None:
    """And a picture is not: what stands for it as text says nothing."""
    table = Table(("", "error"), [("plain", "−3.2"), ("weight norm", "1.5")])
    shown = [table, Checked("v grows", True, "P1")]
    data = [{"text/html": s._repr_html_(), "text/plain": repr(s)} for s in shown]
    data += [{"text/html": "<img>", "text/plain": "a figure"}]
    outputs = [{"data": {kind: [text] for kind, text in each.items()}} for each in data]
    metadata = {"tags": ["claim-a"]}
    cell = {"cell_type": "code", "source": [], "metadata": metadata, "outputs": outputs}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    [found] = ledger.tagged_cells(tmp_path)["claim-a"]
    assert found.printed == f"{table!r}\nv grows: True\n"
    claim = {"id": "P1", "lines": "^plain", "rule": "number 0 below -3"}
    assert ledger.outcome(claim, ledger.lines_of(claim, found))
    assert ledger.outcome({"id": "P1"}, ledger.lines_of({"id": "P1"}, found))


def test_a_check_leads_to_its_claim() -> None:
    book = (BOOK / "claims.ipynb").read_text(encoding="utf-8")
    assert all(f'<tr id=\\"{claim["id"]}\\">' in book for claim in CLAIMS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verdict": "probably"}, "no such verdict"),
        ({"verdict": "holds here only if "}, "no such verdict"),
        ({"cells": []}, "a verdict without a cell"),
        ({"cells": ["claim-of-nobody"]}, "0 cells have claim-of-nobody"),
        ({"lines": "never printed"}, "prints no such line"),
        ({"rule": "number 0 above 1000"}, "has "),
    ],
)
def test_problems(ledger, cells, change: dict, says: str) -> None:
    claim = next(c for c in CLAIMS if c["id"] == "R49") | change
    (found,) = ledger.problems([claim], cells)
    assert says in found


def test_unknown_rule(ledger, cells) -> None:
    with pytest.raises(ValueError, match="no such rule"):
        ledger.problems([CLAIMS[0] | {"rule": "as I like it"}], cells)
