"""Metrics of the relay, on a page of its own: it must not import the workers', whose database would seem to be down."""

from prometheus_client import Counter, Gauge

LAG = Gauge("holdsvc_relay_lag_seconds", "How far the relay is behind the event feed.")
BEHIND = Gauge(
    "holdsvc_relay_behind_events",
    "Event ids between the relay's place and the feed's end.",
)
EVENTS = Counter("holdsvc_relay_events_total", "Events that the relay's broker has taken.")
DEAD_LETTERS = Counter("holdsvc_relay_dead_letters_total", "Events that the relay's broker has refused for good.")
