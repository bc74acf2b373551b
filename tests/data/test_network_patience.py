import contextlib
import socket
import threading
import time
import urllib.request
from urllib.error import URLError

import pytest

from litmus.data.network import impatient_network


def test_a_resolver_that_never_answers_is_given_up(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: release.wait(30))
    started_at = time.monotonic()
    with impatient_network(0.2), pytest.raises(URLError, match=r"no answer from the resolver in 0\.2 s"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://images.example/x")
    assert time.monotonic() - started_at < 5
    release.set()


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with impatient_network(0.2), pytest.raises(TimeoutError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/x")


def test_answers_and_errors_of_the_resolver_come_through(monkeypatch):
    with impatient_network():
        assert socket.getaddrinfo("127.0.0.1", 80)[0][4] == ("127.0.0.1", 80)

    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with impatient_network(), pytest.raises(socket.gaierror, match="not known"):
        socket.getaddrinfo("images.example", 80)


def test_the_process_is_left_as_it_was():
    resolve = socket.getaddrinfo
    with contextlib.suppress(RuntimeError), impatient_network():
        assert socket.getdefaulttimeout() == 15
        raise RuntimeError
    assert socket.getaddrinfo is resolve
    assert socket.getdefaulttimeout() is None
