"""SignalR on the wire: hub messages, their encodings, the handshake and the negotiate answer. Sans-IO."""
