"""Pictures of every page of the app for docs/app: `python -m benchmarks.screenshots [PROJECT]`, from real runs."""

from argparse import ArgumentParser
from pathlib import Path

from app.sources import discover
from sdpg.errors import UserError, entry_point
from tests.helpers.browser import CHROMIUM, app, chromium, settled

TARGET = Path(__file__).parents[1] / "docs" / "app"
RUN, STEP, GROUP, SIBLING, TOKEN = "sdpg-ufkl-0", 60, 1, 5, 5
ROLLOUT = f"run={RUN}&step={STEP}&group={GROUP}"
PAGES = {
    "overview": "/",
    "compare": f"/compare?runs=grpo-0&runs={RUN}",
    "tables": "/tables",
    "problems": "/problems",
    "rollouts": f"/rollouts?{ROLLOUT}",
    "tokens": f"/rollouts?run={RUN}&listing=tokens&scope=whole+run",
    "rollout": f"/rollout?{ROLLOUT}&sibling={SIBLING}&signal=gap&token={TOKEN}",
    "gating": f"/gating?run={RUN}",
    "diff": f"/diff?{ROLLOUT}&sibling={SIBLING}&b_sibling=6&signal=entropy",
    "sweeps": "/sweeps",
    "provenance": f"/provenance?run={RUN}",
}
WIDTH, TALLEST = 1280, 1500


def main() -> None:
    """Reads the command line and takes the pictures."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="the project whose runs are shown")
    root = parser.parse_args().root
    if CHROMIUM is None:
        raise UserError("there is no Chromium: make browser")
    if RUN not in discover(root).runs:
        raise UserError(f"{root} has no run {RUN}: make repro")
    TARGET.mkdir(parents=True, exist_ok=True)
    with app(root) as address, chromium() as browser:
        for name, path in PAGES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": 900})
            page.goto(address + path, timeout=60_000)
            settled(page)
            if page.locator("[data-testid=stException]").count():
                raise UserError(f"{name} shows an error instead of a page: {page.inner_text('body')[:300]}")
            inside = page.locator("[data-testid=stMainBlockContainer]")
            height = int(inside.evaluate("element => element.scrollHeight"))
            page.set_viewport_size({"width": WIDTH, "height": min(TALLEST, height + 40)})
            page.wait_for_timeout(2_000)
            page.screenshot(path=TARGET / f"{name}.png")
            page.close()
            print(TARGET / f"{name}.png")


if __name__ == "__main__":
    entry_point(main)
