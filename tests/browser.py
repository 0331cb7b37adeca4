"""The built book, served as a static host would serve it, and opened in Chromium."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright

from publish.print import pdf
from tools.rules import ROOT

DESKTOP, TABLET, PHONE = 1280, 768, 360


def build(folder: Path) -> Path:
    """Build the book as `make book` does, and return the folder of its pages."""
    command = ["jupyter-book", "build", ".", "-W", "-n", "--keep-going", "--path-output"]
    command[0] = str(Path(sys.executable).with_name(command[0]))
    run = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "_build" / "html"


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if file.is_dir():
            file /= "index.html"
        found = file.is_file()
        if not found:
            file = self.server.root / "404.html"
        body = file.read_bytes() if file.is_file() else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", self.guess_type(file))
        if file.suffix in {".html", ".css", ".js", ".svg", ".json", ".ipynb"}:
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        lasting = "/_static/" in self.path
        self.send_header("Cache-Control", "max-age=3600" if lasting else "no-store")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.sent[self.path] = len(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A static host on this machine: it compresses, has its own page for what is not found, and
    lets browsers keep what is under `_static`. `sent` is the size of each body it sent."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), lambda *a: _Handler(*a, directory=str(root)))
        self.root = root
        self.sent: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *request: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a browser that left early
            super().handle_error(*request)


def chromium(playwright: Playwright) -> Browser | None:
    """The system's Chromium, which can reach nothing but this machine; None where there is none."""
    found = pdf.chromium()
    if found is None:
        return None
    return playwright.chromium.launch(
        executable_path=found,
        args=[
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ],
    )


@dataclass
class Book:
    """The book in a browser: from its folder, or from its server."""

    root: Path
    server: Server
    browser: Browser
    context: BrowserContext

    @contextmanager
    def open(
        self,
        path: str,
        *,
        where: str = "server",
        context: BrowserContext | None = None,
        scheme: str = "light",
        width: int = DESKTOP,
    ) -> Iterator[Page]:
        """The page at ``path``, ready to be read, on the "server" or in the "folder".

        When done with it, nothing may have gone wrong: no request to another host or in vain, no
        error or warning, no exception.
        """
        origin = {"server": self.server.url, "folder": self.root.as_uri() + "/"}[where]
        page = (context or self.context).new_page()
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        wrongs: list[str] = []
        page.on("request", lambda it: wrongs.extend(_elsewhere(it.url, origin)))
        page.on("requestfailed", lambda it: wrongs.append(f"failed: {it.url}"))
        page.on("response", lambda it: wrongs.extend(_in_vain(it)))
        page.on("console", lambda it: wrongs.extend(_complaint(it)))
        page.on("pageerror", lambda it: wrongs.append(f"exception: {it}"))
        try:
            page.goto(origin + path)
            settle(page)
            yield page
            assert not wrongs, "\n".join(wrongs)
        finally:
            page.close()


def settle(page: Page) -> None:
    """Wait until equations are typeset, fonts are there and figures with sliders are live."""
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.evaluate("() => document.fonts.ready.then(() => true)")
    for source in page.locator("script[data-figure]").all():
        figure = page.locator("#" + source.get_attribute("data-figure"))
        figure.scroll_into_view_if_needed()
        figure.locator(".interactive svg").wait_for()
    page.evaluate("scrollTo(0, 0)")


def unfold(page: Page) -> None:
    """Open all that is folded away, as a reader would, without waiting for it to slide."""
    page.add_style_tag(content="* { animation: none !important; transition: none !important }")
    page.evaluate("() => document.querySelectorAll('details').forEach((it) => (it.open = true))")


def slide(page: Page, figure: str, **settings: float) -> None:
    """Set sliders of a live figure, each by its name."""
    for name, value in settings.items():
        page.locator(f"#{figure} input[name={name}]").fill(str(value))


def drag(page: Page, figure: str, handle: str, across: float, down: float = 0, n: int = 0) -> None:
    """Drag point number ``n`` of a handle of a live figure by so many pixels, with the mouse."""
    point = page.locator(f"#{figure} .{handle}_grip_marks path").nth(n)
    point.hover()
    box = point.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.down()
    page.mouse.move(x + across / 2, y + down / 2)
    page.mouse.move(x + across, y + down)
    page.mouse.up()


def line(page: Page, figure: str, name: str) -> Locator:
    """The line of text of a live figure that has this name."""
    return page.locator(f"#{figure} .{name}_marks text")


def _elsewhere(url: str, origin: str) -> Iterator[str]:
    if not url.startswith((origin, "data:", "blob:")):
        yield f"asks another host: {url}"


def _in_vain(response) -> Iterator[str]:
    if response.status >= 400:
        yield f"answered {response.status}: {response.url}"


def _complaint(message) -> Iterator[str]:
    if message.type in ("error", "warning"):
        yield f"{message.type}: {message.text} ({message.location.get('url')})"
