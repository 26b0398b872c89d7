"""Generated school mathematics: worked problems, step by step, from a seed."""

import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction

NAMES = ("Ada", "Ben", "Chen", "Dara", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mina", "Noor")
THINGS = ("apples", "pencils", "marbles", "stickers", "books", "coins", "tickets", "stamps", "shells", "cards")
PLACES = ("the market", "school", "the library", "the station", "the beach", "the fair", "the garden", "the shop")


def school_mathematics(seed: int) -> Iterator[str]:
    """Endless documents of eight problems each; the same seed gives the same text on every machine."""
    draw = random.Random(seed)
    while True:
        kinds = draw.choices(PROBLEMS, k=8)
        yield "\n\n".join(kind(draw) for kind in kinds)


def _addition(draw: random.Random) -> str:
    a, b, c = (draw.randint(11, 999) for _ in range(3))
    name, thing, place = draw.choice(NAMES), draw.choice(THINGS), draw.choice(PLACES)
    return (
        f"{name} has {a} {thing} and finds {b} more at {place}. Then {name} gives away {min(c, a + b)} of them. "
        f"How many {thing} are left?\nFirst add: {a} + {b} = {a + b}. Then subtract: {a + b} - {min(c, a + b)} = "
        f"{a + b - min(c, a + b)}. Answer: {a + b - min(c, a + b)} {thing}."
    )


def _product(draw: random.Random) -> str:
    a, b = draw.randint(12, 99), draw.randint(12, 99)
    tens, ones = b // 10 * 10, b % 10
    return (
        f"Compute {a} x {b}.\nSplit {b} into {tens} and {ones}. {a} x {tens} = {a * tens}. {a} x {ones} = {a * ones}. "
        f"The sum is {a * tens} + {a * ones} = {a * b}. Answer: {a * b}."
    )


def _division(draw: random.Random) -> str:
    d, q = draw.randint(3, 25), draw.randint(4, 90)
    r = draw.randint(0, d - 1)
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    return (
        f"{name} puts {d * q + r} {thing} into bags of {d}. How many full bags are there, and how many {thing} remain?\n"
        f"{d} x {q} = {d * q}, and {d * q + r} - {d * q} = {r}. Answer: {q} bags, {r} left over."
    )


def _fractions(draw: random.Random) -> str:
    a, b = (Fraction(draw.randint(1, 9), draw.randint(2, 12)) for _ in range(2))
    common = math.lcm(a.denominator, b.denominator)
    left, right = a.numerator * common // a.denominator, b.numerator * common // b.denominator
    return (
        f"Add the fractions {a} and {b}.\nThe least common denominator of {a.denominator} and {b.denominator} is {common}. "
        f"{a} = {left}/{common} and {b} = {right}/{common}. {left} + {right} = {left + right}, so the sum is "
        f"{left + right}/{common}. In lowest terms: {a + b}."
    )


def _equation(draw: random.Random) -> str:
    x, a, b = draw.randint(-12, 12), draw.randint(2, 12), draw.randint(-30, 30)
    sign = "+" if b >= 0 else "-"
    return (
        f"Solve {a}x {sign} {abs(b)} = {a * x + b}.\n{'Subtract' if b >= 0 else 'Add'} {abs(b)} on both sides: "
        f"{a}x = {a * x}. Divide by {a}: x = {x}. Check: {a} * ({x}) {sign} {abs(b)} = {a * x + b}."
    )


def _system(draw: random.Random) -> str:
    x, y, a, b = draw.randint(-9, 9), draw.randint(-9, 9), draw.randint(2, 7), draw.randint(2, 7)
    return (
        f"Solve the system x + y = {x + y} and {a}x - {b}y = {a * x - b * y}.\nFrom the first, y = {x + y} - x. Put it in: "
        f"{a}x - {b}({x + y} - x) = {a * x - b * y}, so {a + b}x = {(a + b) * x} and x = {x}. Then y = {y}."
    )


def _geometry(draw: random.Random) -> str:
    a, b = draw.randint(3, 60), draw.randint(3, 60)
    m, n = sorted(draw.sample(range(1, 9), 2))
    legs = (n * n - m * m, 2 * m * n, n * n + m * m)
    return draw.choice(
        (
            f"A rectangle is {a} cm long and {b} cm wide. Find its perimeter and area.\nPerimeter: 2 x ({a} + {b}) = "
            f"{2 * (a + b)} cm. Area: {a} x {b} = {a * b} square cm.",
            f"A right triangle has legs {legs[0]} and {legs[1]}. How long is the hypotenuse?\nBy Pythagoras, "
            f"{legs[0]}^2 + {legs[1]}^2 = {legs[0] ** 2} + {legs[1] ** 2} = {legs[2] ** 2}, and the root is {legs[2]}.",
            f"A triangle has base {2 * a} m and height {b} m. Its area is half of {2 * a} x {b}, that is {a * b} square m.",
        )
    )


def _percent(draw: random.Random) -> str:
    price, rate = draw.randint(2, 90) * 20, draw.choice((5, 10, 15, 20, 25, 30, 40, 50))
    off = price * rate // 100
    return (
        f"A coat costs {price} dollars and is sold with {rate}% off. What is the new price?\n{rate}% of {price} is "
        f"{price} x {rate} / 100 = {off}. {price} - {off} = {price - off}. Answer: {price - off} dollars."
    )


def _sequence(draw: random.Random) -> str:
    start, step, count = draw.randint(-20, 60), draw.randint(2, 19), draw.randint(8, 30)
    last = start + (count - 1) * step
    shown = ", ".join(str(start + i * step) for i in range(4))
    return (
        f"Find term {count} of the sequence {shown}, ... and the sum of the first {count} terms.\nThe difference is {step}. "
        f"Term {count} is {start} + {count - 1} x {step} = {last}. The sum is {count} x ({start} + {last}) / 2 = "
        f"{count * (start + last) // 2}."
    )


def _speed(draw: random.Random) -> str:
    speed, hours = draw.randint(4, 130), draw.randint(2, 9)
    name = draw.choice(NAMES)
    return (
        f"{name} travels {speed * hours} km to {draw.choice(PLACES)} in {hours} hours. What is the mean speed?\n"
        f"Speed is distance over time: {speed * hours} / {hours} = {speed}. Answer: {speed} km per hour."
    )


def _divisor(draw: random.Random) -> str:
    a, b = draw.randint(12, 400), draw.randint(12, 400)
    steps, x, y = [], max(a, b), min(a, b)
    while y:
        steps.append(f"{x} = {x // y} x {y} + {x % y}")
        x, y = y, x % y
    return f"Find the greatest common divisor of {a} and {b}.\n" + ". ".join(steps) + f". The last divisor is {x}."


PROBLEMS: tuple[Callable[[random.Random], str], ...] = (
    _addition,
    _product,
    _division,
    _fractions,
    _equation,
    _system,
    _geometry,
    _percent,
    _sequence,
    _speed,
    _divisor,
)
