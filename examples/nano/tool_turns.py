"""Turns that need a tool: arithmetic and the functions of developers. Without the tool, nano says that it needs one."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import facts
import phrasings as say
import tools
from knowledge import ALL_CITIES
from scenes import Call, Scene, Turn, any_word, expand, made_up_name, speak
from words import COMMON

SIGNS = {"+": "+", "-": "-", "*": "×", "/": "÷"}  # noqa: RUF001
EASY_DIVISORS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 20, 25, 48, 100)


@dataclass(frozen=True)
class Sum:
    """A sum (or difference, product, quotient) of two numbers.

    Attributes:
        a: First number, as written.
        b: Second number, as written.
        sign: One of + - * /.
    """

    a: str
    b: str
    sign: str

    def code(self, blank: str = "") -> str:
        """The sum as an expression in Python, with `blank` around the sign."""
        b = f"({self.b})" if self.b.startswith("-") else self.b
        return f"{self.a}{blank}{self.sign}{blank}{b}"

    def value(self) -> str:
        """The result, rounded to 4 decimals; whole numbers without a decimal point."""
        a, b = float(self.a), float(self.b)
        exact = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else 0.0}[self.sign]
        value = round(exact, 4)
        return str(int(value)) if value == int(value) else str(value)

    def shown(self) -> str:
        """The sum as nano writes it in an answer."""
        return f"{self.a} {SIGNS[self.sign]} {self.b}"


def any_sum(rng: Random, small: bool) -> Sum:
    """A random sum. Small ones have numbers up to 12 (up to 144 before a division) and whole results."""
    sign = rng.choice("++--**/")
    if small:
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        if sign == "/":
            b = max(b, 1)
            a *= b
        return Sum(str(a), str(b), sign)
    numbers = [_number(rng) for _ in range(2)]
    if sign == "/":
        numbers[1] = str(rng.choice([*EASY_DIVISORS, rng.randint(2, 99), rng.randint(2, 999)]))
        if rng.random() < 0.6:
            numbers[0] = str(int(numbers[1]) * rng.randint(2, 120))
    return Sum(*numbers, sign)


def _number(rng: Random) -> str:
    if rng.random() < 0.07:
        return f"{rng.randint(0, 99)}.{rng.randint(1, 99):0{rng.choice([1, 2])}}".rstrip("0").removesuffix(".")
    size = rng.choice([10, 100, 100, 1000, 1000, 10000])
    number = str(rng.randrange(size))
    return f"-{number}" if rng.random() < 0.08 and number != "0" else number


def arithmetic(scene: Scene, follow: bool = False) -> Turn:
    """The user asks for a sum.

    nano uses the calculator function or the python tool. Without both, it knows small sums by heart and says that it
    needs a tool for others.

    Args:
        scene: The scene of the conversation.
        follow: Whether the last turn was a sum too.
    """
    rng = scene.rng
    calculator = scene.function("calculator")
    has_tool = scene.python or calculator is not None
    what = any_sum(rng, small=rng.random() < (0.25 if has_tool else 0.7))
    slots = {"a": what.a, "b": what.b}
    if rng.random() < 0.08 and all(part.isdigit() and int(part) <= 12 for part in slots.values()):
        slots = {key: facts.NUMBER_WORDS[int(value)] for key, value in slots.items()}
    if not follow and rng.random() < 0.15:
        template = rng.choice(say.IMPERATIVES[what.sign])
    else:
        template = rng.choice(say.SUM_FOLLOW_UP if follow else say.SUMS).replace(
            "{e}", rng.choice(say.EXPRESSIONS[what.sign])
        )
    user = speak(scene, template, **slots)
    gist = f"wants {what.code(' ')}"
    final = f"{what.shown()} = {what.value()}."
    if calculator:
        call = Call(
            f"functions.{calculator.name}",
            calculator.call(expression=what.code(" ")),
            tools.number_result(rng, what.value()),
        )
    elif scene.python:
        float_ = what.sign == "/" or "." in what.a + what.b
        code = f"print(round({what.code()}, 4))" if float_ else f"print({what.code()})"
        result = what.value()
        call = Call("python", code, f"{result}.0" if float_ and "." not in result else result)
    else:
        known = (
            all(part.isdigit() for part in (what.a, what.b))
            and max(int(what.b), int(what.a) if what.sign != "/" else 0) <= 12
            and (what.sign != "/" or (int(what.b) > 0 and int(what.a) <= 144 and int(what.a) % int(what.b) == 0))
        )
        return Turn(
            "sum_by_heart" if known else "sum_too_big",
            user,
            gist,
            final if known else say.NEED_TOOL,
            topic="sum",
            plan="I know it by heart." if known else "I have no tool for this.",
        )
    return Turn(
        f"sum_{'calculator' if calculator else 'python'}", user, gist, final, call, topic="sum", plan="I use the tool."
    )


# ---- developer functions ----


def _city(scene: Scene) -> str:
    return scene.rng.choice(ALL_CITIES) if scene.rng.random() < 0.72 else made_up_name(scene)


def weather(scene: Scene, follow: bool = False) -> Turn:
    """The user asks for the weather in a city. `follow`: the last turn was about the weather too."""
    rng, function, city = scene.rng, scene.function("weather"), _city(scene)
    template = rng.choice(say.WEATHER_FOLLOW_UP if follow else say.WEATHER_ASK)
    unit = rng.choice(tools.UNITS) if function and function.unit and rng.random() < 0.4 else None
    if unit:
        template += rng.choice(say.UNIT_ASK[unit])
    user, gist = speak(scene, template, x=city), f"asks for the weather in {city}"
    if function is None:
        return Turn(
            "weather_without", user, gist, say.NO_WEATHER, topic="weather_without", plan="I have no function for it."
        )
    arguments = function.call(city=city, unit=unit)
    return _called(scene, "weather", user, gist, function, arguments, *_weather_result(rng, unit, city))


def _weather_result(rng: Random, unit: str | None, city: str) -> tuple[str, str]:
    result, shown = tools.weather_result(rng, unit)
    return result, f"The weather in {city}: {shown}."


def _called(
    scene: Scene, intent: str, user: str, gist: str, function: tools.Function, arguments: str, result: str, final: str
) -> Turn:
    """A turn with a function call. Rarely, the call fails and nano reports the error."""
    if scene.rng.random() < 0.003:
        result, text = tools.error_result(scene.rng)
        final = f"Sorry, that did not work: {text}."
    return Turn(
        intent,
        user,
        gist,
        final,
        Call(f"functions.{function.name}", arguments, result),
        topic=intent,
        plan="I call the function.",
    )


def weather_where(scene: Scene) -> Turn | None:
    """The user asks for the weather without a city; or names the city, if nano asked for it in the last turn.

    None if the scene has no weather function.
    """
    rng, function = scene.rng, scene.function("weather")
    if function is None:
        return None
    if scene.turns and scene.turns[-1].topic == "where":
        city = _city(scene)
        user = speak(scene, rng.choice(say.WHERE), 0.05, x=city)
        return _called(
            scene,
            "weather_city",
            user,
            f"asks for the weather in {city}",
            function,
            function.call(city=city),
            *_weather_result(rng, None, city),
        )
    return Turn(
        "weather_where",
        speak(scene, rng.choice(say.WEATHER_HERE)),
        "asks for the weather without a city",
        "Which city do you mean?",
        topic="where",
        plan="I need a city.",
    )


def time(scene: Scene) -> Turn:
    """The user asks for the time in a city."""
    rng, function, city = scene.rng, scene.function("time"), _city(scene)
    user, gist = (speak(scene, rng.choice(say.TIME_ASK), x=city), f"asks for the time in {city}")
    if function is None:
        return Turn("time_without", user, gist, say.NO_TIME, topic="time_without", plan="I have no function for it.")
    result, clock = tools.time_result(rng)
    return _called(scene, "time", user, gist, function, function.call(city=city), result, f"It is {clock} in {city}.")


def _message_text(scene: Scene) -> str:
    """A usual message or random words, so that nano learns to copy any text."""
    rng, kind = scene.rng, scene.rng.random()
    if kind < 0.2:
        return rng.choice(say.MESSAGES)
    if kind < 0.4:
        return " ".join(any_word(scene) for _ in range(rng.randint(1, 6)))
    text = expand(rng.choice(say.MESSAGE_PARTS), rng)
    while "{noun}" in text:
        text = text.replace("{noun}", rng.choice(COMMON) if rng.random() < 0.8 else any_word(scene), 1)
    while "{adj}" in text:
        text = text.replace("{adj}", rng.choice(say.MESSAGE_ADJ) if rng.random() < 0.7 else any_word(scene), 1)
    return text.replace("{n}", str(rng.randint(1, 60))).replace("{day}", rng.choice(facts.DAYS))


def message(scene: Scene) -> Turn:
    """The user wants to send a message to a person."""
    rng, function = scene.rng, scene.function("message")
    to = rng.choice(facts.NAMES) if rng.random() < 0.7 else made_up_name(scene)
    text = _message_text(scene)
    user = speak(scene, rng.choice(say.MESSAGE_ASK), 0.12, to=to, text=text)
    if text not in user:  # The text to copy must not contain typing errors.
        user = speak(scene, "send {to} a message: {text}", 0.0, to=to, text=text)
    if function is None:
        return Turn(
            "message_without",
            user,
            "wants to send a message",
            say.NO_MESSAGE,
            topic="message_without",
            plan="I have no function for it.",
        )
    return _called(
        scene,
        "message",
        user,
        f"wants to send a message to {to}",
        function,
        function.call(to=to, text=text),
        tools.done_result(rng),
        f"Your message to {to} was sent.",
    )


def timer(scene: Scene) -> Turn:
    """The user wants a timer."""
    rng, function = scene.rng, scene.function("timer")
    minutes = rng.choice([1, 2, 3, 5, 10, 15, 20, 25, 30, 45, 60, 90, rng.randint(1, 120), rng.randint(1, 999)])
    user = speak(scene, rng.choice(say.TIMER_ASK), n=str(minutes))
    if function is None:
        return Turn(
            "timer_without",
            user,
            "wants a timer",
            say.NO_TIMER,
            topic="timer_without",
            plan="I have no function for it.",
        )
    return _called(
        scene,
        "timer",
        user,
        f"wants a timer for {minutes} minutes",
        function,
        function.call(minutes=minutes),
        tools.done_result(rng),
        f"Done: a timer for {minutes} minutes.",
    )
