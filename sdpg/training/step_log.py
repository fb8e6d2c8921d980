"""Writes the metrics, alarms, curves and times of each step of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
import time

import torch
from tqdm import tqdm

from sdpg.params import Params
from sdpg.records.provenance import peak_memory_bytes
from sdpg.records.watch import Watch
from sdpg.training.checkpoints import CsvLog
from sdpg.training.metrics import TIMING_COLUMNS, metric_columns


class Stopwatch:
    """The seconds spent in each named part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Adds the time since the last lap to a part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


class StepLog:
    """The files metrics.csv, timing.csv and curves.csv of a run, its alarms and its progress bar.

    Args:
        state: the folder of the files.
        run: the run's name.
        params: the pipeline's parameters.
        base_accuracies: the accuracies of step 0, by problem set; they are the first line of the curves.
        on_step: the function that is called with (step, metrics) after every step; if it returns True, training ends.
    """

    def __init__(
        self,
        state: Path,
        run: str,
        params: Params,
        base_accuracies: Mapping[str, float],
        on_step: Callable[[int, dict[str, float | None]], bool | None],
    ) -> None:
        self.run, self.on_step = run, on_step
        self.metrics = CsvLog(state / "metrics.csv", metric_columns())
        self.timing = CsvLog(state / "timing.csv", TIMING_COLUMNS)
        self.curves = CsvLog(state / "curves.csv", ["step", *base_accuracies])
        if len(self.curves.path.read_text().splitlines()) == 1:
            self.curves.append({"step": 0, **base_accuracies})
        self.alarms = Watch(self.metrics.path, params.watch)
        done = len(self.alarms.history["step"])
        self.bar = tqdm(total=params.train.steps, initial=done, desc=run, unit="step")

    def enter(
        self, step: int, metrics: dict[str, float | None], accuracy: Mapping[str, float], watch: Stopwatch
    ) -> bool:
        """Logs a step and says whether it is to be the last; ``accuracy`` is empty where none was measured."""
        alarms, lines = self.alarms.see(step, metrics)
        metrics = metrics | alarms
        for line in lines:
            tqdm.write(f"{self.run}, step {step}: {line}")
        if accuracy:
            self.curves.append({"step": step, **accuracy})
        self.metrics.append({"step": step, **metrics})
        tokens = metrics["response_tokens"] or 0.0
        self.timing.append(
            {
                "step": step,
                **{f"{part}_seconds": seconds for part, seconds in watch.seconds.items()},
                "rollout_tokens_per_second": tokens / watch.seconds["rollout"],
                "update_tokens_per_second": tokens / watch.seconds["update"],
                "peak_memory_bytes": peak_memory_bytes(),
                "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
            }
        )
        stop = self.on_step(step, {**metrics, **{f"accuracy/{name}": value for name, value in accuracy.items()}})
        self.bar.update()
        self.bar.set_postfix(reward=f"{metrics['reward']:.2f}", length=f"{metrics['length']:.0f}")
        return bool(stop)

    def close(self) -> None:
        """Ends the progress bar."""
        self.bar.close()
