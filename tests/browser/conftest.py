"""A real browser with the network cut, and what every browser test asks of a page.

``open_page(url)`` returns a page on which nothing may go wrong: a warning, an exception, a file
that is not there or a request that would leave the machine fails the test when it ends. Pages come
from ``file:`` or from a server on this machine.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tools import chromium

LOCAL = re.compile(r"(file|data|blob|about):|https?://(127\.0\.0\.1|localhost|\[::1\])[:/]")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
FORGET = (
    "() => { try { localStorage.clear(); sessionStorage.clear(); } catch { /* a blank page */ } }"
)

OpenPage = Callable[..., Page]


class Tabs:
    """Tabs of one browser, used again: in a new one every script would be compiled anew."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.free: dict[str, list[tuple[Page, list[str]]]] = defaultdict(list)

    @contextmanager
    def open(
        self, width: int = 1000, height: int = 800, scheme: str = "light", **context: Any
    ) -> Iterator[tuple[Page, list[str]]]:
        """A blank page that no one else has, and the growing list of what it complains about.

        Further keywords go to Playwright's ``new_context``: ``has_touch``, ``reduced_motion``...
        """
        free = self.free[repr(sorted(context.items()))]
        page, complaints = free.pop() if free else self.new(context)
        complaints.clear()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(media="null", color_scheme=scheme)  # type: ignore[arg-type]
        yield page, complaints
        # Only a tab on which nothing was raised comes here.
        page.evaluate(FORGET)
        page.mouse.move(0, 0)
        page.goto("about:blank")
        free.append((page, complaints))

    def new(self, context: dict[str, Any]) -> tuple[Page, list[str]]:
        """A new tab with the network cut."""
        complaints: list[str] = []

        def guard(route: Route) -> None:
            if LOCAL.match(route.request.url):
                route.continue_()
            else:
                complaints.append(f"request to {route.request.url}")
                route.abort()

        opened = self.browser.new_context(**context)
        opened.route("**/*", guard)
        page = opened.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on(
            "response",
            lambda got: got.status >= 400 and complaints.append(f"{got.status}: {got.url}"),
        )
        page.on(
            "console",
            lambda said: (
                said.type in ("error", "warning")
                and complaints.append(f"console {said.type}: {said.text}")
            ),
        )
        return page, complaints


@pytest.fixture(scope="package")
def tabs() -> Iterator[Tabs]:
    """One Chromium for all modules of a worker."""
    program = chromium.installed() or chromium.playwright_download()
    if program is None:
        pytest.fail(chromium.HELP, pytrace=False)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield Tabs(started)
        started.close()


@pytest.fixture
def open_page(tabs: Tabs) -> Iterator[OpenPage]:
    """Open addresses: ``open_page(url, width=1000, height=800, scheme="light", **context)``."""
    with ExitStack() as opened:
        complained = []

        def open_(url: str, **options: Any) -> Page:
            page, complaints = opened.enter_context(tabs.open(**options))
            complained.append(complaints)
            page.goto(url)
            return page

        yield open_
        # To leave a page, as a test may, ends what it was fetching.
        problems = [
            line for lines in complained for line in lines if not line.startswith("failed: ")
        ]
    assert not problems, "\n".join(problems)


def serious_violations(
    page: Page, only: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> list[str]:
    """Return axe's violations of level serious or critical, one line each.

    ``only`` and ``without`` name rules; by default axe applies all.
    """
    # Without preload: axe would fetch style sheets, which a page on disk may not do.
    options: dict[str, Any] = {"preload": False, "resultTypes": ["violations"]}
    if only:
        options["runOnly"] = list(only)
    options["rules"] = {rule: {"enabled": False} for rule in without}
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(Axe().axe_script)
    found = page.evaluate("async (options) => (await axe.run(options)).violations", options)
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['html'][:200]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
