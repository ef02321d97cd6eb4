"""Strict JSON parsing with size limits, for files that may be damaged or hostile."""

import json
from typing import Any

MAX_VALUES, MAX_DEPTH = 10_000, 50
"""Maximum number of values in a text, and maximum nesting depth."""


def parse_text(encoded: str) -> dict[str, Any]:
    """Parse a JSON object of limited size.

    Raises:
        ValueError: The text is not a JSON object, is too large, or is refused by `parse`.
    """
    text = parse(encoded)
    if not isinstance(text, dict):
        raise ValueError("its text is not a JSON object")
    level, count, depth = [text], 0, 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError(
                f"its text has more than {MAX_VALUES} values or more than {MAX_DEPTH} levels of "
                "nesting; large values should be arrays"
            )
        level = [inner for value in level for inner in _inside(value)]
    return text


def parse(encoded: str) -> Any:
    """Parse JSON without NaN and without duplicate names in an object.

    Raises:
        ValueError: The text is not JSON of this kind.
    """
    try:
        return json.loads(encoded, object_pairs_hook=_unique, parse_constant=_constant)
    except RecursionError as error:
        raise ValueError("its text is nested too deeply") from error


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object of its text")
    return found


def _constant(name: str) -> float:
    if name == "NaN":  # would differ from itself when compared
        raise ValueError("a number of its text is NaN")
    return float(name)
