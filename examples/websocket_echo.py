"""An echo, of whole messages and of streams: a message goes back piece by piece, before it is complete.

python -m engine serve examples.websocket_echo:app
"""

from __future__ import annotations

from engine import App, WebSocket

app = App()


@app.websocket("/echo")
async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@app.websocket("/stream", max_message_size=1 << 30)
async def stream(ws: WebSocket) -> None:
    while True:  # until the connection is closed
        await ws.send_stream(ws.receive_stream())
