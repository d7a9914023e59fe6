"""Sans-IO cores: bytes to events and back. No trio, no sockets, no clock, no randomness of its own."""
