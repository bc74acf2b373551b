"""Lines of JSON over a socket with a path."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from litmus.channel import Channel, Closed, Door


@pytest.fixture
def ends():
    door = Door()
    near = Channel.to(door.path)
    far = door.accept()
    yield near, far
    near.close()
    far.close()
    door.close()


def test_what_is_sent_arrives_in_order_and_whole(ends):
    near, far = ends
    big = [[k, k / 7] for k in range(30_000)]  # more than a socket's buffer holds
    sender = threading.Thread(target=lambda: (near.send(reports=big), near.send(word="café\nline")))
    sender.start()
    assert far.receive(5) == {"reports": big}
    assert far.receive(5) == {"word": "café\nline"}
    sender.join()


def test_two_messages_in_one_read_are_both_there(ends):
    near, far = ends
    near.send(a=1)
    near.send(b=2)
    assert far.receive(5) == {"a": 1}
    assert far.holds_more  # select would not say so
    assert far.receive(0) == {"b": 2}
    assert not far.holds_more


def test_half_a_message_is_waited_for(ends):
    near, far = ends
    near._socket.sendall(b'{"a":')
    assert far.receive(0.05) is None
    near._socket.sendall(b" 1}\n")
    assert far.receive(5) == {"a": 1}


def test_nothing_comes_in_time(ends):
    assert ends[1].receive(0.01) is None


def test_the_other_end_is_gone(ends):
    near, far = ends
    near.send(a=1)
    near.close()
    assert far.receive(5) == {"a": 1}  # what it said before it went
    with pytest.raises(Closed):
        far.receive(5)
    with pytest.raises(Closed):
        far.send(b=2)


def test_a_door_admits_its_owner_alone_and_leaves_nothing():
    door = Door()
    folder = Path(door.path).parent
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert len(door.path) < 100  # a socket's path may have 107
    door.close()
    assert not folder.exists()
    with pytest.raises(Closed, match="nobody listens"):
        Channel.to(door.path)


def test_several_may_knock_at_one_door():
    door = Door()
    channels = [Channel.to(door.path) for _ in range(3)]
    accepted = [door.accept() for _ in range(3)]
    for number, channel in enumerate(channels):
        channel.send(number=number)
    assert [channel.receive(5) for channel in accepted] == [{"number": 0}, {"number": 1}, {"number": 2}]
    for one in [*channels, *accepted]:
        one.close()
    door.close()


def test_what_comes_in_is_plain_values_never_code(ends):
    near, far = ends
    near._socket.sendall(b"\x80\x04}.\n")  # an empty dictionary, pickled
    with pytest.raises(ValueError):
        far.receive(5)
    assert isinstance(near._socket, socket.socket)
