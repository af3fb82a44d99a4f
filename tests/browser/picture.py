"""Draws docs/images/dashboard.png, the training dashboard in JupyterLab in the middle of its second run.

    python tests/browser/picture.py

It needs chromium and playwright, as the browser tests do, and takes about two minutes.
"""

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from server import ROOT, chromium, jupyterlab, run_all, write_notebook
from tqdm import tqdm

TARGET = ROOT / "docs" / "images" / "dashboard.png"
STEPS = 24  # of the second run, when the picture is taken
CELL = """from sppo_lab.config import Config
from sppo_lab.widgets.training import Training

dashboard = Training(Config(steps=40, eval_samples=1, eval_prompts=32))
dashboard"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        write_notebook(folder, "dashboard", CELL)
        with jupyterlab(folder) as address:
            page = chromium(playwright).new_page(viewport={"width": 1280, "height": 1400})
            run_all(page, address, "dashboard")
            dashboard = page.locator(".lab-training")  # the page itself has other buttons of that name
            start = dashboard.get_by_role("button", name="Start")
            start.click()
            follow(page, "first run", 40)
            start.and_(page.locator(":enabled")).wait_for(timeout=600_000)
            dashboard.get_by_label("learning rate", exact=True).select_option("0.002")
            start.click()
            follow(page, "second run", STEPS)
            save(dashboard.screenshot(), TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")


def follow(page, label: str, steps: int) -> None:
    """Return when the run has come to that step."""
    with tqdm(total=steps, desc=label, unit="step") as bar:
        while bar.n < steps:
            found = page.locator(".lab-status").inner_text().split()
            reached = int(found[1]) if found[:1] == ["step"] else bar.n
            bar.update(min(reached, steps) - bar.n)
            page.wait_for_timeout(200)


def save(png: bytes, path: Path) -> None:
    """With a palette of 128 colours, which such a picture does not miss."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
