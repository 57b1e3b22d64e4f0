"""Serve the built book on this machine and open it in the browser."""

from __future__ import annotations

import functools
import http.server
import sys
import webbrowser

from tools.repository import ROOT

HTML = ROOT / "_build/html"


def main() -> int:
    """Serve ``_build/html`` on a free port until Ctrl-C; return the exit status."""
    if not (HTML / "index.html").exists():
        print("The book is not built yet: run `make book`.", file=sys.stderr)
        return 1
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        print(f"The book is at {url} (stop with Ctrl-C)", flush=True)
        webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
