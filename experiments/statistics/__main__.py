"""Do p-values and intervals hold what they say? Simulates all that are shown.

python -m experiments.statistics [--out DIR] [--replications N] [NAME ...]

Writes one JSON file for each simulation and tables.md. What the files already have is not drawn again.
"""

import argparse
from pathlib import Path

from experiments.statistics import coverage, level, orientation, power
from experiments.statistics.simulate import RESULTS, run, table
from pellucid.storage import write_atomically

SIMULATIONS = {s.name: s for module in (coverage, level, orientation, power) for s in module.SIMULATIONS}


def main() -> None:
    """Run what was asked for, and write the tables of everything that was ever run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*SIMULATIONS, []], help="simulations; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--replications", type=int, help="draws for each cell; by default what each simulation says")
    arguments = parser.parse_args()
    for name in arguments.names or SIMULATIONS:
        run(SIMULATIONS[name], arguments.out, replications=arguments.replications)
    tables = [
        table(simulation, run(simulation, arguments.out, replications=1))
        for simulation in SIMULATIONS.values()
        if (arguments.out / f"{simulation.name}.json").exists()
    ]
    write_atomically(arguments.out / "tables.md", "\n".join(tables).encode())


if __name__ == "__main__":
    main()
