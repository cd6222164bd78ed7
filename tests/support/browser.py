"""Headless Chromium of the system, driven by Playwright, with axe for accessibility."""

import contextlib
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ARGUMENTS = ("--autoplay-policy=no-user-gesture-required", "--mute-audio")


@contextlib.contextmanager
def chromium():
    """Yields a `playwright` browser; skips the test if there is none here."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if not program:
        pytest.skip("NOT RUN IN A BROWSER: there is no chromium here")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="NOT RUN IN A BROWSER: no playwright here"
    )
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(
            executable_path=program, chromium_sandbox=False, args=_ARGUMENTS
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def page(browser, *, width=1280, height=900, **context):
    """Yields a new page, such as `page(browser, color_scheme="dark")`.

    Fails the test if a script raises, a request goes to another host than the first
    one, or the console shows an error.
    """
    faults, hosts = [], set()
    with contextlib.closing(
        browser.new_context(viewport={"width": width, "height": height}, **context)
    ) as tab:
        opened = tab.new_page()
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda x: x.type == "error" and faults.append(x.text))
        opened.on("request", lambda x: hosts.add(tuple(x.url.split("/")[:3])))
        yield opened
    assert not faults, faults
    assert len({x for x in hosts if x[0].startswith("http")}) <= 1, hosts


def accessibility_faults(opened):
    """Returns what axe finds in a page that is serious or critical, in words."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="ACCESSIBILITY NOT CHECKED: no axe-playwright-python here",
    )
    found = axe.Axe().run(opened).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
