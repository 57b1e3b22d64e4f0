"""A real browser with the network cut, and what every browser test asks of a page.

``open_page(url)`` returns a page on which nothing may go wrong: a console error, an exception or
a request that would leave the machine fails the test when it ends. Pages come from ``file:`` or
from a server on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tools import chromium

LOCAL = re.compile(r"(file|data|blob|about):|https?://(127\.0\.0\.1|localhost|\[::1\])[:/]")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the module."""
    program = chromium.installed() or chromium.playwright_download()
    if program is None:
        pytest.fail(chromium.HELP, pytrace=False)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open addresses: ``open_page(url, width=1000, height=800, scheme="light", **context)``.

    Further keywords go to Playwright's ``new_context`` (``has_touch``, ``java_script_enabled``,
    ``reduced_motion``, ...). Each page gets a context of its own.
    """
    problems: list[str] = []
    contexts = []

    def guard(route: Route) -> None:
        if LOCAL.match(route.request.url):
            route.continue_()
        else:
            problems.append(f"request to {route.request.url}")
            route.abort()

    def open_(
        url: str, *, width: int = 1000, height: int = 800, scheme: str = "light", **context: Any
    ) -> Page:
        opened = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **context
        )
        contexts.append(opened)
        opened.route("**/*", guard)
        page = opened.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
        page.on(
            "console",
            lambda said: said.type == "error" and problems.append(f"console: {said.text}"),
        )
        page.goto(url)
        return page

    yield open_
    for opened in contexts:
        opened.close()
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
