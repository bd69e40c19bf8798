"""Events on their way out: the relay publishes the feed as CloudEvents."""
