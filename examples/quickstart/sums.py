"""Word arithmetic: small addition and subtraction stories about things that people own."""

import random
from dataclasses import dataclass

from grammar import BOYS, GIRLS

LARGEST = 30
ITEMS = [
    "apples",
    "books",
    "pens",
    "eggs",
    "coins",
    "cards",
    "stones",
    "shells",
    "cups",
    "balls",
    "keys",
    "stamps",
]
GAINS = ["buys", "finds", "gets", "makes"]
LOSSES = ["loses", "sells", "breaks", "drops"]

Pair = tuple[int, int]


def all_pairs() -> list[Pair]:
    """Return all pairs of operands, the larger one first."""
    return [(a, b) for a in range(2, LARGEST + 1) for b in range(2, a + 1)]


def pair_of(a: int, b: int) -> Pair:
    """Return the operands in the order of `all_pairs`."""
    return max(a, b), min(a, b)


@dataclass(frozen=True)
class Step:
    """One sum: `left` plus or minus `right`."""

    left: int
    right: int
    verb: str

    @property
    def result(self) -> int:
        """The sum's result."""
        return self.left + self.right if self.verb in GAINS else self.left - self.right

    @property
    def told(self) -> str:
        """The sum in words: '12 plus 7 is 19.'."""
        sign = "plus" if self.verb in GAINS else "minus"
        return f"{self.left} {sign} {self.right} is {self.result}."


@dataclass(frozen=True)
class Problem:
    """A story of one or two sums."""

    name: str
    item: str
    steps: tuple[Step, ...]

    @property
    def facts(self) -> str:
        """The story without its ending."""
        he = "He" if self.name in BOYS else "She"
        told = [f"{self.name} has {self.steps[0].left} {self.item}."]
        for number, step in enumerate(self.steps):
            amount = f"{step.right} more" if step.verb in GAINS else f"{step.right} of them"
            told.append(f"{'Then ' + he.lower() if number else he} {step.verb} {amount}.")
        return " ".join(told)

    @property
    def working(self) -> str:
        """The sums of the story, one after another."""
        return " ".join(step.told for step in self.steps)

    @property
    def ending(self) -> str:
        """The end of the story."""
        return f"Now {self.name} has {self.steps[-1].result} {self.item}."

    @property
    def question(self) -> str:
        """The task's question; the base text never asks in these words."""
        return f"{self.facts} How many {self.item} does {self.name} have now?"

    @property
    def answer(self) -> str:
        """The task's worked answer."""
        return f"{self.working} {self.ending}\n#### {self.steps[-1].result}"

    def slip(self, rng: random.Random) -> str:
        """The worked answer with a wrong last sum."""
        right = self.steps[-1].result
        wrong = rng.choice([each for each in (right - 10, right - 2, right - 1, right + 1, right + 2) if each >= 0])
        text = self.answer
        for mark in ("is {}. Now", " has {} ", "#### {}"):
            text = text.replace(mark.format(right), mark.format(wrong))
        return text

    def base_text(self, rng: random.Random) -> str:
        """Tell the story in one of several ways, as in the base text."""
        asked = rng.choice(("", f" How many {self.item} are there in the end?"))
        working = f"{self.working} " if rng.random() < 0.9 else ""
        gap = rng.choice((" ", "\n"))
        return f"{self.facts}{asked}{gap}{working}{self.ending}"


def make_step(rng: random.Random, pairs: set[Pair], left: int | None = None) -> Step | None:
    """Draw a sum whose operands are one of the pairs.

    Args:
        rng: The source of all random choices.
        pairs: The pairs to draw from.
        left: The left operand, if it is fixed.

    Returns:
        A sum with a result from 2 to `LARGEST`, or None if the draw gave none.
    """
    start = rng.randint(2, LARGEST) if left is None else left
    step = Step(start, rng.randint(2, LARGEST - 2), rng.choice(rng.choice((GAINS, LOSSES))))
    fits = 2 <= step.result <= LARGEST and pair_of(step.left, step.right) in pairs
    return step if fits else None


def make_problem(rng: random.Random, pairs: set[Pair], two_steps: float) -> Problem:
    """Draw a story, with two sums at the given probability."""
    count = 2 if rng.random() < two_steps else 1
    steps: list[Step] = []
    while len(steps) < count:
        step = make_step(rng, pairs, steps[-1].result if steps else None)
        if step is not None:
            steps.append(step)
        elif rng.random() < 0.05:
            steps.clear()
    return Problem(rng.choice(BOYS + GIRLS), rng.choice(ITEMS), tuple(steps))
