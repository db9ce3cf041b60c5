"""Make everything in this folder: a tiny pretrained base model and small tasks for it.

Run `python examples/quickstart/make_quickstart.py`. All text comes from the seeded generators in
`grammar.py` and `sums.py`; nothing is downloaded. On one machine, each run writes the same bytes.
"""

import argparse
import json
import random
import re
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from grammar import KINDS, Grammar, is_grammatical, render
from sums import Pair, Problem, all_pairs, make_problem, pair_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 7
THREADS = 1
VOCABULARY = 768
CONTEXT = 256
STEPS = 2600
BATCH_TOKENS = 2048
MATRIX_RATE, MATRIX_DECAY, OTHER_RATE = 0.02, 0.15, 3e-3
WARMUP = 60
LEVEL_UNTIL = 0.3
REPORT_EVERY = 100
DOCUMENTS = 120_000
ACCEPTABILITY_SIZES = {"train": 2400, "validation": 400, "test": 200}
TRAIN_SIZE, TEST_SIZE, UNSEEN_SIZE = 2000, 300, 200
PAIRS_SIZE = 800
UNSEEN_SHARE = 0.12
SHORTEST, LONGEST = 8, 16
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"

Row = dict[str, str | int]


def is_reserved(sentence: str) -> bool:
    """Return whether a grammatical sentence is reserved for the task, and so excluded from the base text."""
    return zlib.crc32(sentence.encode()) % 16 == 0


def make_acceptability(rng: random.Random) -> list[Row]:
    """Make the labelled sentences.

    Half of the sentences are corrupted. Correct sentences, too, are ones that allow the error kind of
    their turn, so that nothing but the error itself distinguishes the two classes.

    Args:
        rng: The source of all random choices.

    Returns:
        The rows, in random order.
    """
    grammar = Grammar(rng)
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < sum(ACCEPTABILITY_SIZES.values()):
        good = grammar.sentence()
        bad = grammar.spoil(good, KINDS[len(rows) // 2 % len(KINDS)])
        if bad is None or not SHORTEST <= len(good) <= LONGEST or not is_reserved(render(good)):
            continue
        assert is_grammatical(good)
        assert not is_grammatical(bad)
        label = len(rows) % 2
        sentence = render(good if label else bad)
        if seen.isdisjoint((sentence, render(good))):
            seen.update((sentence, render(good)))
            rows.append({"sentence": sentence, "label": label})
    rng.shuffle(rows)
    return rows


def split_acceptability(rows: list[Row]) -> dict[str, list[Row]]:
    """Split the labelled sentences, number them, and hide the labels of the test split."""
    splits: dict[str, list[Row]] = {}
    for name, size in ACCEPTABILITY_SIZES.items():
        taken, rows = rows[:size], rows[size:]
        splits[name] = [
            {**row, "label": -1 if name == "test" else row["label"], "idx": idx} for idx, row in enumerate(taken)
        ]
    return splits


def split_pairs(rng: random.Random) -> tuple[set[Pair], set[Pair]]:
    """Split the operand pairs into known ones and ones reserved for the unseen test split."""
    pairs = all_pairs()
    rng.shuffle(pairs)
    cut = round(len(pairs) * UNSEEN_SHARE)
    return set(pairs[cut:]), set(pairs[:cut])


def make_problems(rng: random.Random, pairs: set[Pair], size: int, two_steps: float, seen: set[str]) -> list[Problem]:
    """Draw problems with new questions and add the questions to those seen."""
    problems: list[Problem] = []
    while len(problems) < size:
        problem = make_problem(rng, pairs, two_steps)
        if problem.question not in seen:
            seen.add(problem.question)
            problems.append(problem)
    return problems


def make_arithmetic(rng: random.Random, known: set[Pair], unseen: set[Pair]) -> dict[str, list[Problem]]:
    """Make the splits of the word arithmetic.

    Args:
        rng: The source of all random choices.
        known: The operand pairs of the training and test split.
        unseen: The operand pairs of the unseen test split.

    Returns:
        The problems of each split.
    """
    seen: set[str] = set()
    return {
        "train": make_problems(rng, known, TRAIN_SIZE, 0.3, seen),
        "test": make_problems(rng, known, TEST_SIZE, 0.3, seen),
        "test_unseen": make_problems(rng, unseen, UNSEEN_SIZE, 0.3, seen),
    }


def make_preferences(rng: random.Random, problems: list[Problem]) -> dict[str, list[Row]]:
    """Make pairs of a right answer and one whose last sum is wrong."""
    pairs: list[Row] = [{"question": one.question, "chosen": one.answer, "rejected": one.slip(rng)} for one in problems]
    return {"train": pairs[:PAIRS_SIZE], "validation": pairs[PAIRS_SIZE : PAIRS_SIZE + PAIRS_SIZE // 4]}


def make_base_text(rng: random.Random, known: set[Pair], kept: set[str]) -> list[str]:
    """Make the text that the base model is pretrained on.

    Two fifths are lines in which somebody reads sentences and says which are right: that is where the
    model sees mistakes and learns to notice them. All other sentences are correct.

    Args:
        rng: The source of all random choices.
        known: The operand pairs that may occur.
        kept: Sentences of the tasks, which must not occur.

    Returns:
        The documents.
    """
    grammar = Grammar(rng)
    documents: list[str] = []
    while len(documents) < DOCUMENTS:
        kind = rng.random()
        if kind < 0.24:
            documents.append(make_problem(rng, known, 0.3).base_text(rng))
        elif kind < 0.29:
            sums = [make_problem(rng, known, 0.0).working for _ in range(rng.randint(1, 6))]
            documents.append(" ".join(sums))
        else:
            documents += make_story(rng, grammar) if kind < 0.6 else make_reading(rng, grammar, kept)
    return documents


def make_story(rng: random.Random, grammar: Grammar) -> list[str]:
    """Make one or a few correct sentences about one person; return nothing if one of them is reserved."""
    story = [grammar.sentence()] if rng.random() < 0.5 else grammar.story()
    sentences = [render(sentence) for sentence in story]
    return [] if any(map(is_reserved, sentences)) else [" ".join(sentences)]


def make_reading(rng: random.Random, grammar: Grammar, kept: set[str]) -> list[str]:
    """Make a line in which sentences are read and judged; return nothing if one is reserved or of a task."""
    words = ["Look:"]
    for _ in range(rng.randint(1, 4)):
        good = grammar.sentence()
        bad = grammar.spoil(good, rng.choice(KINDS))
        right = rng.random() < 0.5
        if bad is None or is_reserved(render(good)) or render(bad) in kept:
            return []
        words += [render(good if right else bad), f"That is {'right' if right else 'wrong'}."]
    return [" ".join(words)]


def check_apart(documents: list[str], arithmetic: dict[str, list[Problem]], rows: list[Row]) -> None:
    """Check that the base text contains no sentence, question, mark or operand pair of the tasks."""
    text = "\n".join(documents)
    assert "####" not in text
    assert "have now?" not in text
    sentences = {str(row["sentence"]) for row in rows}
    assert len(sentences) == len(rows)
    assert sentences.isdisjoint(re.findall(r"[A-Z][^.?]*[.?]", text))
    told = re.compile(r"(\d+) (?:plus|minus) (\d+) is")
    trained = text + "\n".join(problem.answer for problem in arithmetic["train"])
    pairs = {pair_of(int(a), int(b)) for a, b in told.findall(trained)}
    for problem in arithmetic["test_unseen"]:
        assert pairs.isdisjoint(pair_of(step.left, step.right) for step in problem.steps)


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that splits numbers into digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents[:20_000], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=CONTEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make the untrained base model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.05,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def batches(encoded: list[list[int]], pad: int, rng: random.Random) -> Iterator[torch.Tensor]:
    """Yield batches of documents of similar length, without end.

    Args:
        encoded: The documents as token ids.
        pad: The padding id.
        rng: The source of all random choices.

    Yields:
        Token ids, of shape (documents, length).
    """
    while True:
        rng.shuffle(encoded)
        ordered = sorted(encoded, key=len)
        groups: list[list[list[int]]] = [[]]
        for ids in ordered:
            if (len(groups[-1]) + 1) * len(ids) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(ids)
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids in group)
            yield torch.tensor([ids + [pad] * (longest - len(ids)) for ids in group])


def rate_factor(step: int, steps: int) -> float:
    """Return the fraction of the peak learning rates at a step: warm-up, constant, then decay to nearly 0."""
    progress = step / steps
    return min((step + 1) / WARMUP, 1.0, 0.03 + 0.97 * (1 - progress) / (1 - LEVEL_UNTIL))


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices of the layers and AdamW for the embeddings and the norms.

    Muon learns to copy numbers and to add in far fewer steps than AdamW. Its weight decay keeps the
    weights small: with large ones, later fine-tuning hardly changes the model.
    """
    layers = list(model.model.layers.parameters())
    matrices = [weight for weight in layers if weight.ndim > 1]
    others = [model.model.embed_tokens.weight]
    others += [weight for weight in model.model.parameters() if weight.ndim == 1]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=MATRIX_DECAY),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def pretrain(model: LlamaForCausalLM, encoded: list[list[int]], steps: int) -> None:
    """Train the model to predict the next token of each document."""
    pad = model.config.pad_token_id
    optimizers = make_optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate_factor, steps=steps)) for optimizer in optimizers
    ]
    started = time.monotonic()
    source = batches(encoded, pad, random.Random(SEED))
    total = 0.0
    model.train()
    for step in range(1, steps + 1):
        ids = next(source)
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == pad, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        total += loss.item()
        if step % REPORT_EVERY == 0:
            mean = total / REPORT_EVERY
            print(f"step {step}: loss {mean:.3f}, {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0
    model.eval()


def make_base(folder: Path, documents: list[str], steps: int) -> None:
    """Train the tokenizer and the base model and save both."""
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    tokenizer = train_tokenizer(documents)
    encoded: list[list[int]] = tokenizer([text + EOS for text in documents])["input_ids"]
    model = make_model(tokenizer)
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{weights} weights, {sum(map(len, encoded))} tokens of text")
    pretrain(model, encoded, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Make the tasks and, unless switched off, the base model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--skip-base", action="store_true", help="make the tasks only")
    parser.add_argument("--steps", type=int, default=STEPS, help="pretraining steps")
    options = parser.parse_args()
    rows = make_acceptability(random.Random(SEED))
    for name, split in split_acceptability(rows).items():
        write_rows(options.output / "acceptability" / f"{name}.jsonl", split)
    known, unseen = split_pairs(random.Random(SEED))
    arithmetic = make_arithmetic(random.Random(SEED), known, unseen)
    for name, problems in arithmetic.items():
        tasks: list[Row] = [{"question": one.question, "answer": one.answer} for one in problems]
        write_rows(options.output / "arithmetic" / f"{name}.jsonl", tasks)
    for name, pairs in make_preferences(random.Random(SEED), arithmetic["train"]).items():
        write_rows(options.output / "preference" / f"{name}.jsonl", pairs)
    documents = make_base_text(random.Random(SEED), known, {str(row["sentence"]) for row in rows})
    check_apart(documents, arithmetic, rows)
    if not options.skip_base:
        make_base(options.output / "base", documents, options.steps)


if __name__ == "__main__":
    main()
