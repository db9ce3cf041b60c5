"""Draw the pictures of the quickstart: docs/pictures/curves.svg and report.png, from a real run; needs Chromium.

python scripts/report_pictures.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
SIZE = "1100,1260"


def main() -> None:
    """Run the quickstart in a temporary folder, keep its curves, and take a screenshot of the top of its page."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "outputs", "quickstart")
        words = ["train.py", "--config", "configs/quickstart.yaml", f"training.output_dir={run}"]
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
        shutil.copy(run / "curves.svg", PICTURES / "curves.svg")
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            sys.exit("report.png is left as it is: there is no Chromium (apt-get install chromium)")
        taken = Path(folder, "report.png")
        target = [f"--screenshot={taken}", f"--window-size={SIZE}", f"--user-data-dir={folder}/profile"]
        subprocess.run([browser, *FLAGS, *target, (run / "report.html").as_uri()], check=True, capture_output=True)
        with Image.open(taken) as picture:  # as a screenshot it is three times as large
            picture.convert("RGB").quantize(256, kmeans=2).save(PICTURES / "report.png", optimize=True)


if __name__ == "__main__":
    main()
