"""Take the picture of the README: the top of a report's page, as a browser shows it.

`make picture` calls this with the page of the demo. It needs Chromium or Chrome, found on the path
or named by the variable CHROME.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def browser() -> str:
    """Return the browser to call. Raises SystemExit where there is none."""
    named = (os.environ.get("CHROME"), *BROWSERS)
    for name in named:
        if name and (path := shutil.which(name)):
            return path
    raise SystemExit("no browser: install chromium, or set CHROME to one")


def picture(page: Path, out: Path, width: int, height: int) -> None:
    """Write the top of the page, in pixels, as a PNG file."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser(),
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--screenshot={out.absolute()}",
            page.absolute().as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    """Read the command line and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=1470)
    options = parser.parse_args()
    picture(options.page, options.out, options.width, options.height)


if __name__ == "__main__":
    main()
