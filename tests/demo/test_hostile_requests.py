"""``condgen demo`` and hostile requests: wrong hosts, routes, bodies and values, floods of them, and damaged files."""

from __future__ import annotations

import base64
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
import uvicorn
from gradio.state_holder import SessionState
from helpers.processes import ForkedPython, condgen_process, free_port
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from condgen.demo.figures import read_grid
from condgen.demo.middleware import CALL_PATH, MAX_BODY, PageRequests
from condgen.demo.page import MAX_SESSIONS, application
from condgen.demo.requests import EpochsRequest
from condgen.demo.runs import find_runs
from condgen.demo.serve import MAX_CONNECTIONS
from condgen.demo.views import Views
from condgen.errors import UsageError

RUN = "version_0"
FILE = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
DRAWING = "28x28x1:" + base64.b64encode(bytes([0, 0, 0, 255]) * 784).decode()
CALLS: dict[str, list[Any]] = {  # valid values of the inputs of each view
    "samples": [[RUN], "2", 1, 0, "", "", False],
    "morph": [RUN, "2", 0, 0, 1, "", "", 0.5],
    "interpolated": [RUN, "2", 0, 0, 1, "", "", 0.5],
    "noise": [RUN, "2", 0, 0, 1, "", "", 0.5],
    "moved_and_range": [RUN, "2", 0, 0, 1, "", "", 0.5],
    "moved": [RUN, "2", 0, 0, 1, "", "", 0.5],
    "mix": [RUN, ["2", "3"], 2, 0, "", "", 1, 0.5, 1, 1, 1],
    "mixed_and_alone": [RUN, ["2", "3"], 2, 0, "", "", 1, 0.5, 1, 1, 1],
    "mixed": [RUN, ["2", "3"], 2, 0, "", "", 1, 0.5, 1, 1, 1],
    "open": [RUN, "2", 0, "Sample", 0, None],
    "edit": [RUN, "2", 0, "Sample", 0, None],
    "keep_or_edit": [RUN, "2", 0, "Nothing", 0, DRAWING],
    "relabel": [RUN, "2", 0, "Sample", 0, f"edited {DRAWING}"],
    "renumber": [RUN, "2", 0, "Sample", 0, DRAWING],
    "edited": [RUN, "2", 0, "Sample", 0, DRAWING],
    "film": [RUN, "2", 0, 2, "", "", 1],
    "frame": [RUN, "2", 0, 2, "", "", 1],
    "epochs": [RUN, 1],
    "epoch": [RUN, 1],
    "scores": [[RUN]],
}
VALUES: list[Any] = [
    None, True, -1, 0, 1, 1.5, 1e308, 2**53, 10**400, float("nan"), float("inf"), "", "2", "nan", "1e400", "x" * 1000,
    "\0", "é", "\ud800", "<img src=x>", "../..", RUN, [], [RUN], ["x"], [RUN] * 9, [1], [None], {}, FILE,
    [FILE], [[[]]], "28x28x1:", "28x28x1:é", f"1x1x1:{DRAWING[8:]}", DRAWING[:-4],
]  # fmt: skip


class Server(NamedTuple):
    process: ForkedPython | None
    port: int

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", **headers}
        connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, headers)
        return connection.getresponse()

    def functions(self) -> dict[str, int]:
        """Gradio's function number of each view."""
        functions = json.load(self.send("GET", "/config"))["dependencies"]
        return {function["api_name"]: function["id"] for function in functions}

    def call(self, number: int, data: list[Any]) -> tuple[int, str]:
        """The status and the content of the response to a call of a function."""
        response = self.send("POST", CALL_PATH, {"data": data, "fn_index": number, "session_hash": "program"})
        return response.status, response.read().decode()


def start(folder: Path, **environment: str) -> Server:
    port = free_port()
    process = condgen_process(["demo", "--port", port], folder, **environment)
    server = Server(process, int(port))
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline, process.communicate(timeout=1)[0]
        with contextlib.suppress(OSError):
            if server.send("GET", "/").status == 200:
                return server
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page of a DNN. After all tests, it must have printed only its address and written no file."""
    temporary = tmp_path_factory.mktemp("gradio")
    server = start(trained, GRADIO_TEMP_DIR=str(temporary))
    yield server
    server.process.send_signal(signal.SIGTERM)
    output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 143
    assert output.splitlines() == [f"Serving a page of 1 run at http://127.0.0.1:{server.port} (stop with Ctrl-C)"]
    assert not [path for path in temporary.rglob("*") if path.is_file()]


# Hosts, routes and bodies.


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:{port}", "127.0.0.1.evil.com", "localhost.evil.com", "10.0.0.1", "[", ""]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_demo_refuses_other_host_names(server, host, method):
    host = host.format(port=server.port)
    headers = {"Host": host, "Origin": f"http://{host}", "Access-Control-Request-Method": "POST"}
    response = server.send(method, "/config", **headers)
    assert response.status in (400, 403)
    assert response.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "LocalHost"])
def test_demo_accepts_its_own_host_names(server, host):
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
def test_public_demo_accepts_ip_addresses_and_the_machines_names(host, name, status):
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
        ("POST", "/gradio_api/run/morph"),
        ("POST", "/gradio_api/call/morph"),
        ("POST", "/gradio_api/call/v2/morph"),
        ("POST", "/gradio_api/queue/join"),
        ("GET", "/gradio_api/queue/data?session_hash=x"),
        ("GET", "/gradio_api/call/morph/x"),
        ("POST", "/gradio_api/cancel"),
        ("POST", "/login"),
        ("DELETE", "/"),
    ],
)
def test_demo_refuses_routes_that_the_page_does_not_use(server, method, path):
    body = {"data": CALLS["morph"], "session_hash": "x", "fn_index": 1} if method == "POST" else None
    assert server.send(method, path, body).status in (400, 404)


@pytest.mark.parametrize("content", [b"", b"x", b"xy"])
def test_demo_refuses_uploads(server, content):
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' + content + b"\r\n--b--\r\n"
    response = server.send("POST", "/gradio_api/upload", body, **{"Content-Type": "multipart/form-data; boundary=b"})
    assert response.status in (400, 404)


def test_demo_host_header_with_a_path_does_not_allow_other_routes(server):
    for host in ("127.0.0.1/assets/", "127.0.0.1/config?", "127.0.0.1/config#"):
        assert server.send("GET", "/gradio_api/file=/etc/hostname", Host=host).status in (400, 403, 404)


def test_demo_refuses_a_large_request_body(server):
    assert server.send("POST", CALL_PATH, b"x" * (MAX_BODY + 1)).status == 413
    assert server.send("POST", CALL_PATH, iter([b"x" * MAX_BODY, b"x"])).status == 413  # in chunks
    assert server.send("POST", CALL_PATH, b"x" * MAX_BODY).status == 400


# Floods.


def test_demo_refuses_requests_over_the_connection_limit_and_answers_the_others(server):
    number = server.functions()["morph"]
    with ThreadPoolExecutor(MAX_CONNECTIONS + 20) as pool:
        responses = list(pool.map(lambda _: server.call(number, CALLS["morph"]), range(MAX_CONNECTIONS + 20)))
    assert {status for status, _ in responses} == {200, 503}
    assert all("base64" in content for status, content in responses if status == 200)
    assert server.call(number, CALLS["morph"])[0] == 200


def test_demo_does_not_compute_the_request_of_a_closed_connection(trained, monkeypatch):
    """The second client closes its connection while the server computes for the first one."""
    computed, first_started, second_closed = [], threading.Event(), threading.Event()

    def epoch(views: Views, request: EpochsRequest) -> str:
        computed.append(request.grid)
        first_started.set()
        second_closed.wait(20)
        return "computed"

    monkeypatch.setattr(Views, "epoch", epoch)
    port = int(free_port())
    config = uvicorn.Config(application(find_runs([], trained), "127.0.0.1"), port=port, log_level="error")
    uvicorn_server = uvicorn.Server(config)
    thread = threading.Thread(target=uvicorn_server.run)
    thread.start()
    while not uvicorn_server.started:
        time.sleep(0.05)
    server = Server(None, port)
    number = server.functions()["epoch"]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(server.call, number, [RUN, 1])
        assert first_started.wait(20)
        second = http.client.HTTPConnection("127.0.0.1", port)
        body = json.dumps({"data": [RUN, 2], "fn_index": number, "session_hash": "closed"})
        second.request("POST", CALL_PATH, body, {"Content-Type": "application/json"})
        time.sleep(0.5)  # until the server has read it
        second.close()
        time.sleep(0.5)
        second_closed.set()
        assert first.result()[0] == 200
        assert server.call(number, [RUN, 3])[0] == 200
    assert computed == [1, 3]
    uvicorn_server.should_exit = True
    thread.join()


def test_demo_drops_the_states_of_old_sessions(trained):
    def states() -> int:
        return sum(type(instance) is SessionState for instance in gc.get_objects())

    states_before = states()
    with TestClient(application(find_runs([], trained), "localhost"), "http://localhost") as client:
        functions = client.get("/config").json()["dependencies"]
        number = next(function["id"] for function in functions if function["api_name"] == "epochs")
        for session in range(MAX_SESSIONS + 5):
            call = {"data": [RUN, 1], "fn_index": number, "session_hash": f"session{session}"}
            assert client.post(CALL_PATH, json=call).status_code == 200
        assert states() - states_before == MAX_SESSIONS


# Values.


def test_demo_refuses_a_request_with_a_wrong_number_of_values(server):
    number = server.functions()["morph"]
    for data in ([], [*CALLS["morph"], 1], CALLS["morph"][1:]):
        assert server.call(number, data)[0] == 400


def test_demo_answers_every_random_request_with_a_known_status(server):
    rng, functions = random.Random(0), server.functions()

    def request(_: int) -> str:
        """The status of the response to a partly random call, or "alert" if the response is a message to the user."""
        name = rng.choice(list(functions))
        data = [*CALLS[name]]
        for position in rng.sample(range(len(data)), min(len(data), rng.randrange(3))):
            data[position] = rng.choice(VALUES)
        call = {"data": data, "fn_index": functions[name], "session_hash": f"session{rng.randrange(100)}"}
        if rng.random() < 0.1:
            call["data"] = rng.choice(VALUES)
        if rng.random() < 0.1:
            call["fn_index"] = rng.choice(VALUES)
        if rng.random() < 0.1:
            call["session_hash"] = rng.choice([None, 1, "", "é", "x" * 65, [], FILE])
        call |= {rng.choice(["event_data", "trigger_id", "event_id", "batched"]): rng.choice(VALUES)}
        route = CALL_PATH if rng.random() < 0.9 else f"/gradio_api/{rng.choice(VALUES)!r:.9}"
        body = json.dumps(call if rng.random() < 0.95 else rng.choice(VALUES)).encode()
        response = server.send("POST", quote(route), body)
        return "alert" if b"role=alert" in response.read() else str(response.status)

    with ThreadPoolExecutor(4) as pool:
        outcomes = Counter(pool.map(request, range(300)))
    assert set(outcomes) == {"200", "400", "404", "alert"}
    assert min(outcomes.values()) > 20


# Damaged files.


def damage_file(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if damage == "FIFO":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    elif damage == "large":
        path.write_bytes(content + bytes(20_000_000))
    elif damage == "many pixels":
        Image.new("1", (20_000, 20_000)).save(path)
    elif damage == "another format":
        Image.new("L", (9, 9)).save(path, "GIF")
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"text"}[damage])


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "another format", "FIFO", "folder", "large", "many pixels"])
def test_demo_error_names_a_damaged_sample_grid(trained, tmp_path, damage):
    shutil.copytree(trained / "lightning_logs" / RUN, tmp_path / "run")
    grid = tmp_path / "run" / "samples" / "epoch=000.png"
    damage_file(grid, damage)
    with pytest.raises(UsageError, match=r"epoch=000\.png") as error:
        Views(find_runs([str(tmp_path / "run")], tmp_path)).epoch(EpochsRequest(run="run", grid=1))
    assert "\n" not in str(error.value)


def test_read_grid_of_damaged_bytes_raises_only_usage_errors(trained, tmp_path):
    content = (trained / "lightning_logs" / RUN / "samples" / "epoch=000.png").read_bytes()
    grid, rng = tmp_path / "grid.png", np.random.default_rng(0)
    for number in range(300):
        changed = bytearray(content)
        for position in rng.integers(200 if number % 2 else len(changed), size=3):
            changed[position] = rng.integers(256)
        if number % 3 == 0:  # a short chunk with a valid checksum
            chunk = [b"iCCP", b"tRNS", b"gAMA", b"cHRM"][number % 4] + bytes(number % 7)
            chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
            changed = bytearray(content[:-12] + chunk + content[-12:])
        grid.write_bytes(changed)
        with contextlib.suppress(UsageError):
            read_grid(grid)
