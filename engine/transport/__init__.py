"""Moves bytes and runs exchanges: sockets, TLS, connection drivers. The only place that does I/O."""
