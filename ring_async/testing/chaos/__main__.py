"""`python -m ring_async.testing.chaos`: thousands of faults under the virtual clock, and their table.

python -m ring_async.testing.chaos                     2,000 faults, seeds 0 to 99
python -m ring_async.testing.chaos --seed 17           the same as that seed was then, its files kept
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ring_async.chaos.table import num_doubled, table_of
from ring_async.testing.chaos.course import CourseReport, run_course

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made there
"""A disk that need not be waited for."""
NUM_SEEDS = 100
NUM_STRIKES = 20
"""Faults of one run."""


def run_seeds(seeds: range, num_strikes: int, runs: Path, num_jobs: int) -> list[CourseReport]:
    """Run every seed in a folder of its own, and say of each that failed how to see it again."""
    reports = []
    quietly = logging.disable  # what actors log while they are struck fills screens
    with ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn"), quietly) as pool:
        places = [runs / str(seed) for seed in seeds]
        for report in pool.map(run_course, seeds, itertools.repeat(num_strikes), places):
            reports.append(report)
            if not report.is_good:
                print(describe(report, num_strikes), file=sys.stderr)  # noqa: T201 - this is a command
    return reports


def describe(report: CourseReport, num_strikes: int) -> str:
    """What a seed found, and the command that finds it again."""
    seed = report.seed
    lines = [f"seed {seed} again: python -m ring_async.testing.chaos --seed {seed} --strikes {num_strikes}"]
    stuck = [one for one in report.strikes if one.recovered_s is None]
    lines += [f"  {one.fault}, {one.victims}, {one.phase}: no recovery" for one in stuck]
    lines += [f"  {rule}: {subject}: {detail}" for rule, subject, detail in report.violations[:20]]
    if report.ending:
        lines.append(f"  {report.ending}")
    return "\n".join(lines)


def summary_of(reports: list[CourseReport]) -> str:
    """The table over all seeds, and a sentence below it."""
    strikes = [strike for report in reports for strike in report.strikes]
    violations = [violation for report in reports for violation in report.violations]
    doubled = num_doubled(violations)
    lost = len(violations) - doubled
    failed = [report.seed for report in reports if not report.is_good]
    return (
        f"{table_of(strikes)}\n\n{len(strikes):,} faults in {len(reports)} runs, "
        f"{sum(report.num_versions for report in reports):,} versions and "
        f"{sum(report.num_trajectories for report in reports):,} trajectories; "
        f"lost {lost}, doubled {doubled}; seconds are virtual; seeds that failed: "
        f"{', '.join(map(str, failed)) or 'none'}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help="number of seeds")
    parser.add_argument("--strikes", type=int, default=NUM_STRIKES, help="faults of one run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds that run at once")
    options = parser.parse_args()
    if options.seed is not None:
        logging.basicConfig(level=logging.INFO)
        kept = Path(tempfile.mkdtemp(prefix="chaos-"))
        print(f"files: {kept}", file=sys.stderr)  # noqa: T201 - this is a command
        reports = [run_course(options.seed, options.strikes, kept)]
        print(describe(reports[0], options.strikes), file=sys.stderr)  # noqa: T201 - this is a command
    else:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            seeds = range(options.first, options.first + options.seeds)
            reports = run_seeds(seeds, options.strikes, Path(folder), options.jobs)
    print(summary_of(reports))  # noqa: T201 - this is a command
    return 0 if all(report.is_good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
