"""How plain values become bytes of the streams' messages. Those of several, joined, are a message too."""

from collections.abc import Callable
from dataclasses import dataclass

from holdsvc.model import Event, Item, ItemKey
from holdsvc.streams.topic import Update


@dataclass(frozen=True)
class Encoding:
    """What the engine is given by whoever knows the messages."""

    item: Callable[[Item], bytes]
    deleted_item: Callable[[ItemKey], bytes]
    update: Callable[[Update], bytes]
    event: Callable[[Event], bytes]
