"""gRPC on the wire: framing, metadata, status and time-outs as pure functions over bytes."""
