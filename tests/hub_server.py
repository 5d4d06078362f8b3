"""A small Hub on loopback: serves folders as model repositories to the client's own code, read-only."""

import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse

COMMIT = "0" * 40


def handler(repositories):
    """Handler class for `{name: folder}`."""

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def answer(self, body, status=200, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlparse(self.path).path).strip("/")
            for name, folder in repositories.items():
                files = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
                if path.startswith(f"{name}/resolve/"):
                    file = path.split("/", 4)[-1]
                    if file in files:
                        body = (Path(folder) / file).read_bytes()
                        etag = hashlib.sha1(body).hexdigest()
                        return self.answer(body, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
                    return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                if path.startswith(f"api/models/{name}"):
                    rest = path.removeprefix(f"api/models/{name}").strip("/").split("/")
                    if rest[0] == "tree":
                        listing = [
                            {"type": "file", "path": f, "size": (Path(folder) / f).stat().st_size, "oid": COMMIT}
                            for f in files
                            if f.startswith("/".join(rest[2:]))
                        ]
                        return self.answer(json.dumps(listing).encode(), Content_Type="application/json")
                    info = {"id": name, "sha": COMMIT, "tags": [], "siblings": [{"rfilename": f} for f in files]}
                    return self.answer(json.dumps(info).encode(), Content_Type="application/json")
            return self.answer(b"", 404, X_Error_Code="RepoNotFound")

    return Hub


@contextmanager
def serve(repositories):
    """Serve repositories while in the context; yields the endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(repositories))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
