"""Take the picture of the README: the top of a report's page, as a browser shows it.

`make picture` calls this with the page of the demo, and with `tests` on the path, for the browser.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from support.browser import browse


def picture(page: Path, out: Path, width: int, height: int) -> None:
    """Write the top of the page, in pixels, as a PNG file."""
    done = browse(
        f"--window-size={width},{height}",
        f"--screenshot={out.absolute()}",
        page.absolute().as_uri(),
    )
    done.check_returncode()


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
