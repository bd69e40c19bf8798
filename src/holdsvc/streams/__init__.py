"""Live streams: inventory and events."""
