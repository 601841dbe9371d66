"""``condgen demo`` against programs: wrong hosts, routes, bodies and values, floods, and damaged files."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import os
import random
import shutil
import signal
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pytest
from gradio.state_holder import SessionState
from helpers.processes import ForkedPython, condgen_process, free_port
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from condgen.demo.answers import Answers
from condgen.demo.figures import read_png
from condgen.demo.middleware import BODY, GRACE, PageRequests
from condgen.demo.page import SESSIONS, application
from condgen.demo.runs import find_runs
from condgen.errors import UsageError

RUN = "version_0"
FILE = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
CALLS: dict[str, list[Any]] = {  # valid ones
    "side_by_side": [[RUN], "2", 1, 0, False, "", ""],
    "morph": [0.5, RUN, "2", 0, 0, 1, "", ""],
    "way": [RUN, "2", 0, 0, 1, "", ""],
    "span": [RUN, "2", 0, 0, 1, "", ""],
    "move": [0.5, RUN, "2", 0, 0, 1, "", ""],
    "epoch": [RUN, 1],
    "scores": [[RUN]],
}
VALUES: list[Any] = [
    None, True, -1, 0, 1, 1.5, 1e308, 2**53, 10**400, float("nan"), float("inf"), "", "2", "nan", "1e400", "x" * 1000,
    "\0", "é", "\ud800", "<img src=x>", "../..", RUN, [], [RUN], ["x"], [RUN] * 9, [1], [None], {}, FILE,
    [FILE], [[[]]],
]  # fmt: skip


class Server(NamedTuple):
    process: ForkedPython
    port: int

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", **headers}
        connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, headers)
        return connection.getresponse()

    def call(self, name: str, data: list[Any]) -> tuple[int, str]:
        """The status of a request, or of its answer."""
        posted = self.send("POST", f"/gradio_api/call/{name}", {"data": data})
        content = posted.read().decode()
        if posted.status != 200:
            return posted.status, content
        return self.answer(name, json.loads(content)["event_id"])

    def answer(self, name: str, event: str) -> tuple[int, str]:
        answer = self.send("GET", f"/gradio_api/call/{name}/{event}")
        return answer.status, answer.read().decode()


def start(folder: Path, **environment: str) -> Server:
    port = free_port()
    process = condgen_process(["demo", "--port", port], folder, **environment)
    server = Server(process, int(port))
    until = time.monotonic() + 120
    while True:
        assert process.poll() is None
        assert time.monotonic() < until, process.communicate(timeout=1)[0]
        with contextlib.suppress(OSError):
            if server.send("GET", "/").status == 200:
                return server
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page of a DNN. In spite of all tests, it prints no more than its address, and writes no file."""
    temporary = tmp_path_factory.mktemp("gradio")
    server = start(trained, GRADIO_TEMP_DIR=str(temporary))
    yield server
    server.process.send_signal(signal.SIGTERM)
    output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 143
    assert output.splitlines() == [f"The page of 1 runs: http://127.0.0.1:{server.port} (Ctrl-C ends it)"]
    assert not [path for path in temporary.rglob("*") if path.is_file()]


# Which requests are answered.


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:{port}", "127.0.0.1.evil.com", "localhost.evil.com", "10.0.0.1", "[", ""]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_page_refuses_another_host_name(server, host, method):
    host = host.format(port=server.port)
    headers = {"Host": host, "Origin": f"http://{host}", "Access-Control-Request-Method": "POST"}
    answer = server.send(method, "/config", **headers)
    assert answer.status in (400, 403)
    assert answer.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "LocalHost"])
def test_page_answers_to_its_own_host_name(server, host):
    assert server.send("GET", "/config", Host=host.format(port=server.port)).status == 200


@pytest.mark.parametrize(
    ("host", "name", "status"),
    [
        ("0.0.0.0", "192.168.1.7:7860", 200),
        ("0.0.0.0", "[fe80::1]:7860", 200),
        ("0.0.0.0", os.uname().nodename, 200),
        ("0.0.0.0", "evil.com", 403),
        ("my.machine", "my.machine:7860", 200),
        ("my.machine", "evil.com", 403),
        ("localhost", "192.168.1.7", 403),
    ],
)
def test_public_page_answers_to_ip_addresses_and_names_of_the_machine(host, name, status):
    client = TestClient(PageRequests(PlainTextResponse("page"), host, {}))
    assert client.get("/", headers={"Host": name}).status_code == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/hostname"),
        ("GET", "/gradio_api/file/etc/hostname"),
        ("GET", "/gradio_api/proxy=https://example.com/"),
        ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("GET", "/gradio_api/heartbeat/x"),
        ("GET", "/gradio_api/stream/a/b/1/playlist-file"),
        ("GET", "/gradio_api/startup-events"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/way"),
        ("POST", "/gradio_api/call/v2/way"),
        ("POST", "/gradio_api/cancel"),
        ("POST", "/login"),
        ("DELETE", "/"),
    ],
)
def test_page_refuses_routes_that_it_does_not_need(server, method, path):
    body = {"data": CALLS["way"], "session_hash": "x", "fn_index": 0} if method == "POST" else None
    assert server.send(method, path, body).status in (400, 404)


@pytest.mark.parametrize("content", [b"", b"x", b"xy"])
def test_page_refuses_uploads(server, content):
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' + content + b"\r\n--b--\r\n"
    answer = server.send("POST", "/gradio_api/upload", body, **{"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status in (400, 404)


def test_page_refuses_a_large_body(server):
    assert server.send("POST", "/gradio_api/call/way", b"x" * (BODY + 1)).status == 413
    assert server.send("POST", "/gradio_api/call/way", iter([b"x" * BODY, b"x"])).status == 413  # in chunks
    assert server.send("POST", "/gradio_api/call/way", b"x" * BODY).status == 400


# What is kept of requests.


def test_full_queue_refuses_requests_and_answers_those_that_wait(server):
    posted = [server.send("POST", "/gradio_api/call/morph", {"data": CALLS["morph"]}) for _ in range(40)]
    accepted = [json.load(answer)["event_id"] for answer in posted if answer.status == 200]
    assert 20 <= len(accepted) <= 22
    assert {answer.status for answer in posted} == {200, 503}
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda event: server.answer("morph", event), accepted))
    assert all(content.startswith("event: complete") for _, content in answers)


def test_an_answer_waits_for_its_client_only_for_a_while():
    requests = PageRequests(PlainTextResponse("page"), "localhost", {})
    assert not requests.is_read("session", time.monotonic() - GRACE)
    threading.Timer(0.05, requests.readers.update, [["session"]]).start()
    assert requests.is_read("session", time.monotonic())


def test_stream_of_an_unknown_session_ends(server):
    for path in (
        "/gradio_api/queue/data?session_hash=unknown",
        "/gradio_api/queue/data",
        "/gradio_api/call/way/unknown",
    ):
        answer = server.send("GET", path)
        assert answer.status in (200, 422)
        answer.read()


# Values.


def test_a_wrong_number_of_values_is_refused(server):
    for data in ([], [*CALLS["way"], 1], CALLS["way"][1:]):
        assert server.call("way", data)[0] == 400


def test_random_requests_are_answered(server):
    chance = random.Random(0)
    functions = json.load(server.send("GET", "/config"))["dependencies"]

    def request(number: int) -> str:
        """What the server makes of a call with some random parts: a status, or the outcome of an accepted call."""
        function = chance.choice(functions)
        name, route = function["api_name"], "queue/join" if function["queue"] else "run/predict"
        data = [*CALLS.get(name, [RUN, "2", 0, 0, 0][: len(function["inputs"])])]
        for place in chance.sample(range(len(data)), min(len(data), chance.randrange(3))):
            data[place] = chance.choice(VALUES)
        call = {"data": data, "fn_index": function["id"], "session_hash": f"session{number}"}
        if chance.random() < 0.1:
            call["data"] = chance.choice(VALUES)
        if chance.random() < 0.1:
            call["fn_index"] = chance.choice(VALUES)
        if chance.random() < 0.1:
            call["session_hash"] = chance.choice([None, 1, "", "é", "x" * 65, [], FILE])
        if chance.random() < 0.3:
            route = chance.choice(["queue/join", "run/predict", f"call/{name}", f"call/{chance.choice(VALUES)!r:.9}"])
        body = json.dumps(call if chance.random() < 0.95 else chance.choice(VALUES)).encode()
        posted = server.send("POST", f"/gradio_api/{quote(route)}", body)
        content = posted.read().decode()
        if posted.status != 200 or route == "run/predict":
            return str(posted.status)
        if route == "queue/join":
            stream = server.send("GET", f"/gradio_api/queue/data?session_hash=session{number}").read().decode()
            return "complete" if '"success":true' in stream else "error" if '"success":false' in stream else stream
        return server.answer(name, json.loads(content)["event_id"])[1].partition("\n")[0].removeprefix("event: ")

    with ThreadPoolExecutor(4) as pool:
        outcomes = Counter(pool.map(request, range(600)))
    assert set(outcomes) == {"200", "400", "404", "complete", "error"}
    assert min(outcomes.values()) > 20


def test_states_of_old_sessions_are_dropped(trained):
    with TestClient(application(find_runs([], trained), "localhost"), "http://localhost") as client:
        functions = client.get("/config").json()["dependencies"]
        labels = next(function["id"] for function in functions if function["api_name"] == "labels")
        for number in range(SESSIONS + 5):
            call = {"data": [RUN, "2"], "fn_index": labels, "session_hash": f"session{number}"}
            assert client.post("/gradio_api/run/predict", json=call).status_code == 200
        assert sum(type(kept) is SessionState for kept in gc.get_objects()) == SESSIONS


# Damaged files.


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "FIFO":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "large":
        path.write_bytes(content + bytes(20_000_000))
    elif how == "many pixels":
        Image.new("1", (20_000, 20_000)).save(path)
    elif how == "another format":
        Image.new("L", (9, 9)).save(path, "GIF")
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"text"}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "text", "another format", "FIFO", "folder", "large", "many pixels"])
def test_damaged_grid_of_an_epoch_is_named(trained, tmp_path, how):
    shutil.copytree(trained / "lightning_logs" / RUN, tmp_path / "run")
    grid = tmp_path / "run" / "samples" / "epoch=000.png"
    damaged(grid, how)
    with pytest.raises(UsageError, match=r"epoch=000\.png") as error:
        Answers(find_runs([str(tmp_path / "run")], tmp_path)).epoch("run", 1)
    assert "\n" not in str(error.value)


def test_damaged_bytes_of_a_grid_raise_only_usage_errors(trained, tmp_path):
    content = (trained / "lightning_logs" / RUN / "samples" / "epoch=000.png").read_bytes()
    grid, chance = tmp_path / "grid.png", np.random.default_rng(0)
    for number in range(300):
        changed = bytearray(content)
        for place in chance.integers(200 if number % 2 else len(changed), size=3):
            changed[place] = chance.integers(256)
        if number % 3 == 0:  # a short chunk with the right checksum
            chunk = [b"iCCP", b"tRNS", b"gAMA", b"cHRM"][number % 4] + bytes(number % 7)
            chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
            changed = bytearray(content[:-12] + chunk + content[-12:])
        grid.write_bytes(changed)
        with contextlib.suppress(UsageError):
            read_png(grid)
