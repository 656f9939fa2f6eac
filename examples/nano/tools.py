# ruff: noqa: E501
# fmt: off
"""The functions that developers offer in generated conversations: names, schemas and results.

Knows nothing of phrasings or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from facts import CONDITIONS
from words import ARGUMENTS, PARTS

from mlx_oss.harmony import ToolDescription

UNITS = ("celsius", "fahrenheit")

# kind -> (names, descriptions, arguments); argument -> (possible names, JSON type, descriptions)
KINDS: dict[str, tuple[list[str], list[str], dict[str, tuple[list[str], str, list[str]]]]] = {
    "weather": (
        ["get_weather", "get_current_weather", "weather_lookup", "current_weather", "weather", "fetch_weather", "getWeather", "get_forecast", "lookup_weather", "weather_report", "check_weather", "city_weather", "get_weather_info", "query_weather", "weather_api", "read_weather", "weather.current", "get_temperature"],
        ["Get the current weather.", "Get the weather of a city.", "Returns the weather for a place.", "Looks up the weather.", "Weather lookup.", "Current weather in a given location.", "Get the current weather in a location.", "The weather right now.", "Gives the current weather of a town.", "Temperature and conditions of a place.", "Finds out how the weather is.", "Weather information for a city.", "Fetches the weather somewhere."],
        {"city": (["location", "city", "place", "town", "city_name", "where", "area", "location_name", "target", "query"], "string", ["", "City name", "The city", "e.g. London", "Where", "Name of the place", "The city and country"])},
    ),
    "calculator": (
        ["calculator", "calculate", "calc", "evaluate", "compute", "math", "eval_expression", "do_math", "evaluate_expression", "run_calculation", "arithmetic", "solve_expression", "math.eval", "get_result"],
        ["Evaluate an arithmetic expression.", "A calculator.", "Computes a result.", "Does arithmetic.", "Calculates an expression.", "Evaluates mathematics.", "Use this for sums.", "Does a calculation.", "Works out the value of an expression.", "Arithmetic on numbers.", "Evaluates an expression and returns its value.", "Calculator for simple sums.", "Call this for any calculation."],
        {"expression": (["expression", "expr", "input", "formula", "query", "calculation", "text", "math", "exp", "problem"], "string", ["", "Arithmetic expression", "e.g. 2 + 2", "What to compute", "The expression to evaluate"])},
    ),
    "time": (
        ["get_time", "current_time", "time_in", "get_current_time", "clock", "world_clock", "local_time", "what_time", "getTime", "time_lookup", "city_time", "tell_time"],
        ["Get the time in a city.", "Current local time.", "World clock.", "Returns the time in a place.", "Tells the time somewhere.", "Gets the local time of a place.", "What time it is in a given city.", "The current time in a town.", "Clock for cities of the world."],
        {"city": (["city", "location", "place", "timezone", "where", "town", "zone", "city_name"], "string", ["", "City name", "The city", "Where"])},
    ),
    "message": (
        ["send_message", "send_sms", "text_message", "message", "notify", "sendMessage", "send_text", "write_message", "deliver_message", "send_note", "message_contact"],
        ["Send a message to someone.", "Sends a text message.", "Delivers a message to a contact.", "Write to a person.", "Send a short message.", "Sends text to somebody.", "Messages a person.", "Use this to write to someone.", "Lets a person know something.", "Sends a note to a friend."],
        {"to": (["to", "recipient", "contact", "person", "name", "receiver", "who"], "string", ["", "Who gets it", "Name of the contact"]), "text": (["text", "message", "body", "content", "msg", "note"], "string", ["", "What to say", "The text of the message"])},
    ),
    "timer": (
        ["set_timer", "start_timer", "timer", "create_timer", "countdown", "setTimer", "new_timer", "start_countdown", "remind_in", "add_timer"],
        ["Set a timer.", "Starts a timer in minutes.", "Creates a countdown.", "A kitchen timer.", "Sets a timer for some minutes.", "Timer, length in minutes.", "Counts down some minutes.", "Rings after a number of minutes.", "Starts a countdown in minutes."],
        {"minutes": (["minutes", "duration", "duration_minutes", "length", "mins", "time", "n", "amount"], "integer", ["", "Length in minutes", "How many minutes"])},
    ),
}
# kind -> (verbs, nouns), from which more names are built
VERBS = {
    "weather": (["get", "fetch", "lookup", "check", "query", "read", "find", "show", "current", "ask", "local", "find_current", "load", "my"], ["weather", "forecast", "temperature", "conditions", "climate", "weather_data", "weather_now"]),
    "calculator": (["run", "do", "eval", "compute", "get", "solve", "calculate", "use", "simple", "basic"], ["math", "calculation", "expression", "sum", "arithmetic", "equation", "formula", "calculator"]),
    "time": (["get", "fetch", "lookup", "check", "query", "read", "find", "show", "current", "ask", "local"], ["time", "clock", "local_time", "hour", "time_of_day", "city_time"]),
    "message": (["send", "write", "post", "deliver", "create", "push", "new"], ["message", "sms", "text", "note", "mail", "email", "chat_message"]),
    "timer": (["set", "start", "create", "add", "new", "make", "run", "begin"], ["timer", "countdown", "alarm", "reminder", "stopwatch", "kitchen_timer"]),
}
# Functions that no user of the generated dialogues needs: (name, description, argument -> JSON type).
IDLE: list[tuple[str, str, dict[str, str]]] = [
    ("search_web", "Search the web.", {"query": "string"}), ("play_music", "Plays a song.", {"song": "string"}), ("get_stock_price", "Price of a stock.", {"symbol": "string"}), ("open_file", "Opens a file.", {"path": "string"}),
    ("list_files", "Lists the files of a folder.", {}), ("get_user", "Who is logged in.", {}), ("book_table", "Books a table in a restaurant.", {"name": "string", "people": "integer"}), ("turn_on_light", "Turns a light on.", {"room": "string"}),
    ("create_event", "Adds an event to the calendar.", {"title": "string", "date": "string"}), ("get_news", "Latest news.", {"topic": "string"}), ("take_photo", "Takes a photo.", {}), ("save_note", "Saves a note.", {"note": "string"}), ("find_route", "Finds a route.", {"start": "string", "end": "string"}),
]


@dataclass(frozen=True)
class Function:
    """A function that a developer offers.

    Attributes:
        kind: Key of `KINDS`, or `idle`.
        description: Name, description and schema, as harmony renders them.
        arguments: nano's own name of each argument -> its name in the schema.
        unit: Name of the argument for the temperature unit, if there is one.
    """

    kind: str
    description: ToolDescription
    arguments: Mapping[str, str]
    unit: str | None = None

    @property
    def name(self) -> str:
        return self.description.name

    def call(self, **values: Any) -> str:
        """The JSON arguments of a call. `values` use nano's own argument names; values that are None are left out."""
        return json.dumps({self.arguments[key]: value for key, value in values.items() if value is not None}, ensure_ascii=False)


def any_function(kind: str, rng: Random) -> Function:
    """A random function of this kind, with usual, varied or odd names."""
    _, descriptions, arguments = KINDS[kind]
    usual = rng.random() < 0.3  # the names that most apps use
    odd = not usual and rng.random() < 0.45  # names that say little or nothing: nano can only copy them
    renamed = _argument_names(kind, usual, odd, rng)
    properties: dict[str, Any] = {}
    for key, (_, type_, texts) in arguments.items():
        text = rng.choice(texts) if rng.random() < (0.7 if odd else 0.5) else ""
        properties[renamed[key]] = {"type": type_, **({"description": text} if text else {})}
    unit = rng.choice(["unit", "units", "scale"]) if kind == "weather" and rng.random() < 0.4 else None
    required = list(properties)
    if unit:
        properties[unit] = {"type": "string", "enum": list(UNITS)}
        renamed["unit"] = unit
    schema = {"type": "object", "properties": properties, **({"required": required} if rng.random() < 0.8 else {})}
    return Function(kind, ToolDescription(_function_name(kind, usual, odd, rng), rng.choice(descriptions), schema), renamed, unit)


def _argument_names(kind: str, usual: bool, odd: bool, rng: Random) -> dict[str, str]:
    """nano's own argument names -> different random names."""
    renamed: dict[str, str] = {}
    for key, (choices, _, _) in KINDS[kind][2].items():
        names = choices[: 2 if kind == "weather" else 1] if usual else ARGUMENTS if odd and rng.random() < 0.6 else choices
        renamed[key] = rng.choice([name for name in names if name not in renamed.values()])
    return renamed


def _function_name(kind: str, usual: bool, odd: bool, rng: Random) -> str:
    names, (verbs, nouns) = KINDS[kind][0], VERBS[kind]
    if usual:
        return names[0]
    if odd:
        parts = [rng.choice(rng.choice([PARTS, PARTS, verbs, nouns])) for _ in range(rng.choice([1, 2, 2, 2, 2, 3]))]
        return "_".join(parts) if rng.random() < 0.85 else parts[0] + "".join(part.title() for part in parts[1:])
    if rng.random() < 0.5:
        return rng.choice(names)
    return "_".join(filter(None, [rng.choice(verbs), rng.choice(["", "", "", "local", "the", "my", "current", "new"]), rng.choice(nouns)]))


def idle_function(rng: Random) -> Function:
    """A random function that no user needs."""
    name, text, properties = rng.choice(IDLE)
    schema = {"type": "object", "properties": {key: {"type": type_} for key, type_ in properties.items()}, "required": list(properties)}
    return Function("idle", ToolDescription(name, text, schema if properties else None), {})


def weather_result(rng: Random, unit: str | None) -> tuple[str, str]:
    """A random result of a weather function, and the same weather in the words of nano's answer."""
    condition = rng.choice(CONDITIONS)
    degrees = rng.randint(-20, 42) if unit != "fahrenheit" else rng.randint(-4, 108)
    letter = {"celsius": "C", "fahrenheit": "F", None: ""}[unit or rng.choice([None, "celsius", "celsius", "fahrenheit"])]
    if letter:
        word = "celsius" if letter == "C" else "fahrenheit"
        raw = rng.choice([
            {"temperature": degrees, "unit": word, "condition": condition}, {"temp": f"{degrees}°{letter}", "conditions": condition}, {f"temp_{letter.lower()}": degrees, "condition": condition},
            f"{degrees}°{letter}, {condition}", f"{condition}, {degrees}°{letter}", f"{condition.capitalize()}, {degrees} °{letter}", {"temperature": f"{degrees} {letter}", "weather": condition}, {"condition": condition, "temperature": degrees, "unit": letter}, {"temperature": degrees, "units": word, "description": condition},
        ])
        shown = f"{degrees} °{letter}"
    else:
        raw = rng.choice([
            {"temperature": degrees, "condition": condition}, {"condition": condition, "temperature": degrees}, {"temp": degrees, "conditions": condition}, {"weather": condition, "temp": degrees}, f"{condition}, {degrees} degrees", f"{degrees} degrees, {condition}",
            {"temperature": degrees, "description": condition}, f"{degrees} and {condition}", {"sky": condition, "temperature": degrees}, f"{condition.capitalize()}, {degrees} degrees.",
        ])
        shown = f"{degrees} degrees"
    return _text(raw, rng), f"{condition}, {shown}"


def number_result(rng: Random, value: str) -> str:
    """`value` in one of the forms in which calculators return a number."""
    number = json.loads(value)
    return _text(rng.choice([value, value, {"result": number}, {"result": value}, {"value": number}, {"answer": number}, f"The result is {value}", f"= {value}"]), rng)


def time_result(rng: Random) -> tuple[str, str]:
    """A random result of a clock function, and its time as HH:MM."""
    clock = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    return _text(rng.choice([clock, {"time": clock}, {"local_time": clock}, {"time": clock, "day": "Monday"}, f"It is {clock}", {"now": clock}]), rng), clock


def done_result(rng: Random) -> str:
    """A random result that reports success."""
    return _text(rng.choice(["ok", "OK", "done", "sent", {"status": "ok"}, {"status": "sent"}, {"ok": True}, {"success": True}, "success", {"status": "done"}, {"result": "ok"}]), rng)


def error_result(rng: Random) -> tuple[str, str]:
    """A random result that reports an error, and the error text in it."""
    text = rng.choice(["not found", "city not found", "unknown place", "no connection", "timeout", "service unavailable", "invalid argument", "no data", "access denied", "unknown error", "not available", "too many requests"])
    return _text(rng.choice([{"error": text}, f"Error: {text}", f"error: {text}", {"status": "error", "message": text}, {"ok": False, "error": text}]), rng), text


def _text(raw: Any, rng: Random) -> str:
    """Text as it is; other values as JSON, sometimes compact."""
    if isinstance(raw, str):
        return raw
    return json.dumps(raw, separators=(",", ":") if rng.random() < 0.25 else None, ensure_ascii=False)
