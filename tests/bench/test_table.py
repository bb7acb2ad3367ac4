import json

import pytest

from impala_mi.bench.table import BenchTable
from impala_mi.errors import UserError


def table(*speeds: float, kind: str = "learner") -> BenchTable:
    return BenchTable(kind, ("head",), [{"head": f"h{i}", "frames/s": s} for i, s in enumerate(speeds)], "frames/s")


def test_ratios_are_new_over_old_of_the_same_row(tmp_path):
    table(100.0, 50.0).save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["machine"]["cores"] >= 1
    rows = table(110.0, 25.0, 7.0).compare(tmp_path / "a.json")
    assert [row["ratio"] for row in rows] == [pytest.approx(1.1), 0.5, None]
    assert rows[0]["frames/s, before"] == 100.0


def test_what_cannot_be_compared_is_said(tmp_path):
    file = tmp_path / "a.json"
    with pytest.raises(UserError, match="cannot be read"):
        table(1.0).compare(file)
    table(1.0, kind="envs").save(file)
    with pytest.raises(UserError, match="holds `bench envs`, not `bench learner`"):
        table(1.0).compare(file)
    for text in ("nonsense", "[]", '{"kind": "learner", "rows": [{}]}'):
        file.write_text(text)
        with pytest.raises(UserError, match="was not written by"):
            table(1.0).compare(file)
    with pytest.raises(UserError, match="cannot be written"):
        table(1.0).save(tmp_path / "no" / "a.json")
