"""WebSocket, sans-IO: the opening handshake, a fast path over frames, and the connection core."""
