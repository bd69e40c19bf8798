"""Every function that moves units of items tells of the levels that it has changed."""

import re

from holdsvc.ledger import function_set

MOVES = re.compile(r"\b(UPDATE item|INSERT INTO item)\b")

WITHOUT = {
    "create_items": "an item begins with the level that ITEM_CREATED shows",
    "join_waitlist": "how many wait changes, no unit moves",
    "sweep_waitlist": "how many wait changes, no unit moves",
    "fulfil": "what leaves the building was sold before: remaining stays as it is",
}


def test_every_function_that_moves_units_follows_the_items() -> None:
    text = "\n".join(text for _, text in function_set.shipped().files)
    bodies = dict(re.findall(r"CREATE FUNCTION (\w+)\(.*?\$\$(.*?)\$\$;?$", text, re.DOTALL | re.MULTILINE))
    granted = set(re.findall(r"^  (\w+)[,\n]", text[text.index("GRANT EXECUTE ON FUNCTION") :], re.MULTILINE))
    assert {"reserve", "sweep_items"} <= granted <= bodies.keys()
    moving = {name for name, body in bodies.items() if MOVES.search(body)}
    # Steps move units for those that call them.
    while (
        more := {
            name for name, body in bodies.items() if any(re.search(rf"\b{step}\(", body) for step in moving - granted)
        }
        - moving
    ):
        moving |= more
    silent = {name for name in moving & granted if "follow_items(" not in bodies[name]}
    assert silent == WITHOUT.keys()
