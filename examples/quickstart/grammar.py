"""A small English grammar: a sentence generator, a recogniser, and a generator of ungrammatical sentences.

Every word has exactly one tag of one character, so that a sentence is a string of tags and the
grammar is one regular expression over such strings. The recogniser accepts more than is generated,
so that removing a word never leaves another grammatical sentence and corrupted sentences are plainly
wrong.
"""

import random
import re
from dataclasses import dataclass

Token = tuple[str, str]
Sentence = list[Token]

KINDS = ("agreement", "article", "word-order", "missing-word")
BOYS = ["Tom", "Ben", "Sam", "Max", "Leo", "Dan"]
GIRLS = ["Mia", "Ann", "Eva", "Zoe", "Lucy", "Kate"]
ANIMATE = "dog cat bird girl boy pilot farmer baker child prince artist actor elephant owl ant"
THING = "box tree house table chair garden car river bridge anchor oven island umbrella arch"
IRREGULAR_PLURALS = {"child": "children", "box": "boxes", "arch": "arches"}
PLAIN_ADJECTIVES = "big small red green happy young tall hungry strong heavy"
VOWEL_ADJECTIVES = "old angry ugly eager odd idle awful icy"
TRANSITIVE = (
    "sees see saw|likes like liked|watches watch watched|follows follow followed|"
    "helps help helped|visits visit visited|carries carry carried|paints paint painted|"
    "pushes push pushed|touches touch touched|loves love loved|remembers remember remembered|"
    "has have had"
)
INTRANSITIVE = (
    "sleeps sleep slept|runs run ran|sings sing sang|smiles smile smiled|waits wait waited|"
    "laughs laugh laughed|swims swim swam|jumps jump jumped|arrives arrive arrived"
)
CLOSED_CLASS = {
    "a": "a",
    "b": "an",
    "t": "the my our his her",
    "s": "this that every",
    "p": "these those many two several",
    "c": "is",
    "C": "are",
    "k": "was",
    "K": "were",
    "x": "wants",
    "X": "want",
    "w": "wanted",
    "o": "to",
    "M": "can will must",
    "z": "does",
    "Z": "do",
    "B": "did",
    "T": "not",
    "q": "by behind under with beside",
    "d": "often always never sometimes",
    "e": "today again now tonight",
    "&": "and",
    "u": "because when while",
    "h": "he she",
    "y": "they we",
}
VERBAL = "iIPvWQcCkKxXwMzZBd"
FLIPPED = {"i": "I", "v": "W", "x": "X", "c": "C", "k": "K", "z": "Z"}
FLIPPED |= {plural: singular for singular, plural in FLIPPED.items()}


def _plural(noun: str) -> str:
    return IRREGULAR_PLURALS.get(noun, noun + "s")


def _noun_tag(noun: str) -> str:
    return "V" if noun[0] in "aeiou" else "n"


def _build_lexicon() -> dict[str, list[str]]:
    """Return the words of each tag, checking that no word has two tags."""
    lexicon = {tag: words.split() for tag, words in CLOSED_CLASS.items()}
    lexicon |= {"N": BOYS + GIRLS, "j": PLAIN_ADJECTIVES.split(), "J": VOWEL_ADJECTIVES.split()}
    for tags, verbs in (("vWQ", TRANSITIVE), ("iIP", INTRANSITIVE)):
        for tag, forms in zip(tags, zip(*(verb.split() for verb in verbs.split("|")), strict=True), strict=True):
            lexicon[tag] = list(forms)
    nouns = f"{ANIMATE} {THING}".split()
    for tag in "nV":
        lexicon[tag] = [noun for noun in nouns if _noun_tag(noun) == tag]
    lexicon["m"] = [_plural(noun) for noun in nouns]
    words = [word for group in lexicon.values() for word in group]
    assert len(words) == len(set(words)), "a word has two tags"
    return lexicon


LEXICON = _build_lexicon()


def _build_recogniser() -> re.Pattern[str]:
    """Return the whole grammar as one regular expression over tags.

    It also accepts English that is never generated: ellipsis ('he can'), a noun phrase after 'is' or
    after any verb ('jumps the river'), and two objects ('paints the dog a tree').
    """
    singular = "(?:[ts][jJ]?[nV]|a(?:j[nV]|n)|b(?:J[nV]|V)|N)"
    plural = "(?:[tp]?[jJ]?m|N&N)"
    phrase = f"(?:{singular}|{plural})"
    place = f"(?:q{phrase})"
    loose = f"(?:q?{phrase})?"
    base = f"(?:I?{loose}|W{phrase}{loose})"
    past = f"d?(?:P{loose}|Q{phrase}{loose}|wo{base})|M{base}|BT{base}"

    def predicate(intransitive: str, transitive: str, want: str, be: str, do: str) -> str:
        present = f"d?(?:{intransitive}{loose}|{transitive}{phrase}{loose}|{want}o{base})"
        return f"(?:{present}|[{be}](?:[jJ]|{loose})|{do}T{base}|{past})e?"

    one = f"(?:h|{singular}{place}?){predicate('i', 'v', 'x', 'ck', 'z')}"
    many = f"(?:y|{plural}{place}?){predicate('I', 'W', 'X', 'CK', 'Z')}"
    clause = f"(?:{one}|{many})"
    return re.compile(f"{clause}(?:u{clause})?")


RECOGNISER = _build_recogniser()


def is_grammatical(sentence: Sentence) -> bool:
    """Return whether the grammar accepts a sentence."""
    return RECOGNISER.fullmatch("".join(tag for _, tag in sentence)) is not None


def render(sentence: Sentence) -> str:
    """Write out a sentence, with a capital letter and a full stop."""
    text = " ".join(word for word, _ in sentence)
    return text[0].upper() + text[1:] + "."


@dataclass
class Grammar:
    """Generates random sentences of the grammar.

    Attributes:
        rng: The source of all random choices.
    """

    rng: random.Random

    def word(self, tags: str) -> Token:
        """Draw a word that has one of the tags."""
        tag = self.rng.choice(tags)
        return self.rng.choice(LEXICON[tag]), tag

    def noun_phrase(self, nouns: str, plural: bool) -> Sentence:
        """Make a noun phrase from one of the given nouns: 'an old dog', 'these cars', 'Tom'."""
        rng = self.rng
        if nouns is ANIMATE and rng.random() < 0.2:
            first, second = rng.sample(LEXICON["N"], 2)
            return [(first, "N"), ("and", "&"), (second, "N")] if plural else [(first, "N")]
        noun = rng.choice(nouns.split())
        tail = [(_plural(noun), "m") if plural else (noun, _noun_tag(noun))]
        if rng.random() < 0.3:
            tail.insert(0, self.word("jJ"))
        if plural:
            return tail if rng.random() < 0.1 else [self.word("tp"), *tail]
        indefinite = "b" if tail[0][1] in "JV" else "a"
        return [self.word(rng.choice((indefinite, indefinite, "t", "s"))), *tail]

    def place(self, chance: float) -> Sentence:
        """Make a phrase such as 'by the tree', or nothing."""
        rng = self.rng
        if rng.random() >= chance:
            return []
        nouns = rng.choice((ANIMATE, THING))
        return [self.word("q"), *self.noun_phrase(nouns, rng.random() < 0.5)]

    def action(self, tags: str) -> Sentence:
        """Make a verb with its object; the tags are those of the intransitive and the transitive form."""
        verb = self.word(tags)
        if verb[1] in "iIP":
            return [verb, *self.place(0.4)]
        nouns = self.rng.choice((ANIMATE, THING))
        return [verb, *self.noun_phrase(nouns, self.rng.random() < 0.4), *self.place(0.15)]

    def predicate(self, plural: bool, acting: bool) -> Sentence:
        """Make a predicate for a subject of the given number and ability to act."""
        rng = self.rng
        if not acting or rng.random() < 0.15:
            state = [self.word("jJ")] if rng.random() < 0.5 else self.place(1.0)
            return [self.word("CK" if plural else "ck"), *state]
        form = rng.choice(("present", "present", "present", "past", "want", "modal", "negated"))
        if form == "modal":
            return [self.word("M"), *self.action("IW")]
        if form == "negated":
            return [self.word("ZB" if plural else "zB"), self.word("T"), *self.action("IW")]
        adverb = [self.word("d")] if rng.random() < 0.2 else []
        if form == "want":
            wish = self.word("Xw" if plural else "xw")
            return [*adverb, wish, self.word("o"), *self.action("IW")]
        return [*adverb, *self.action("PQ" if form == "past" else "IW" if plural else "iv")]

    def clause(self, subject: Sentence | None = None) -> Sentence:
        """Make a subject (or use the given singular one) with its predicate."""
        rng = self.rng
        plural, acting = subject is None and rng.random() < 0.5, True
        if subject is None and rng.random() < 0.08:
            subject = [self.word("y" if plural else "h")]
        elif subject is None:
            acting = rng.random() < 0.85
            subject = self.noun_phrase(ANIMATE if acting else THING, plural)
            subject += [] if subject[0][1] == "N" else self.place(0.25)
        adverb = [self.word("e")] if rng.random() < 0.1 else []
        return [*subject, *self.predicate(plural, acting), *adverb]

    def sentence(self, subject: Sentence | None = None) -> Sentence:
        """Make a whole grammatical sentence, occasionally of two clauses."""
        made = self.clause(subject)
        if self.rng.random() < 0.06:
            made += [self.word("u"), *self.clause()]
        return made

    def story(self) -> list[Sentence]:
        """Make a few sentences about one person."""
        rng = self.rng
        names, pronoun = rng.choice(((BOYS, "he"), (GIRLS, "she")))
        hero = [(rng.choice(names), "N")]
        story = [self.sentence(hero)]
        for _ in range(rng.randint(1, 7)):
            subject = rng.choice((hero, [(pronoun, "h")], [(pronoun, "h")], None))
            story.append(self.sentence(subject))
        return story

    def spoil(self, sentence: Sentence, kind: str) -> Sentence | None:
        """Introduce one error of a kind into a sentence.

        Args:
            sentence: A grammatical sentence.
            kind: One of `KINDS`.

        Returns:
            An ungrammatical sentence, or None if the sentence allows no such error.
        """
        options = [made for made in _SPOILERS[kind](sentence) if not is_grammatical(made)]
        return self.rng.choice(options) if options else None


def _replace(sentence: Sentence, start: int, stop: int, *tokens: Token) -> Sentence:
    return [*sentence[:start], *tokens, *sentence[stop:]]


def _agreement(sentence: Sentence) -> list[Sentence]:
    """Change a verb to the other number, unless it is an infinitive."""
    made = []
    for at, (word, tag) in enumerate(sentence):
        if tag in FLIPPED and not (tag in "IW" and sentence[at - 1][1] in "oMT"):
            other = FLIPPED[tag]
            flipped = LEXICON[other][LEXICON[tag].index(word)]
            made.append(_replace(sentence, at, at + 1, (flipped, other)))
    return made


def _article(sentence: Sentence) -> list[Sentence]:
    """Swap a and an, drop the determiner of a singular noun, or insert a second one before it."""
    made = []
    for at, (word, tag) in enumerate(sentence):
        noun = next((tag for _, tag in sentence[at + 1 :] if tag not in "jJ"), "")
        if tag not in "abts" or noun not in "nV":
            continue
        swapped = {"a": ("an", "b"), "b": ("a", "a")}.get(tag)
        extra = ("a", "a") if word == "the" else ("the", "t")
        made.append(_replace(sentence, at, at, extra))
        made += [_replace(sentence, at, at + 1)] if at else []
        made += [_replace(sentence, at, at + 1, swapped)] * 2 if swapped else []
    return made


def _word_order(sentence: Sentence) -> list[Sentence]:
    """Swap two neighbours: in a noun phrase, or a preposition or verb and the next word.

    An adjective swaps with its noun in a subject only: 'paints the tree red' is correct English.
    """
    before_verb = f"(?=[{VERBAL}])"
    pair = re.compile(f"[abtsp][jJnVm]|[jJ][nVm]{before_verb}|q[abtspN]|[vWQ][abtsp]|[oMT][IW]")
    tags = "".join(tag for _, tag in sentence)
    return [
        _replace(sentence, at, at + 2, sentence[at + 1], sentence[at])
        for at in range(len(sentence) - 1)
        if pair.match(tags, at)
    ]


def _missing_word(sentence: Sentence) -> list[Sentence]:
    """Drop a verb, 'to', a preposition before a determiner, or a noun after its article."""
    tags = "".join(tag for _, tag in sentence)
    verb = "(?<!M)[IW]|[iPvQcCkKxXw]"
    return [
        _replace(sentence, found.start(), found.end())
        for found in re.finditer(f"{verb}|o|q(?=[abtsp])|(?<=[ab])[nV]|(?<=t)[nVm]", tags)
        if found[0] not in "nVm" or sentence[found.start() - 1][0] in ("a", "an", "the")
    ]


_SPOILERS = {
    "agreement": _agreement,
    "article": _article,
    "word-order": _word_order,
    "missing-word": _missing_word,
}
