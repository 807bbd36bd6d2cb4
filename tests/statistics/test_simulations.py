"""The simulations themselves: rates, resuming, tables."""

import json
from pathlib import Path

import numpy as np
from experiments.statistics.simulate import Claims, Settings, Simulation, run, table


def _replicate(settings: Settings, random: np.random.Generator) -> Claims:
    return {
        "below": bool(random.random() < settings["share"]),
        "never given": None,
        "several": [True, False, False],
    }


def test_rates_are_counted_once_and_kept(tmp_path: Path) -> None:
    simulation = Simulation("coins", "How often?", [{"share": 0.2}, {"share": 0.9}], _replicate, replications=400)
    rows = run(simulation, tmp_path)
    shares = [row["rates"]["below"]["hits"] / row["rates"]["below"]["claims"] for row in rows]
    np.testing.assert_allclose(shares, [0.2, 0.9], atol=0.06)
    assert rows[0]["rates"]["several"]["claims"] == 1200
    assert rows[0]["rates"]["never given"]["claims"] == 0
    kept = json.loads((tmp_path / "coins.json").read_text())
    kept[0]["rates"]["below"]["hits"] = 0
    (tmp_path / "coins.json").write_text(json.dumps(kept))
    assert run(simulation, tmp_path)[0]["rates"]["below"]["hits"] == 0
    text = table(simulation, rows)
    assert "none given" in text
    assert "33.3% (30.7% to 36.1%, 1200 claims)" in text
