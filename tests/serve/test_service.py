"""The service: correct answers to valid requests, 4xx to invalid ones, after which it still runs."""

import asyncio
import io
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
import urllib.request
import warnings
import zlib

import numpy as np
import pytest
import uvicorn
from PIL import Image

import forwardonly as fo
from forwardonly import cli
from forwardonly.serve import Limits, make_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from starlette.testclient import TestClient


@pytest.fixture
def client(network):
    limits = Limits(images=4, body_bytes=200_000, pixels=1_000_000)
    return TestClient(make_app(network, tuple("0123456789"), name="digits", limits=limits))


def test_health_and_model(client):
    assert client.get("/health").json() == {"status": "ok"}
    model = client.get("/model").json()
    assert model["shape"] == [1, 8, 8] and model["blocks"] == 3 and model["rule"] == "hyperspherical"


def test_an_upload_gets_what_the_network_predicts(client, network, picture):
    answer = client.post("/predict", files=[("image", ("a.png", picture.read_bytes()))] * 2).json()
    pixels, _ = fo.data.read_adapted([picture], (1, 8, 8))
    first, second = answer["predictions"]
    assert first == {**second} and first["index"] == network.predict(pixels).item() == 7
    scores = network.scores(pixels)[:, 0]
    assert [block["scores"] for block in first["blocks"]] == [pytest.approx(row, abs=1e-5) for row in scores.tolist()]
    assert [block["class"] for block in first["blocks"]] == [str(k) for k in scores.argmax(1).tolist()]
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert first["changes"] == "resized from 64 x 64 to 8 x 8, colour made grey"


def test_an_upload_is_read_as_people_see_it(client):
    """Transparent where it is white, lying on its side with a mark that says so, in 16 bits: one answer for all."""
    shades = np.full((64, 64), 255, np.uint8)
    shades[8:40, 24:30] = np.arange(8, 40)[:, None] * 3
    plain = Image.fromarray(shades)
    clear = Image.merge("LA", [plain.point(lambda v: 0 if v == 255 else v), plain.point(lambda v: 255 * (v < 255))])
    exif = Image.Exif()
    exif[0x0112] = 8
    answers = []
    for image, options in (
        (plain, {}),
        (clear, {}),
        (plain.transpose(Image.Transpose.ROTATE_270), {"exif": exif}),
        (Image.fromarray(shades.astype(np.uint16) * 257), {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        (answer,) = client.post("/predict", files={"image": ("a.png", buffer.getvalue())}).json()["predictions"]
        answers.append(answer)
    done = ["", "laid on white, ", "turned upright, ", "16 bits made 8, "]
    assert [each.pop("changes") for each in answers] == [f"{each}resized from 64 x 64 to 8 x 8" for each in done]
    assert answers == [answers[0]] * 4


def test_json_gets_what_the_network_predicts(client, network, digits):
    images = digits.test.images[:3]
    for content in (images.tolist(), images[:, 0].tolist()):
        answer = client.post("/predict", json={"images": content}).json()
        assert [each["index"] for each in answer["predictions"]] == network.predict(images).tolist()


def bomb(side):
    """A PNG of side x side pixels, all black, in a few kilobytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = zlib.compress(bytes(side // 8 + 1) * side, 9)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def png(side=8):
    content = io.BytesIO()
    Image.effect_noise((side, side), 50).save(content, "png")
    return content.getvalue()


HOSTILE = {
    "huge": (bytes(300_000), 413, "larger than 200,000 bytes"),
    "truncated": (png(64)[:1500], 400, "a.png"),
    "no image": (b"#!/bin/sh\necho hello", 400, "a.png"),
    "empty": (b"", 400, "a.png"),
    "bomb": (bomb(20_000), 400, "decompression bomb"),
    "pixel flood": (bomb(1_600), 400, "more than 1,000,000 are refused"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage", 400, "a.png"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_upload_gets_4xx_and_the_service_lives_on(client, kind):
    content, status, says = HOSTILE[kind]
    reply = client.post("/predict", files={"image": ("a.png", content)})
    assert reply.status_code == status, reply.text
    assert says in reply.json()["detail"]
    assert client.post("/predict", files={"image": ("b.png", png())}).status_code == 200


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no json", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[]", '{"images"'),
        ('{"images": []}', "1 to 4 images"),
        ('{"images": [1, 2, 3, 4, 5]}', "1 to 4 images in a request, not 5"),
        ('{"images": [[[1, 2], [3]]]}', "1 x 8 x 8 whole numbers"),
        ('{"images": [[[1, 2], [3, 4]]]}', "1 x 8 x 8 whole numbers"),
        ('{"images": ["x"]}', "1 x 8 x 8 whole numbers"),
        ('{"images": [1e400]}', "whole numbers"),
        (f'{{"images": [{[[0] * 8] * 7 + [[0] * 7 + [256]]}]}}', "0 to 255"),
        (f'{{"images": [{[[0] * 8] * 7 + [[0] * 7 + [10**30]]}]}}', "0 to 255"),
        (f'{{"images": [{[[0] * 8] * 7 + [[0] * 7 + [True]]}]}}'.replace("True", "true"), "whole numbers"),
        ('{"images": ["' + "x" * 150_000 + '", "", "", ""]}', "1 x 8 x 8 whole numbers"),
        ('{"images": [' + "[" * 900 + "]" * 900 + "]}", "1 x 8 x 8 whole numbers"),
        ('{"images": [[[' + "9" * 5000 + "]]]}", "not JSON"),
    ],
)
def test_bad_json_gets_400_in_one_sentence(client, content, says):
    reply = client.post("/predict", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400 and says in reply.json()["detail"]


def test_too_many_files_and_other_kinds_of_body(client):
    files = [("image", ("a.png", png()))] * 5
    assert client.post("/predict", files=files).status_code == 400
    assert client.post("/predict", content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/predict", data={"image": "x"}).status_code == 415
    assert client.get("/predict").status_code == 405


HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_of_unannounced_size_is_cut_off(address):
    host, port = address.removeprefix("http://").split(":")
    head = HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as plain:
        plain.sendall(head)
        try:
            for _ in range(12):
                plain.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
        except OSError:
            pass  # the service has hung up already
        assert plain.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_a_small_file_of_many_pixels_is_refused_in_each_format(client, kind):
    content = io.BytesIO()
    options = {"compression": "tiff_deflate"} if kind == "tiff" else {}
    Image.new("1" if kind == "bmp" else "L", (1100, 1000)).save(content, kind, **options)
    reply = client.post("/predict", files={"image": (f"a.{kind}", content.getvalue())})
    assert reply.status_code == 400 and "more than 1,000,000 are refused" in reply.json()["detail"]


def test_a_string_among_the_images_costs_no_memory(client):
    content = {"images": ["x" * 180_000, *[""] * 3]}
    tracemalloc.start()
    try:
        assert client.post("/predict", json=content).status_code == 400
        assert tracemalloc.get_traced_memory()[1] < 2_500_000  # numpy would take 2.9 MB for four strings of one length
    finally:
        tracemalloc.stop()


MULTIPART = {
    "no boundary": ("multipart/form-data", b"--x\r\n\r\n", 400),
    "not closed": ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"', 400),
    "no name": ("multipart/form-data; boundary=x", b"--x\r\n\r\nabc\r\n--x--\r\n", 400),
    "many fields": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' * 1000 + b"--x--\r\n",
        400,
    ),
    "many headers": ("multipart/form-data; boundary=x", b"--x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n\r\n--x--\r\n", 400),
    "long boundary": ("multipart/form-data; boundary=" + "x" * 60_000, b"--x--\r\n", 400),
}


@pytest.mark.parametrize("kind", MULTIPART)
def test_malformed_multipart_gets_400(client, kind):
    header, content, status = MULTIPART[kind]
    reply = client.post("/predict", content=content, headers={"content-type": header})
    assert reply.status_code == status, reply.text


def connection(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def test_a_name_that_another_site_gave_this_machine_is_refused(address):
    for host, status in (("rebound.example", b"400"), ("localhost", b"200"), ("127.0.0.1:8000", b"200")):
        with connection(address) as plain:
            plain.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert plain.recv(12) == b"HTTP/1.1 " + status


def test_a_body_that_does_not_come_gets_408(network):
    app = make_app(network, tuple("0123456789"), name="digits", limits=Limits(seconds=0.2))
    sent = []

    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"x")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408 and b"longer than 0.2 seconds" in sent[1]["body"]


@pytest.mark.slow
def test_clients_that_send_a_byte_a_second_are_hung_up_on(address):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Long: "
    slow = [connection(address) for _ in range(20)]
    for each in slow:
        each.settimeout(0.01)
    gone = set()
    for second in range(25):
        for index, each in enumerate(slow):
            try:
                each.sendall(head[second : second + 1])
                if each.recv(1) == b"":
                    gone.add(index)
            except TimeoutError:
                pass
            except OSError:
                gone.add(index)
        with urllib.request.urlopen(f"{address}/health", timeout=10) as reply:  # others are served meanwhile
            assert reply.status == 200
        if len(gone) == len(slow):
            break
        time.sleep(1)
    for each in slow:
        each.close()
    assert len(gone) == len(slow)


@pytest.mark.slow
def test_sigterm_during_a_request_ends_the_service_in_time(run):
    words = [sys.executable, "-m", "forwardonly", "serve", str(run), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        at = process.stdout.readline().split("answers at ")[1].split()[0]
        with connection(at) as plain:
            plain.sendall(f"{HEAD}Content-Length: 9\r\n\r\n[".encode())
            time.sleep(0.5)
            process.terminate()
            process.wait(20)
        assert "Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_port_in_use_is_one_sentence(run, capsys, address):
    assert cli.main(["serve", str(run), "--port", address.rpartition(":")[2]]) == 2
    err = capsys.readouterr().err
    assert "cannot listen at 127.0.0.1" in err and "in use" in err and err.count("\n") == 1


def test_each_half_of_an_answer_is_sent_at_once():
    """The body of an answer must not wait until the client has acknowledged its head."""
    from forwardonly.serve.server import Impatient

    protocols = []

    def made():
        protocols.append(Impatient(config, uvicorn.server.ServerState(), {}))
        return protocols[0]

    async def connect():
        with socket.create_server(("127.0.0.1", 0)) as listening:  # as the command does
            server = await asyncio.get_running_loop().create_server(made, sock=listening)
            async with server:
                _, writer = await asyncio.open_connection(*listening.getsockname())
                while not protocols or protocols[0].transport is None:
                    await asyncio.sleep(0.001)
                own = protocols[0].transport.get_extra_info("socket")
                writer.close()
                return own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    async def app(scope, receive, send):
        raise NotImplementedError

    config = uvicorn.Config(app, log_config=None)
    config.load()
    assert asyncio.run(connect())


@pytest.fixture
def unimported():
    """The service's modules are imported anew, as in a new process; afterwards they are what they were."""
    kept = {name: module for name, module in sys.modules.items() if name.startswith("forwardonly.serve")}
    for name in kept:
        del sys.modules[name]
    yield
    sys.modules.update(kept)


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "python_multipart", "PIL"])
def test_a_missing_package_is_one_sentence(run, capsys, monkeypatch, unimported, package):
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    assert cli.main(["serve", str(run), "--port", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"needs more packages ({package}): pip install 'forward-only[serve]'" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "--port must be from 0 to 65535, not 70000"),
        (["--host", "256.0.0.1"], "cannot listen at 256.0.0.1"),
        (["--max-images", "0"], "at least 1"),
    ],
)
def test_serve_says_why_it_cannot(run, capsys, words, says):
    assert cli.main(["serve", str(run), *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1
