"""WebSocket: the endpoint that accepts, the client that connects, and the object that both give."""
