"""SignalR hubs: the endpoint, the hub that users write, and everything between."""
