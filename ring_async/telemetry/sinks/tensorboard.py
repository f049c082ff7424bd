"""Figures for TensorBoard: `tensorboard --logdir runs/` compares all runs."""

from __future__ import annotations

from pathlib import Path


class TensorBoardSink:
    """Writes one event file into a folder. Needs the package tensorboard (extra `tensorboard`), but no TensorFlow."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))

    def log(self, figures: dict[str, float], *, policy_version: int, time_s: float) -> None:
        """See `Sink.log`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._writer.add_event(Event(step=policy_version, wall_time=time_s, summary=Summary(value=values)))

    def close(self) -> None:
        """See `Sink.close`."""
        self._writer.close()
