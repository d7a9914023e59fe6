"""Stateful reconnect between two peers loses, doubles and reorders nothing, whatever is cut when.

Each byte is one step: send, deliver, acknowledge or cut, by the one peer or the other. A peer that
lies (acknowledges or announces numbers of its own making) raises nothing and makes nobody keep more
than what was sent.
"""

from __future__ import annotations

from collections import deque

from msgspec import Raw

from engine.wire.signalr.messages import Invocation
from engine.wire.signalr.resume import ResumeReceiver, ResumeSender

SEEDS: list[bytes] = [
    bytes(range(64)),
    b"\x00\x00\x00\x01\x01\x03\x02\x02\x03",
    b"\x00\x04\x08\x03\x00\x01\x03\x02\x03\x03",
    b"\xff" * 12,
    b"\x00\x01\x02\x03" * 30,
    b"\x00\x00\x00\x0d\x03\x05\x06\x01\x03\x05\x03",  # a cut in the middle of a repetition
]

_MAX_STEPS = 400  # each cut repeats all that is unacknowledged
_CALL = Invocation("M", Raw(b"[]"))


class _Peer:
    def __init__(self) -> None:
        self.sender = ResumeSender(64)
        self.receiver = ResumeReceiver()
        self.inbox: deque[tuple[str, int]] = deque()
        self.received: list[int] = []

    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.inbox))):
            kind, number = self.inbox.popleft()
            if kind == "message":
                if self.receiver.is_new(_CALL):
                    self.received.append(number)
            elif kind == "ack":
                self.sender.acknowledged(number)
            else:
                assert self.receiver.start(number) is None, "an honest Sequence was refused"


def run(data: bytes) -> None:
    """Raise AssertionError if an invariant breaks."""
    _honest(data[:_MAX_STEPS])
    _lying(data[:_MAX_STEPS])


def _honest(data: bytes) -> None:
    peers = (_Peer(), _Peer())
    for byte in data:
        step, which, amount = byte & 3, byte >> 2 & 1, byte >> 3
        peer, other = peers[which], peers[1 - which]
        if step == 0:
            peer.sender.sent(b"%d" % (peer.sender.total + 1))
            other.inbox.append(("message", peer.sender.total))
        elif step == 1:
            peer.deliver(amount + 1)
        elif step == 2 and peer.receiver.has_news:
            other.inbox.append(("ack", peer.receiver.acknowledge()))
        elif step == 3:
            _cut(peers, amount)
        for each in peers:
            assert each.received == list(range(1, len(each.received) + 1)), "doubled or reordered"
    _cut(peers, 0)
    for peer, other in (peers, peers[::-1]):
        peer.deliver(len(peer.inbox))
        assert len(peer.received) == other.sender.total, "lost"


def _cut(peers: tuple[_Peer, _Peer], survive: int) -> None:
    """Some of what is on its way arrives, the rest is lost; both sides begin anew."""
    for peer in peers:
        peer.deliver(survive)
        peer.inbox.clear()
    for peer, other in (peers, peers[::-1]):
        sequence_id, frames = peer.sender.replay()
        other.inbox.append(("sequence", sequence_id))
        other.inbox.extend(("message", int(frame)) for frame in frames)


def _lying(data: bytes) -> None:
    sender, receiver = ResumeSender(64), ResumeReceiver()
    processed = 0
    for position, byte in enumerate(data):
        number = byte - 16
        if position % 3 == 0:
            sender.sent(b"x")
            sender.acknowledged(number)
        elif position % 3 == 1:
            receiver.start(number)
        else:
            processed += receiver.is_new(_CALL)
        assert processed == receiver.latest
        sequence_id, frames = sender.replay()
        assert sender.size == len(frames)
        assert sequence_id + len(frames) == sender.total + 1
