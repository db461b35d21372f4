"""The training text: hand-written facts, and very many ways to ask for them.

Everything is drawn from one `random.Random`, so that the same seed gives the same text. Questions
marked `t:` in facts.txt, and the templates in `TEMPLATES_HELD_OUT`, are measured and never trained.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path

from phrases import (
    ATTRIBUTES,
    CONTRACTIONS,
    FILLERS,
    FOREIGN,
    LANGUAGES,
    LONG_TEMPLATES,
    MORE,
    NO_MORE,
    PLACES,
    PREFIXES,
    STOP_WORDS,
    SUFFIXES,
    SYNONYMS,
    SYSTEM,
    TEMPLATES,
    TEMPLATES_HELD_OUT,
    THINGS,
    WHOLE,
)

Turn = tuple[str, str]  # (role, text)
Conversation = tuple[Turn, ...]

ALTERNATIVES = r"\[([^\]]*)\]"
FACTS = Path(__file__).with_name("facts.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One fact: how it is asked for, what is answered, and what a right answer must contain."""

    key: str
    names: tuple[str, ...]
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str
    more: str
    needs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    titles: tuple[str, ...]
    topics: tuple[Topic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A question that was never trained, and the topic that it asks for."""

    question: str
    topic: Topic


@dataclass(slots=True)
class _Draft:
    key: str
    lines: dict[str, list[str]] = field(default_factory=dict)

    def topic(self) -> Topic:
        def split(kind: str) -> tuple[str, ...]:
            text = ";".join(self.lines.get(kind, []))
            return tuple(part.strip() for part in text.split(";") if part.strip())

        one = {kind: self.lines.get(kind, [""])[0] for kind in "am"}
        topic = Topic(
            key=self.key,
            names=split("d"),
            questions=tuple(self.lines.get("q", ())),
            held_out=tuple(self.lines.get("t", ())),
            answer=one["a"],
            more=one["m"],
            needs=tuple(tuple(p.strip() for p in need.split("|")) for need in split("k")),
        )
        if not topic.needs or not is_right(topic, topic.answer):
            raise ValueError(f"{self.key}: the answer lacks its own key facts")
        return topic


def read_facts(path: Path = FACTS) -> tuple[Section, ...]:
    """The sections of facts.txt. Raises ValueError if it is not well-formed."""
    sections: list[tuple[tuple[str, ...], list[_Draft]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("== SECTION "):
            titles = tuple(part.strip() for part in line[len("== SECTION ") :].split(";"))
            sections.append((titles, []))
        elif line.startswith("-- "):
            sections[-1][1].append(_Draft(line[3:].strip()))
        elif line[:3] in {"d: ", "q: ", "t: ", "a: ", "m: ", "k: "}:
            sections[-1][1][-1].lines.setdefault(line[0], []).append(line[3:].strip())
        else:
            raise ValueError(f"facts.txt line {number}: not understood")
    read = tuple(Section(titles=t, topics=tuple(d.topic() for d in ds)) for t, ds in sections)
    _check_apart(read)
    return read


def topics_of(sections: tuple[Section, ...]) -> tuple[Topic, ...]:
    return tuple(topic for section in sections for topic in section.topics)


def is_right(topic: Topic, answer: str) -> bool:
    """True if the answer contains every key fact of the topic (case ignored)."""
    text = answer.lower()
    return all(any(word.lower() in text for word in need) for need in topic.needs)


def held_out(sections: tuple[Section, ...]) -> tuple[HeldOut, ...]:
    """Every question to measure: those written by hand, and one template for each noun phrase."""
    found: list[HeldOut] = []
    count = 0
    for topic in topics_of(sections):
        found += [HeldOut(question=question, topic=topic) for question in topic.held_out]
        for name in topic.names:
            template = TEMPLATES_HELD_OUT[count % len(TEMPLATES_HELD_OUT)]
            found.append(HeldOut(question=_fill(template, name), topic=topic))
            count += 1
    return tuple(found)


def spellings(pattern: str) -> Iterator[str]:
    """Every question that a pattern with [a|b] stands for."""
    parts = re.split(ALTERNATIVES, pattern)  # text and group take turns
    options = [part.split("|") if at % 2 else [part] for at, part in enumerate(parts)]
    return map("".join, product(*options))


def normal(question: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", question.lower()).strip()


def _check_apart(sections: tuple[Section, ...]) -> None:
    seen: dict[str, str] = {}
    for topic in topics_of(sections):
        for question in chain.from_iterable(map(spellings, topic.questions)):
            if seen.setdefault(normal(question), topic.key) != topic.key:
                raise ValueError(f"asked for by two topics: {question}")
    for test in held_out(sections):
        if normal(test.question) in seen:
            raise ValueError(f"held out and trained: {test.question}")


def _fill(template: str, name: str) -> str:
    plural = name.endswith("s") and not name.startswith(("a ", "an ", "--", "this "))
    plural = plural and name not in {"gas", "node earnings", "node status", "splits "}
    text = template.format(
        x=name, **{"is": "are" if plural else "is", "does": "do" if plural else "does"}
    )
    return text[0].upper() + text[1:]


class Writer:
    """Draws conversations without end; every one is different, and the facts are the same."""

    def __init__(self, sections: tuple[Section, ...], seed: int) -> None:
        self._random = random.Random(seed)
        self._sections = sections
        self._topics = topics_of(sections)
        self._banned = frozenset(normal(test.question) for test in held_out(sections))
        self._unknown = next(t for t in self._topics if t.key == "talk.unknown")
        # A topic with more ways to ask needs more examples; none may starve.
        self._weights = [4.0 + len(t.questions) + 2 * len(t.names) for t in self._topics]

    def conversations(self) -> Iterator[Conversation]:
        while True:
            yield self._conversation()

    def _conversation(self) -> Conversation:
        draw = self._random.random()
        turns: list[Turn] = []
        if self._random.random() < 0.12:
            turns.append(("system", self._random.choice(SYSTEM)))
        if draw < 0.03:
            return (*turns, *self._long())
        count = 1 if draw < 0.68 else self._random.randint(2, 5) if draw < 0.985 else 18
        for _ in range(count):
            turns += self._exchange()
        return tuple(turns)

    def _exchange(self) -> list[Turn]:
        topic = self._random.choices(self._topics, self._weights)[0]
        turns = [("user", self.question(topic)), ("assistant", topic.answer)]
        if self._random.random() < 0.12:
            more = topic.more or NO_MORE
            turns += [("user", self._noise(self._random.choice(MORE))), ("assistant", more)]
        return turns

    def _long(self) -> list[Turn]:
        if self._random.random() < 0.25:
            question, body = self._random.choice(WHOLE), self._whole()
        else:
            section = self._random.choice(self._sections[:-1])
            title = self._random.choice(section.titles)
            question = self._random.choice(LONG_TEMPLATES).format(x=title)
            body = long_answer(section)
        return [("user", self._noise(question)), ("assistant", body)]

    def _whole(self) -> str:
        return "\n\n".join(long_answer(section) for section in self._sections[:3])

    def question(self, topic: Topic) -> str:
        """One way to ask for the topic, never one that is held out."""
        while True:
            text = self._noise(self._wrap(self._substitute(self._base(topic))))
            if normal(text) not in self._banned:
                return text

    def _base(self, topic: Topic) -> str:
        if topic is self._unknown and self._random.random() < 0.75:
            return self._foreign()
        draw = self._random.random()
        if topic.names and draw < 0.45:
            name = self._random.choice(topic.names)
            return self._among_fillers(name) if draw < 0.18 else self._defined(name)
        question = re.sub(ALTERNATIVES, self._pick, self._random.choice(topic.questions))
        return self._keywords(question) if draw > 0.88 else question

    def _defined(self, name: str) -> str:
        return _fill(self._random.choice(TEMPLATES), name)

    def _among_fillers(self, text: str) -> str:
        """Whatever stands around the words that matter, they are what is asked about."""
        sides = [self._random.choices(FILLERS, k=self._random.randint(0, 5)) for _ in range(2)]
        words = [*sides[0], text, *sides[1]]
        for _ in range(self._random.randint(0, 2)):
            words.insert(self._random.randrange(len(words) + 1), self._nonsense())
        return " ".join(words) + self._random.choice(("?", ".", "", "!", ", please."))

    def _keywords(self, question: str) -> str:
        words = [w.strip("?.,!") for w in question.split()]
        kept = [w for w in words if w.lower() not in STOP_WORDS] or words
        if self._random.random() < 0.5:
            self._random.shuffle(kept)
        return self._among_fillers(" ".join(kept))

    def _nonsense(self) -> str:
        letters = self._random.choices("abcdefghiklmnoprstuvwy", k=self._random.randint(2, 8))
        return "".join(letters)

    def _pick(self, group: re.Match[str]) -> str:
        return self._random.choice(str(group[1]).split("|"))

    def _foreign(self) -> str:
        pick = self._random.choice
        return pick(FOREIGN).format(
            a=pick(ATTRIBUTES), p=pick(PLACES), t=pick(THINGS), l=pick(LANGUAGES)
        )

    def _substitute(self, text: str) -> str:
        for group in SYNONYMS:
            text = self._exchanged(text, group)
        if self._random.random() < 0.25:
            for plain, short in CONTRACTIONS:
                text = re.sub(rf"\b{plain}\b", short, text, flags=re.IGNORECASE)
        return text[0].upper() + text[1:]

    def _exchanged(self, text: str, group: tuple[str, ...]) -> str:
        """The text with one phrase of the group, if it has one, perhaps replaced by another."""
        for phrase in group:
            if self._random.random() < 0.3:
                pattern = rf"\b{re.escape(phrase)}\b"
                if re.search(pattern, text, re.IGNORECASE):
                    other = self._random.choice(group)
                    return re.sub(pattern, other, text, count=1, flags=re.IGNORECASE)
        return text

    def _wrap(self, text: str) -> str:
        draw = self._random.random()
        if draw < 0.18:
            prefix = self._random.choice(PREFIXES)
            text = prefix + (text if prefix[-2] in ".!" else text[0].lower() + text[1:])
        elif draw < 0.26:
            text += self._random.choice(SUFFIXES)
        return text

    def _noise(self, text: str) -> str:
        draw = self._random.random
        if draw() < 0.06:
            kept = [w for w in text.split() if w.lower().strip("?.,!") not in STOP_WORDS]
            text = " ".join(kept) if len(kept) >= 2 else text
        if draw() < 0.3:
            text = text.lower()
        if draw() < 0.3:
            text = text.rstrip("?.!")
        if draw() < 0.1:
            text = self._typo(text)
        return text

    def _typo(self, text: str) -> str:
        at = self._random.randrange(max(1, len(text) - 1))
        kind = self._random.randrange(3)
        if kind == 0:
            return text[:at] + text[at + 1 :] or text
        if kind == 1:
            return text[:at] + text[at : at + 1] + text[at:]
        return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]


def long_answer(section: Section) -> str:
    """All answers of a section, in order: what a request for a long text gets."""
    parts = [" ".join(filter(None, (t.answer, t.more))) for t in section.topics]
    return "\n".join(parts)
