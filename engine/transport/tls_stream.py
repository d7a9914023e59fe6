"""TLS over another byte stream, with OpenSSL in memory in between.

Owns: what is encrypted, what of that the transport has not taken yet, and how TLS ends. Never chooses
certificates, versions or ciphers: a context comes from `engine.transport.tls` or `tls_client`.

Theory of operation. Both directions are synchronous, as everything below a driver is: a read of the
transport is decrypted and handed on where it arrives, by the shared poller as well, and `send_nowait`
encrypts and tries. What has been encrypted must leave, and as it is; so where the transport takes a part
only, the plaintext of the whole piece is not counted as sent, and the caller has to present it again, as
with OpenSSL's own SSL_write: it is passed over then.

Specs: RFC 8446 and RFC 5246 (TLS); RFC 8446 section 6.1 (close_notify).
"""

from __future__ import annotations

import contextlib
import ssl

import trio

from engine.config import ServerConfig
from engine.errors import ConnectionClosed, LimitExceeded, LimitKind
from engine.transport.stream import ByteStream, Sink

_RECORD = 16 * 1024  # bytes of plaintext in a record at most (RFC 8446 5.1)
_PIECE = 64 * 1024  # encrypted at once: a whole large message would be there twice before its first byte leaves


class TlsByteStream(ByteStream):
    """One side of a TLS connection; owns `transport` from here on.

    Args:
        transport: carries the encrypted bytes.
        context: every choice about TLS.
        server_side: answer a ClientHello instead of sending one.
        server_name: what the certificate of the other side must be for, and what SNI says.
        config: `read_size`, `outbox_size` and `close_timeout` are used.
        initial: encrypted bytes that were read before.

    Attributes:
        tls: tells what was agreed on, once `handshake` is done.
    """

    __slots__ = (
        "_ahead",
        "_config",
        "_cut",
        "_ended",
        "_established",
        "_failure",
        "_incoming",
        "_outgoing",
        "_owed",
        "_sending",
        "_transport",
        "_unsent",
        "local_address",
        "peer_address",
        "poller",
        "tls",
    )

    def __init__(
        self,
        transport: ByteStream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
        config: ServerConfig,
        initial: bytes = b"",
    ) -> None:
        # immutable
        self._transport = transport
        self._config = config
        self.local_address = transport.local_address
        self.peer_address = transport.peer_address
        self.poller = transport.poller
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        self._incoming.write(initial)
        # owned by the reader
        self._established = False
        self._ended = False
        self._failure: ssl.SSLError | None = None
        # owned by whoever sends
        self._unsent = b""  # encrypted
        self._owed = 0  # bytes of it that are answers of TLS itself
        self._ahead = 0  # bytes of plaintext that `_unsent` stands for, and that will be presented again
        self._sending = False  # a task is in the transport's `send_all`
        self._cut = False  # it was cancelled there: nothing that is sent any more makes sense

    # -- the handshake --------------------------------------------------------

    async def handshake(self, limiter: trio.CapacityLimiter | None = None) -> None:
        """Shake hands; before anything else, and once. After cancellation the stream is good for closing only.

        Args:
            limiter: a token of it is held for each step of arithmetic, half a millisecond in all, and never
                while the peer is being waited for.

        Raises:
            ssl.SSLError: there is no agreement; the peer has been told why, by an alert.
            ssl.SSLEOFError: the peer ended the connection.
            ConnectionClosed: the transport broke.
        """
        while not self._established:
            failure: ssl.SSLError | None = None
            async with limiter or contextlib.nullcontext():
                try:
                    self.tls.do_handshake()
                    self._established = True
                except ssl.SSLError as error:
                    failure = error
                self._unsent += self._outgoing.read()
            if failure is None or isinstance(failure, ssl.SSLWantReadError):
                await self._flush_all()
            else:
                with contextlib.suppress(ConnectionClosed):
                    await self._flush_all()
                raise failure
            if not self._established:
                self._feed(await self._transport.receive_some())

    # -- reading --------------------------------------------------------------

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            data = self._decrypt(self._config.read_size)
            if data is not None:
                return data
            self._feed(await self._transport.receive_some())

    async def pump(self, sink: Sink, max_bytes: int | None = None) -> None:
        largest = max_bytes or self._config.read_size

        def receive(data: bytes) -> bool:
            self._feed(data)
            return self._deliver(sink, largest)

        # An earlier sink may have paused in the middle of a read; the handshake may have read more than its own.
        if not self._deliver(sink, largest):
            await trio.lowlevel.checkpoint()
            return
        await self._transport.pump(receive, max_bytes)

    def _feed(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _deliver(self, sink: Sink, largest: int) -> bool:
        """Hand over what can be decrypted. False: the sink has had enough, or the end."""
        while True:
            data = self._decrypt(largest)
            if data is None:
                return True
            if not sink(data) or not data:
                return False
            if not self._incoming.pending and not self.tls.pending():
                return True

    def _decrypt(self, largest: int) -> bytes | None:
        """The next bytes, `b""` at the end; None where more must arrive first.

        Raises:
            ConnectionClosed: what arrived is no TLS, or the peer lets too many answers wait.
        """
        read, incoming = self.tls.read, self._incoming
        size = min(largest, _RECORD)
        pieces: list[bytes] = []
        room = largest
        while self._failure is None and not self._ended and room >= size:
            try:
                piece = read(size)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLEOFError:
                self._ended = True  # without close_notify; the framing above knows whether that was whole
            except ssl.SSLError as error:
                self._failure = error
            else:
                if piece:
                    pieces.append(piece)
                    room -= len(piece)
                    if not incoming.pending:  # to look once more would cost an exception
                        break
                else:
                    self._ended = True
        if self._outgoing.pending:
            self._answer()
        if pieces:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._failure is not None:
            raise _lost(self._failure)
        return b"" if self._ended else None

    def _answer(self) -> None:
        """What OpenSSL itself has to say: an alert, an answer to a KeyUpdate."""
        answer = self._outgoing.read()
        self._unsent += answer
        self._owed += len(answer)
        if not self._sending and not self._cut:
            with contextlib.suppress(ConnectionClosed):  # whoever sends next gets it; what was read counts all the same
                self._flush()
        queued, limit = self._owed, self._config.outbox_size
        if queued > limit:
            what = "what TLS answers to a peer that does not read"
            raise ConnectionClosed(
                1006, str(LimitExceeded("server.outbox_size", limit, queued, kind=LimitKind.CAPACITY, what=what))
            )

    # -- sending --------------------------------------------------------------

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self._sending or self._cut or (self._unsent and not self._flush()):
            return 0
        sent, self._ahead = self._ahead, 0
        size = len(data)
        if size <= _PIECE and not sent:
            return size if self._send_piece(data) else 0
        view = memoryview(data)
        while sent < size:
            piece = view[sent : sent + _PIECE]
            if not self._send_piece(piece):
                break
            sent += len(piece)
        return sent

    def _send_piece(self, piece: bytes | memoryview) -> bool:
        """Encrypt it; False where the transport has not taken it all, and it has to be presented again."""
        encrypted = self._encrypt(piece)
        sent = self._transport.send_nowait(encrypted)
        if sent == len(encrypted):
            return True
        self._unsent = encrypted[sent:]
        self._ahead = len(piece)
        return False

    async def send_all(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while True:
            await self._flush_all()
            if self._cut:
                raise ConnectionClosed(1006, "closed on our side")
            rest = rest[self._ahead :]
            piece = rest[:_PIECE]
            self._ahead = len(piece)
            if not piece:
                return
            self._unsent = self._encrypt(piece)

    def _encrypt(self, data: bytes | memoryview) -> bytes:
        try:
            self.tls.write(data)  # all of it: a memory BIO takes everything
        except ssl.SSLError as error:
            raise _lost(error) from error
        return self._outgoing.read()

    def _flush(self) -> bool:
        """Send what is encrypted; False where some of it is left."""
        self._unsent = self._unsent[self._transport.send_nowait(self._unsent) :]
        if self._unsent:
            return False
        self._owed = 0
        return True

    async def _flush_all(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._unsent and not self._cut:
            data, self._unsent, self._owed = self._unsent, b"", 0
            self._sending = self._cut = True
            try:
                await self._transport.send_all(data)
                self._cut = False
            finally:
                self._sending = False

    # -- the end --------------------------------------------------------------

    async def send_eof(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # already gone: then there is nobody to tell
            await self._send_close_notify()
            await self._transport.send_eof()

    async def aclose(self) -> None:
        try:
            # One that does not read is not waited for.
            with trio.move_on_after(self._config.close_timeout), contextlib.suppress(ConnectionClosed):
                await self._send_close_notify()
        finally:
            await self._transport.aclose()

    async def _send_close_notify(self) -> None:
        if self._established:
            self._established = False
            with contextlib.suppress(ssl.SSLError):  # it wants the peer's in return: we do not wait for that
                self.tls.unwrap()
            self._unsent += self._outgoing.read()
        await self._flush_all()

    def abort(self) -> None:
        self._cut = True
        self._transport.abort()


def _lost(error: ssl.SSLError) -> ConnectionClosed:
    return ConnectionClosed(1006, f"TLS: {error.reason or error}")
