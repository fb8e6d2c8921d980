"""What a run writes down after each step: metrics, alarms, curves, times."""

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
    """Seconds spent in named parts of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Books the time since the last lap."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


class Logbook:
    """The files metrics.csv, timing.csv and curves.csv of a run, its alarms and its progress bar.

    Args:
        state: the folder of the files.
        run: its name.
        params: the pipeline's.
        base_accuracies: of step 0, by name; the first line of the curves.
        on_step: told (step, metrics) after every step; True ends the training there.
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
        """Writes a step down and says whether it is to be the last; ``accuracy`` is empty where none was measured."""
        rings, news = self.alarms.see(step, metrics)
        metrics = metrics | rings
        for line in news:
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
