"""The hub client: `engine.HubConnection`.

`connection` is what users hold; a `link` is the life of one connection id; a `session` is what its
bytes mean. `negotiate` and `transports` find one of the `carriers` (`frames`, `event_stream` and
`requests` are what those speak); `calls` and `handlers` are the two directions of calling; `retry` says
when to come again.
"""
