"""A browser without a window, for tests of the pages and for the picture of the README.

It is Chromium (Debian: `apt-get install chromium`) or Chrome, found on the path or named by the
variable CHROME.
"""

import os
import shutil
import subprocess
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
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


def browser():
    """Return the browser to call, None where there is none."""
    named = (os.environ.get("CHROME"), *NAMES)
    return next((path for name in named if name and (path := shutil.which(name))), None)


def browse(*arguments):
    """Run the browser with these arguments and a profile of its own; return the finished process.

    Raises SystemExit where there is no browser.
    """
    program = browser()
    if program is None:
        raise SystemExit("no browser: install chromium, or set CHROME to one")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
