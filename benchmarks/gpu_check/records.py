"""Part 8: how long the records of a step with long responses take, which is work of the CPU beside an idle GPU."""

from pathlib import Path
import tempfile

from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.gpu_check.steps import build_records
from sdpg.records.schemas import read_rollouts


def check(run: Run) -> None:
    """Rows of 64 responses of 3,000 tokens."""
    count, tokens = (8, 30) if run.toy else (64, 3000)
    run.check(f"{count} responses of {tokens:,} tokens", "", lambda: timed(count, tokens))


def timed(count: int, tokens: int) -> Answer:
    """Builds, writes and reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.parquet"
        built, written = build_records(count, tokens, path)
        rows, size = read_rollouts(path).num_rows, path.stat().st_size
    rate = count * tokens / (built + written)
    values = {"build_seconds": built, "write_seconds": written, "tokens_per_second": rate, "bytes": size, "rows": rows}
    text = f"{built:.2f} s to build, {written:.2f} s to write; {rate:,.0f} tokens a second"
    return Answer(text, None if rows == count else False, values=values)
