"""Generates the tiny world: arithmetic chains with worked steps, and the texts from which the base model learns them.

A problem such as ``27 a+5 b*2 c-8`` starts from a number and applies one operation a step; its solution names the value
after each step, ``a=32 b=64 c=56``, and boxes the last one. All values stay between 0 and 49.

The base model's training text holds two styles. *Teacher style* follows the hint's correct steps. *Student style* has
no hint and makes mistakes of two kinds: random slips (a step off by 1, 2 or 10), which sharpening the policy can cure,
and a misconception (doubling forgets the carry, 27*2=44), more frequent than the right rule, which only learning can.
"""

from dataclasses import dataclass
import random

from sdpg.errors import UserError

LARGEST = 49
"""The largest value of any family, and of any slip."""


@dataclass(frozen=True)
class Family:
    """A kind of synthetic problem.

    Attributes:
        lengths: the allowed numbers of steps.
        doublings: the number of steps that double with a carry, which is what the misconception gets wrong.
        largest: the largest value of a problem.
        doubled: the smallest number that is doubled.
    """

    lengths: tuple[int, ...]
    doublings: int
    largest: int = LARGEST
    doubled: int = 0


FAMILIES = {
    "digit-2": Family((2,), 0, largest=9),
    "chain-2": Family((2,), 0),
    "chain-3": Family((3,), 0),
    "chain-4": Family((4,), 0),
    "chain-5": Family((5,), 0),
    "carry-1": Family((1, 2), 1),
    "carry-3": Family((3,), 1),
    "carry-4": Family((4,), 2),
    "carry-tens": Family((3,), 1, doubled=10),
}
LABELS = "abcdefgh"
SLIPS = (-10, -2, -1, 1, 2, 10)
LARGE_NUMBERS = 0.25
"""Factor by which the right rule is rarer where the doubled number has two digits, so that some problems are hard."""


@dataclass(frozen=True)
class Step:
    """One operation: ``+n``, ``-n`` or ``*2``."""

    operator: str
    operand: int

    def apply(self, value: int) -> int:
        """Returns the right result."""
        match self.operator:
            case "+":
                return value + self.operand
            case "-":
                return value - self.operand
            case _:
                return value * self.operand

    def carries(self, value: int) -> bool:
        """Returns whether this step doubles a number whose last digit makes a carry."""
        return self.operator == "*" and value % 10 >= 5


def without_carry(value: int) -> int:
    """Doubles digit by digit and forgets the carry: 27 → 44."""
    return value // 10 * 20 + value % 10 * 2 % 10


@dataclass(frozen=True)
class Chain:
    """One problem of the world."""

    family: str
    start: int
    steps: tuple[Step, ...]

    @property
    def problem(self) -> str:
        """Returns the problem's text as the prompts show it."""
        steps = (f"{label}{step.operator}{step.operand}" for label, step in zip(LABELS, self.steps, strict=False))
        return " ".join((str(self.start), *steps))

    def work(self, mistakes: random.Random | None = None, slip_rate: float = 0, misconception_rate: float = 0) -> str:
        """Returns the worked steps and the boxed answer, with mistakes if a source of randomness is given."""
        value, lines = self.start, []
        for label, step in zip(LABELS, self.steps, strict=False):
            result = step.apply(value)
            if mistakes is not None:
                if step.carries(value):
                    right = (1 - misconception_rate) * (1 if value < 10 else LARGE_NUMBERS)
                    if mistakes.random() >= right:
                        result = without_carry(value)
                elif mistakes.random() < slip_rate:
                    result += mistakes.choice(SLIPS)
                result = min(max(result, 0), LARGEST)
            lines.append(f"{label}={result}")
            value = result
        return " ".join(lines) + f" \\boxed{{{value}}}"

    def mistaken(self, rng: random.Random) -> tuple[str, str]:
        """Draws worked steps that end in a wrong answer, and returns that answer and the steps.

        Doubling forgets every carry; other steps slip, as often as not.
        """
        while True:
            work = self.work(rng, slip_rate=0.5, misconception_rate=1.0)
            answer = work.rpartition("{")[2].removesuffix("}")
            if answer != self.answer:
                return answer, work

    @property
    def solution(self) -> str:
        """Returns the correct worked solution."""
        return self.work()

    @property
    def answer(self) -> str:
        """Returns the last value as text."""
        value = self.start
        for step in self.steps:
            value = step.apply(value)
        return str(value)


def draw_chain(family_name: str, rng: random.Random) -> Chain:
    """Draws a problem of one family, by rejection: every value stays in 0…largest."""
    if family_name not in FAMILIES:
        raise UserError(f"synthetic family {family_name!r} does not exist; there are: {', '.join(FAMILIES)}")
    family = FAMILIES[family_name]
    edge = min(5, family.largest // 4)
    while True:
        length = rng.choice(family.lengths)
        doubled = set(rng.sample(range(length), family.doublings))
        start = value = rng.randint(edge, family.largest - edge)
        steps: list[Step] = []
        for position in range(length):
            step = Step("*", 2) if position in doubled else Step(rng.choice("+-"), rng.randint(2, 6))
            usable = position not in doubled or (step.carries(value) and value >= family.doubled)
            if not usable or not 0 <= step.apply(value) <= family.largest:
                break
            steps.append(step)
            value = step.apply(value)
        if len(steps) == length:
            return Chain(family_name, start, tuple(steps))


def draw_chains(
    families: dict[str, float], count: int, seed: int, exclude: frozenset[str] = frozenset()
) -> list[Chain]:
    """Draws ``count`` different problems in the given proportions, none of them among the problem texts ``exclude``.

    Raises:
        UserError: if a family is unknown or cannot supply so many different problems.
    """
    rng = random.Random(seed)
    seen, chains, rejected = set(exclude), [], 0
    names, shares = list(families), list(families.values())
    while len(chains) < count:
        chain = draw_chain(rng.choices(names, shares)[0], rng)
        if chain.problem in seen:
            rejected += 1
            if rejected > 50 * count + 1000:
                raise UserError(f"the families {names} hold fewer than {count} different problems: lower the count")
            continue
        seen.add(chain.problem)
        chains.append(chain)
    return chains
