"""A server of small data sets on this machine, which offers and breaks off what a test tells it to."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import contextlib
import hashlib
import http.server
import io
import zipfile


class Server(http.server.ThreadingHTTPServer):
    """What it offers and how it behaves, which tests change."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.asked: list[tuple[str, int]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.cut` sends that many bytes and hangs up; understands Range."""

    def do_GET(self):
        server = self.server
        assert isinstance(server, Server)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        server.asked.append((self.path, start))
        data = server.files.get(self.path.strip("/"))
        if data is None:
            self.send_error(404)
            return
        if start > len(data):
            self.send_error(416)
            return
        self.send_response(206 if start and server.ranges else 200)
        if start and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            data = data[start:]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(data if server.cut is None else data[: server.cut])

    def log_message(self, *_):
        pass


def md5(data):
    return hashlib.md5(data).hexdigest()


def zipped(top, without=(), compression=zipfile.ZIP_STORED, **more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for path in sorted(top.rglob("*")):
            if path.name not in without:
                archive.write(path, path.relative_to(top.parent))
        for name, content in more.items():
            archive.writestr(name, content)
    return buffer.getvalue()
