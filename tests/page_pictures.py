"""Makes the pictures of docs/page.md anew, in Debian's Chromium: python -m tests.page_pictures. Look at them before they are committed."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.server.mcp.conftest import make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.page.conftest import TOKEN, populate

IMAGES = Path(__file__).parents[1] / "docs" / "images"
VIEWS = {"page.png": (1200, 1900), "page-phone.png": (360, 1500)}
IDEAS = [
    "Wider layers learn faster at this budget",
    "A longer warmup keeps Muon stable",
    "Halve the learning rate of the embeddings",
    "A batch twice as large",
    "Tie the embeddings, and spend what is saved on width",
    "Start the output layer at zero",
    "A cosine schedule down to a tenth",
    "Fewer heads, each of them wider",
    "Drop the softcap of the logits",
    "Clip gradients at 0.5",
    "Squared ReLU instead of GELU",
    "Rotary embeddings of a longer base",
]


def main() -> None:
    """Fill a lab, serve it, and take the pictures."""
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for lab in make_runner_lab(Path(scratch) / "lab", {'approval = "none"': 'approval = "human"'}):
            populate(lab, IDEAS)
            with served_over_http(lab.root, AUTORESEARCH_TOKEN=TOKEN) as server:
                for name, (width, height) in VIEWS.items():
                    page = browser.new_page(viewport={"width": width, "height": height})
                    page.goto(f"{server.url.removesuffix('/mcp')}/login?key={TOKEN}")
                    page.locator("#progress[data-points]").wait_for()
                    page.locator(".live.on").wait_for()
                    page.locator(".curve canvas").wait_for()
                    page.screenshot(path=IMAGES / name)
        browser.close()


if __name__ == "__main__":
    main()
