"""WebSocket for handlers: the endpoint that accepts, and the object they hold."""
