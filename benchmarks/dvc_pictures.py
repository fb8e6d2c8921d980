"""Pictures of DVC's plots for docs/dvc: `python -m benchmarks.dvc_pictures PROJECT [REVISION REVISION]`.

The charts are those of `dvc plots show` or `dvc plots diff`, drawn by Vega-Lite as Streamlit ships it, so that no
network is needed.
"""

from argparse import ArgumentParser
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from urllib.error import URLError
from urllib.request import urlopen

from sdpg.errors import UserError, entry_point
from tests.helpers.browser import CHROMIUM, chromium, free_port

TARGET = Path(__file__).parents[1] / "docs" / "dvc"
PAGE = """
import json, sys
import streamlit as st
for name, chart in json.loads(open(sys.argv[1]).read()).items():
    with st.container(key=name):
        st.vega_lite_chart(chart, width="content", theme=None)
"""


def charts(project: Path, revisions: list[str]) -> dict[str, dict]:
    """Returns name → Vega-Lite chart, as DVC fills its templates."""
    command = ["dvc", "plots", *(["diff", *revisions] if revisions else ["show"]), "--json"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed in {project}: {done.stderr.strip()}")
    return {name: plot[0]["content"] for name, plot in json.loads(done.stdout)["data"].items()}


def main() -> None:
    """Reads the command line and takes the pictures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path, help="a project with reports")
    parser.add_argument("revisions", nargs="*", help="commits or experiments to overlay; otherwise the workspace")
    options = parser.parse_args()
    if CHROMIUM is None:
        raise UserError("there is no Chromium: make browser")
    found = charts(options.project, options.revisions)
    suffix = "-diff" if options.revisions else ""
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page, data, port = Path(folder) / "page.py", Path(folder) / "charts.json", free_port()
        page.write_text(PAGE, encoding="utf-8")
        data.write_text(json.dumps(found), encoding="utf-8")
        command = [sys.executable, "-m", "streamlit", "run", str(page), f"--server.port={port}",
                   "--server.headless=true", "--browser.gatherUsageStats=false", "--", str(data)]  # fmt: skip
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            with chromium() as browser:
                shown = browser.new_page(viewport={"width": 1400, "height": 1000})
                shown.goto(f"http://127.0.0.1:{port}")
                for name in found:
                    chart = shown.locator(f".st-key-{name} canvas, .st-key-{name} svg.marks").first
                    chart.wait_for(timeout=120_000)
                    chart.screenshot(path=TARGET / f"{name}{suffix}.png")
        finally:
            server.terminate()
            server.wait(10)
    print(f"{len(found)} pictures in {TARGET}")


def _wait_for(address: str) -> None:
    for _ in range(600):
        try:
            urlopen(address, timeout=1).close()
            return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise UserError("Streamlit did not start within a minute")


if __name__ == "__main__":
    entry_point(main)
