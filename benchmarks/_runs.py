"""What the benchmarks share: the flag, runs that outlive an interruption, the spread, turns."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qtools.files import write_atomic
from qtools.metrics import Latency

Row = dict[str, Any]


class Setting(Protocol):
    """A row of a table, as a NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


S = TypeVar("S", bound=Setting)


def wants_to_write(description: str | None, result: Path) -> bool:
    """Return whether the command line says ``--write``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write", action="store_true", help=f"write results/{result.name}")
    return bool(parser.parse_args().write)


def is_of(row: Row, setting: Setting) -> bool:
    """Return whether a run was one of this setting."""
    return all(row[name] == value for name, value in setting._asdict().items())


def resumable(
    order: Iterable[tuple[S, int]], kept: Path, run: Callable[[S, int], Row], workers: int = 1
) -> Iterator[Row]:
    """All runs, each of a setting and a seed; those in the file ``kept`` are not done again.

    Rows come in the order asked for. With more than one worker, processes of their own do the runs
    side by side, and what is kept is in the order in which they end.
    """
    done: list[Row] = json.loads(kept.read_text()) if kept.exists() else []

    def find(setting: S, seed: int) -> Row | None:
        return next((r for r in done if r["seed"] == seed and is_of(r, setting)), None)

    def keep(row: Row) -> None:
        done.append(row)
        write_atomic(kept, json.dumps(done).encode())

    if workers == 1:
        for setting, seed in order:
            row = find(setting, seed)
            if row is None:
                keep(row := run(setting, seed))
            yield row
        return
    runs = list(order)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        left = [pool.submit(run, *one) for one in runs if find(*one) is None]
        for future in as_completed(left):
            keep(future.result())
    yield from (row for one in runs if (row := find(*one)) is not None)


def collected(rows: Iterable[Row], show: Callable[[Row], object] = dict) -> list[Row]:
    """All runs, each shown as soon as it is there."""
    found = []
    for row in rows:
        found.append(row)
        print(show(row), flush=True)
    return found


def in_turns(
    calls: Mapping[str, Callable[[], object]], runs: int, warmup: int
) -> dict[str, Latency]:
    """Seconds of each call, all taking turns, so that a busy moment slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Latency(statistics.median(s), min(s), runs) for name, s in seconds.items()}


def deviation(values: list[float]) -> float:
    """Standard deviation over the seeds, 0 for one."""
    return round(statistics.stdev(values), 3) if len(values) > 1 else 0.0
