"""The framing itself: a protocol of one's own in frames with a reserved opcode.

Frames of opcode 3 carry two numbers, 32 bits each; the answer is a frame of opcode 4 with their sum, whose
first reserved bit tells of an overflow. No message is put together, no text checked.

python -m engine serve examples.websocket_frames:app
"""

from __future__ import annotations

import struct

from engine import App, WebSocket

app = App()
ADD, SUM = 3, 4
NUMBERS = struct.Struct("!II")


@app.websocket("/sums", frames=True, max_message_size=NUMBERS.size)
async def sums(ws: WebSocket) -> None:
    async for frame in ws.frames():
        if frame.opcode == ADD and len(frame.payload) == NUMBERS.size:
            total = sum(NUMBERS.unpack(frame.payload))
            await ws.send_frame(SUM, (total & 0xFFFFFFFF).to_bytes(4, "big"), rsv=4 if total >> 32 else 0)
        elif frame.opcode < 8:
            await ws.close(1003, "send sums")
            return
