"""Find a Chromium for the browser tests, or install one; print where it is.

``python -m tools.chromium`` looks, in this order, at the variable CHROMIUM, at installed browsers,
at Playwright's own download, then tries Debian's package and Playwright's download.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_MAC = "/Applications/{0}.app/Contents/MacOS/{0}"
APPLICATIONS = (_MAC.format("Chromium"), _MAC.format("Google Chrome"))
HELP = """No Chromium or Chrome found, and none could be installed. The browser tests need one:
    Debian, Ubuntu:  sudo apt-get install chromium
    macOS:           brew install --cask chromium
    anywhere:        .venv/bin/playwright install --with-deps chromium
or point the variable CHROMIUM to the program."""


def works(program: str) -> bool:
    """Return whether ``program`` starts and says its version."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def installed() -> str | None:
    """Return the path of a browser that is already on this machine, or None."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *APPLICATIONS]
    return next((path for path in candidates if path and works(path)), None)


def playwright_download() -> str | None:
    """Return the path of the Chromium that Playwright has downloaded, or None."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() and works(path) else None


def install_debian() -> str | None:
    """Install Debian's package where that is allowed (root and apt-get); return its path."""
    if not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        subprocess.run(["apt-get", "-q", *arguments], stdout=sys.stderr, env=environment)
    return installed()


def install_playwright() -> str | None:
    """Let Playwright download its Chromium; return its path."""
    subprocess.run(
        [sys.executable, "-m", "playwright", "install", "chromium"], stdout=sys.stderr, check=False
    )
    return playwright_download()


def main() -> int:
    """Print the path of a working browser and return 0, or explain and return 1."""
    for find in (installed, playwright_download, install_debian, install_playwright):
        path = find()
        if path:
            print(path)
            return 0
    print(HELP, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
