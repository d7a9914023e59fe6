"""Stateful reconnect's numbers: a model of two peers and a network that cuts."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Raw

from engine.errors import RemoteProtocolError
from engine.wire.signalr.messages import Ack, Close, Invocation, Ping, SequenceStart, StreamItem
from engine.wire.signalr.resume import ResumeReceiver, ResumeSender


def call(number: int = 0) -> Invocation:
    return Invocation("M", Raw(b"[%d]" % number))


def test_numbers_begin_with_one_and_only_some_messages_have_them() -> None:
    receiver = ResumeReceiver()
    for message in (Ping(), Close(), Ack(7), SequenceStart(1)):
        assert receiver.is_new(message)
    assert (receiver.latest, receiver.has_news) == (0, False)
    assert receiver.is_new(call())
    assert receiver.is_new(StreamItem("1", Raw(b"1")))
    assert (receiver.latest, receiver.has_news) == (2, True)
    assert receiver.acknowledge() == 2
    assert not receiver.has_news


def test_a_sequence_tells_the_first_unacknowledged_number_or_the_next_one() -> None:
    sender = ResumeSender(100)
    assert sender.replay() == (1, ())
    for frame in (b"1", b"2", b"3"):
        sender.sent(frame)
    assert sender.replay() == (1, (b"1", b"2", b"3"))
    sender.acknowledged(2)
    assert sender.replay() == (3, (b"3",))
    sender.acknowledged(3)
    assert sender.replay() == (4, ())


def test_an_acknowledgement_may_be_old_or_of_what_was_never_sent() -> None:
    sender = ResumeSender(100)
    sender.acknowledged(99)
    sender.sent(b"1")
    sender.acknowledged(0)
    sender.acknowledged(-5)
    assert sender.replay() == (1, (b"1",))
    sender.acknowledged(99)
    assert (sender.replay(), sender.size, sender.total) == ((2, ()), 0, 1)


def test_senders_should_wait_beyond_the_limit_and_nothing_is_refused() -> None:
    sender = ResumeSender(4)
    sender.sent(b"1234")
    assert not sender.blocked
    sender.sent(b"5")
    assert sender.blocked
    sender.acknowledged(1)
    assert not sender.blocked


def test_repetitions_are_ignored_and_what_is_behind_them_is_not() -> None:
    receiver = ResumeReceiver()
    assert [receiver.is_new(call()) for _ in range(3)] == [True] * 3
    assert receiver.start(2) is None
    assert [receiver.is_new(call()) for _ in range(3)] == [False, False, True]


def test_a_second_cut_in_the_middle_of_a_repetition_loses_nothing() -> None:
    receiver = ResumeReceiver()
    for _ in range(5):
        receiver.is_new(call())
    assert receiver.start(1) is None
    assert not receiver.is_new(call())
    assert receiver.acknowledge() == 5
    assert receiver.start(6) is None, "the peer heard of five, though only one was repeated"
    assert receiver.is_new(call())


def test_a_sequence_too_far_ahead_is_an_error_and_one_far_back_is_none() -> None:
    receiver = ResumeReceiver()
    receiver.is_new(call())
    assert receiver.start(2) is None
    error = receiver.start(3)
    assert isinstance(error, RemoteProtocolError)
    assert str(error) == "Sequence ID greater than amount of messages we've received."
    assert receiver.start(-1) is None


class Peer:
    """One end: what it has sent, what it has handed to its application."""

    def __init__(self) -> None:
        self.sender = ResumeSender(1000)
        self.receiver = ResumeReceiver()
        self.wire: deque[tuple[str, int]] = deque()  # towards this peer
        self.sent = 0
        self.received: list[int] = []


class TwoPeers(RuleBasedStateMachine):
    """Whatever is sent, delivered late, cut off or repeated: nothing is lost, doubled or reordered."""

    def __init__(self) -> None:
        super().__init__()
        self.peers = (Peer(), Peer())

    @rule(index=st.integers(0, 1), count=st.integers(1, 5))
    def send(self, index: int, count: int) -> None:
        peer, other = self.peers[index], self.peers[1 - index]
        for _ in range(count):
            peer.sent += 1
            peer.sender.sent(b"%d" % peer.sent)
            other.wire.append(("message", peer.sent))

    @rule(index=st.integers(0, 1))
    def ping(self, index: int) -> None:
        self.peers[index].wire.append(("ping", 0))

    @precondition(lambda self: any(peer.wire for peer in self.peers))
    @rule(index=st.integers(0, 1), count=st.integers(1, 9))
    def deliver(self, index: int, count: int) -> None:
        peer = self.peers[index]
        for _ in range(min(count, len(peer.wire))):
            kind, number = peer.wire.popleft()
            if kind == "message":
                if peer.receiver.is_new(call(number)):
                    peer.received.append(number)
            elif kind == "ack":
                peer.sender.acknowledged(number)
            elif kind == "sequence":
                assert peer.receiver.start(number) is None
            else:
                assert peer.receiver.is_new(Ping())

    @rule(index=st.integers(0, 1))
    def acknowledge(self, index: int) -> None:
        peer = self.peers[index]
        if peer.receiver.has_news:
            self.peers[1 - index].wire.append(("ack", peer.receiver.acknowledge()))

    @rule(lost=st.booleans())
    def cut_and_resume(self, lost: bool) -> None:
        """Both wires are emptied, and both ends start anew with Sequence and what is unacknowledged."""
        for index, peer in enumerate(self.peers):
            if not lost:
                self.deliver(index, len(peer.wire) // 2)
            peer.wire.clear()
        for index, peer in enumerate(self.peers):
            sequence_id, frames = peer.sender.replay()
            wire = self.peers[1 - index].wire
            wire.append(("sequence", sequence_id))
            wire.extend(("message", int(frame)) for frame in frames)

    @invariant()
    def nothing_is_doubled_or_reordered(self) -> None:
        for peer in self.peers:
            assert peer.received == list(range(1, len(peer.received) + 1))

    @invariant()
    def what_is_kept_is_what_was_not_acknowledged(self) -> None:
        for peer in self.peers:
            _, frames = peer.sender.replay()
            assert peer.sender.size == sum(map(len, frames))

    def teardown(self) -> None:
        self.cut_and_resume(lost=True)
        for index, peer in enumerate(self.peers):
            self.deliver(index, len(peer.wire))
            assert peer.received == list(range(1, self.peers[1 - index].sent + 1)), "something was lost"


TwoPeersTest = TwoPeers.TestCase
TwoPeersTest.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
