"""What watching costs, as a share of a run's processor seconds: metrics, the live page with five viewers, the trace.

    make bench-monitoring          (about four minutes)

Brings `configs/local.yaml` up. The page: the controller's processor seconds with five viewers of the stream, less those
without, in intervals that take turns. Metrics and trace: the processor time of one scrape of each actor and of one
span, measured in processes of their own, times how often both happen in the run (scrapes: `monitoring.scrape_s`; as
many spans as its trace files gained). All three are divided by the processor seconds of all processes of the run
meanwhile.
Writes build/bench/monitoring.json.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bars import Bar, write_bars
from bench_control import wait_version
from ring_async.config.monitoring import MonitoringSection
from ring_async.control.client import ControlClient
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry import metrics
from ring_async.telemetry.exporter import Exporter
from ring_async.telemetry.trace import Tracer

NUM_VIEWERS = 5
SCRAPE_EVERY_S = MonitoringSection().scrape_s
NUM_SCRAPES = 200
PROMETHEUS_HEADERS = {
    "accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "accept-encoding": "gzip",
}
"""As Prometheus asks."""
WARM_UP_VERSIONS = 3
BAR = 0.01


def cpu_s(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class Viewers:
    """Reads the page's stream as browsers do, in threads."""

    def __init__(self, run_dir: RunDir, num: int) -> None:
        endpoints = run_dir.read_endpoints()
        self._url, self._headers = endpoints["api"], {"authorization": f"Bearer {endpoints['token']}"}
        self._end = threading.Event()
        self.num_bytes = 0
        self._threads = [threading.Thread(target=self._watch) for _ in range(num)]
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        with httpx.stream("GET", f"{self._url}/page/stream", headers=self._headers, timeout=60.0) as answer:
            for part in answer.iter_bytes():
                self.num_bytes += len(part)
                if self._end.is_set():
                    return

    def leave(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)


def page_share(run_dir: RunDir, processes: list[psutil.Process], *, num_turns: int, interval_s: float) -> float:
    """The page's share of the run's processor seconds: the median over pairs of intervals, without and with viewers.

    A median, because the controller's own work varies more from interval to interval than the page costs.
    """
    controller = [psutil.Process(run_dir.read_endpoints()["pid"])]
    more_s, run_s = [], []
    for turn in range(num_turns):
        spent = {}
        for num in (0, NUM_VIEWERS) if turn % 2 else (NUM_VIEWERS, 0):
            viewers = Viewers(run_dir, num)
            own, everything = cpu_s(controller), cpu_s(processes)
            time.sleep(interval_s)
            spent[num] = cpu_s(controller) - own
            run_s.append(cpu_s(processes) - everything)
            viewers.leave()
        more_s.append(spent[NUM_VIEWERS] - spent[0])
    print(
        f"controller: {statistics.median(more_s):.3f} s more in {interval_s:.0f} s with {NUM_VIEWERS} viewers; ", end=""
    )
    print(f"all: {', '.join(f'{one:.2f}' for one in more_s)}; run {statistics.median(run_s):.1f} s")
    return max(0.0, statistics.median(more_s)) / statistics.median(run_s)


def serve_series(role: str, series: list[tuple[str, dict[str, str]]], pipe: Connection) -> None:
    """Serve a role's metrics with the series of a run until the pipe says otherwise."""
    for name, labels in series:
        metric = metrics.REGISTRY._names_to_collectors.get(name)
        if labels and metric is not None and hasattr(metric, "labels"):
            with contextlib.suppress(ValueError):  # the parts of a histogram have a label of their own
                metric.labels(**labels)
    with Exporter(role) as exporter:
        pipe.send(exporter.endpoint)
        pipe.recv()


def scrape_s(client: ControlClient) -> dict[str, float]:
    """Processor seconds of one scrape of each actor: socket, request and answer included.

    Measured in processes that do nothing else, with the series that the run's actors serve now.
    """
    spawn = multiprocessing.get_context("spawn")
    each_s = {}
    for target in client.get("/v1/discovery"):
        text = httpx.get(f"http://{target['targets'][0]}/metrics").text
        series = [(one.name, one.labels) for family in text_string_to_metric_families(text) for one in family.samples]
        pipe, theirs = spawn.Pipe()
        server = spawn.Process(target=serve_series, args=(target["labels"]["role"], series, theirs))
        server.start()
        endpoint, process = pipe.recv(), psutil.Process(server.pid)
        httpx.get(f"http://{endpoint}/metrics", headers=PROMETHEUS_HEADERS)
        began_s = cpu_s([process])
        for _ in range(NUM_SCRAPES):
            httpx.get(f"http://{endpoint}/metrics", headers=PROMETHEUS_HEADERS)
        each_s[target["labels"]["actor"]] = (cpu_s([process]) - began_s) / NUM_SCRAPES
        pipe.send(None)
        server.join(30)
    return each_s


def span_s(folder: Path) -> float:
    """Processor seconds of one span."""
    tracer = Tracer(folder / "trace.jsonl", "bench")
    began_s = time.process_time()
    for number in range(20_000):
        with tracer.span("work", number=number):
            pass
    tracer.close()
    return (time.process_time() - began_s) / 20_000


def num_spans(run_dir: RunDir) -> int:
    return sum(path.read_bytes().count(b"\n") for path in run_dir.trace_parts.glob("*.jsonl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--interval-s", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder) / "monitoring")
        words = ["up", "configs/local.yaml", "run.name=monitoring", f"run.dir={folder}", "stop.policy_versions=9999"]
        up = subprocess.Popen([sys.executable, "-m", "ring_async.cli.app", *words], stdout=subprocess.DEVNULL)
        try:
            client = ControlClient(run_dir, timeout_s=60.0)
            wait_version(client, WARM_UP_VERSIONS, up)
            launcher = psutil.Process(up.pid)
            actors = [psutil.Process(one["pid"]) for one in client.get("/v1/status")["actors"] if one["pid"]]
            controller = psutil.Process(run_dir.read_endpoints()["pid"])
            processes = list(
                {one.pid: one for one in (launcher, *launcher.children(recursive=True), *actors, controller)}.values()
            )
            spans, run_s, began_s = num_spans(run_dir), cpu_s(processes), time.monotonic()
            page = page_share(run_dir, processes, num_turns=options.turns, interval_s=options.interval_s)
            spans, run_s, took_s = num_spans(run_dir) - spans, cpu_s(processes) - run_s, time.monotonic() - began_s
            each_scrape_s = scrape_s(client)
            client.post("/v1/down", {"deadline_s": 20.0})
            assert up.wait(90) == 0
        finally:
            up.kill()
        each_span_s = span_s(Path(folder))
    scrapes_s = sum(each_scrape_s.values()) * took_s / SCRAPE_EVERY_S
    scrapes = ", ".join(f"{actor_id} {one_s * 1e3:.2f}" for actor_id, one_s in each_scrape_s.items())
    print(
        f"{took_s:.0f} s, {run_s:.0f} processor seconds; ms a scrape: {scrapes}; "
        f"a span {each_span_s * 1e6:.1f} µs, {spans:,} trace lines"
    )
    write_bars(
        "monitoring",
        {
            "metrics": Bar(scrapes_s / run_s, BAR, "of the run's CPU seconds", is_upper=True),
            "page": Bar(page, BAR, "of the run's CPU seconds, five viewers", is_upper=True),
            "trace": Bar(each_span_s * spans / run_s, BAR, "of the run's CPU seconds", is_upper=True),
        },
    )


if __name__ == "__main__":
    main()
