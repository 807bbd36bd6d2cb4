"""Interleaved timing: contenders take turns in one process, one thread, CPU time, medians."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of CPU time of every run of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: how far to trust the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run every contender once per round, in turn, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for counted in [False] + [True] * rounds:
        for name, run in contenders.items():
            gc.collect()
            started = time.process_time()
            run()
            if counted:
                seconds[name].append(time.process_time() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
