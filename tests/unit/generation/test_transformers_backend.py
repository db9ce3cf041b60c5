"""Answers do not depend on the batch, end where they should, and generation does not disturb training."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError, ModelError
from utils.generation.backend import Generated, generate_batches
from utils.generation.backends.transformers import Backend
from utils.generation.batching import find_prompt_limit
from utils.modeling.sizes import count_text_positions

FAMILIES = ("llama", "gpt2", "qwen2")


@pytest.fixture
def build_model(load_tokenizer_of: Callable[[str], Any]) -> Callable[..., tuple[Any, Any]]:
    """Return a function that builds a random model, optionally with LoRA of large random weights, and its tokenizer."""

    def build(family: str, adapter: Any = None, dropout: float = 0.0, positions: int = 64) -> tuple[Any, Any]:
        import transformers as hf
        from peft import get_peft_model

        tokenizer = load_tokenizer_of(family)
        shape = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id}
        if family == "gpt2":
            drops = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), dropout)
            config: Any = hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=positions, **drops, **shape)
        else:
            kind = hf.LlamaConfig if family == "llama" else hf.Qwen2Config
            config = kind(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                intermediate_size=64, max_position_embeddings=positions, attention_dropout=dropout, **shape,
            )  # fmt: skip
        torch.manual_seed(3)
        model = hf.AutoModelForCausalLM.from_config(config)
        model = get_peft_model(model, adapter) if adapter is not None else model
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.3)
        return model.float(), tokenizer

    return build


def lora(dropout: float = 0.0) -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear")


def draw_prompts(vocabulary: int, number: int = 13, longest: int = 30) -> list[list[int]]:
    draw = random.Random(4)
    return [[draw.randrange(8, vocabulary) for _ in range(draw.randint(1, longest))] for _ in range(number)]


def answer(model: Any, tokenizer: Any, prompts: list[list[int]], batch_size: int = 8, **options: Any) -> Any:
    given = {key: options.pop(key) for key in ("stop", "stop_token_ids", "seed") if key in options}
    section = GenerationSection(batch_size=batch_size, **{"max_new_tokens": 16, **options})
    return answer_all(Backend(model, tokenizer, section, **given), prompts)


def answer_all(backend: Backend, prompts: list[list[int]]) -> dict[int, Generated]:
    backend.check_prompts(prompts)
    return {
        place: answer
        for batch in generate_batches(backend, prompts, backend.plan_batches(prompts))
        for place, answer in batch
    }


def write_greedily(model: Any, tokenizer: Any, prompt: list[int], number: int) -> Generated:
    """Generate token by token with plain forward passes: no cache, no padding."""
    ids, model = list(prompt), model.eval()
    for _ in range(number):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    ended = ids[-1] == tokenizer.eos_token_id
    new = ids[len(prompt) :]
    text = tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generated(text, len(new), ended)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_generation_equals_single_rows_and_plain_forward_passes(
    family: str, adapted: bool, build_model: Callable[..., tuple[Any, Any]]
) -> None:
    model, tokenizer = build_model(family, lora() if adapted else None)
    prompts = draw_prompts(len(tokenizer))
    many = answer(model, tokenizer, prompts, 8)
    assert many == answer(model, tokenizer, prompts, 1)
    assert many == {row: write_greedily(model, tokenizer, prompt, 16) for row, prompt in enumerate(prompts)}
    assert len({each.text for each in many.values()}) > 10, "the texts must differ for this to mean anything"


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_prompt_learning_generates_as_its_forward_passes(
    method: str, build_model: Callable[..., tuple[Any, Any]]
) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig

    kind = PrefixTuningConfig if method == "prefix" else PromptTuningConfig
    model, tokenizer = build_model("llama", kind(task_type="CAUSAL_LM", num_virtual_tokens=5))
    prompts = draw_prompts(len(tokenizer), longest=4)
    many = answer(model, tokenizer, prompts, 8)
    assert many == answer(model, tokenizer, prompts, 1)
    assert many == {row: write_greedily(model, tokenizer, prompt, 16) for row, prompt in enumerate(prompts)}
    assert answer(model, tokenizer, [[9] * 50], max_new_tokens=99)[0].num_tokens <= 64 - 5 - 50


def test_a_pretrained_model_stops_at_its_end_token(quickstart: tuple[Any, Any]) -> None:
    model, tokenizer = quickstart
    prompts = [tokenizer(text)["input_ids"] for text in ("A boy", "5 plus 3 is", "The young cat of my friend")]
    many = answer(model, tokenizer, prompts, 3, max_new_tokens=60)
    assert many == {row: write_greedily(model, tokenizer, prompt, 60) for row, prompt in enumerate(prompts)}
    assert all(each.finished for each in many.values())
    short = answer(model, tokenizer, prompts, 3, max_new_tokens=3)
    assert [(each.num_tokens, each.finished) for each in short.values()] == [(3, False)] * 3


def test_additional_end_tokens_and_those_of_the_generation_config(quickstart: tuple[Any, Any]) -> None:
    model, tokenizer = quickstart
    prompt = tokenizer("A boy")["input_ids"]
    whole = answer(model, tokenizer, [prompt], max_new_tokens=60)[0]
    ids = tokenizer(whole.text, add_special_tokens=False)["input_ids"]
    cut = answer(model, tokenizer, [prompt], stop_token_ids=[ids[4]])[0]
    first = ids.index(ids[4])
    assert (cut.text, cut.num_tokens, cut.finished) == (tokenizer.decode(ids[:first]), first + 1, True)
    model.generation_config.eos_token_id = [2, ids[4]]
    try:
        assert answer(model, tokenizer, [prompt])[0] == cut
    finally:
        model.generation_config.eos_token_id = 2


def test_pad_token_equal_to_the_end_token(quickstart: tuple[Any, Any]) -> None:
    model, tokenizer = quickstart
    prompts = [tokenizer(text)["input_ids"] for text in ("A boy", "5 plus 3 is 8. The")]
    expected = answer(model, tokenizer, prompts, 2)
    pad = tokenizer.pad_token
    try:
        for token in (tokenizer.eos_token, None):
            tokenizer.pad_token = token
            assert answer(model, tokenizer, prompts, 2) == expected
    finally:
        tokenizer.pad_token = pad


def test_stop_strings_cut_exactly_and_end_the_row(quickstart: tuple[Any, Any]) -> None:
    model, tokenizer = quickstart
    prompts = [tokenizer(text)["input_ids"] for text in ("A boy", "5 plus 3 is", "My owls", "Tom", "Dogs were")]
    whole = answer(model, tokenizer, prompts, 8, max_new_tokens=60)
    for stop in (["."], ["wrong", "."], ["a", "e"], [whole[0].text[3:9]], ["never there"], [whole[2].text[-1]]):
        for batch_size in (1, 8):
            stopped = answer(model, tokenizer, prompts, batch_size, max_new_tokens=60, stop=stop)
            for row, each in stopped.items():
                places = [whole[row].text.find(one) for one in stop if one in whole[row].text]
                assert each.text == (whole[row].text[: min(places)] if places else whole[row].text)
                assert each.finished
                assert each.num_tokens <= whole[row].num_tokens
    assert answer(model, tokenizer, prompts, 8, max_new_tokens=60, stop=["a"])[0].num_tokens < whole[0].num_tokens


def test_stop_string_across_partial_characters(load_tokenizer_of: Callable[[str], Any]) -> None:
    """A byte-level tokenizer splits a Chinese character into three tokens; the last one completes the match."""
    from utils.generation.decoding import StopTexts

    tokenizer = load_tokenizer_of("qwen2")
    character = "\u597d"
    ids = tokenizer(f"abc {character} x")["input_ids"]
    stopping = StopTexts(tokenizer, [character], 0)
    ended = [bool(stopping(torch.tensor([ids[:end]]), None)) for end in range(1, len(ids) + 1)]
    length = len(tokenizer(f"abc {character}")["input_ids"])
    assert ended == [end >= length for end in range(1, len(ids) + 1)]
    assert stopping.lengths == {0: length}


def test_only_our_settings_apply_and_no_warning_is_raised(
    quickstart: tuple[Any, Any], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    from transformers import GenerationConfig
    from transformers.utils import logging as hf_logging

    model, tokenizer = quickstart
    prompts = [tokenizer(text)["input_ids"] for text in ("A boy", "5 plus 3 is")]
    expected = answer(model, tokenizer, prompts)
    own = model.generation_config
    misleading = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=3, repetition_penalty=3.0, max_new_tokens=2, min_new_tokens=40,
        num_beams=3, bos_token_id=1, eos_token_id=2, pad_token_id=0, suppress_tokens=list(range(5, 300)),
    )  # fmt: skip
    hf_logging.enable_propagation()
    try:
        model.generation_config = misleading
        assert answer(model, tokenizer, prompts) == expected
        assert model.generation_config is misleading
    finally:
        model.generation_config = own
        hf_logging.disable_propagation()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [each for each in recwarn if issubclass(each.category, UserWarning)]


def test_sampling_depends_only_on_seed_and_row(quickstart: tuple[Any, Any]) -> None:
    model, tokenizer = quickstart
    prompts = [tokenizer(text)["input_ids"] for text in ("A boy", "A boy", "The cat", "5 plus")]
    hot = {"temperature": 1.0, "top_p": 0.95, "top_k": 50}
    drawn = answer(model, tokenizer, prompts, 4, **hot)
    torch.manual_seed(99)
    assert drawn == answer(model, tokenizer, prompts, 1, **hot)
    generator = Backend(model, tokenizer, GenerationSection(max_new_tokens=16, **hot))
    assert dict(generator.generate_batch(prompts, [3, 1])) == {3: drawn[3], 1: drawn[1]}
    assert drawn[0] != drawn[1], "rows with equal prompts sample independently"
    assert drawn != answer(model, tokenizer, prompts, 4, seed=1, **hot)
    assert answer(model, tokenizer, prompts, 4, temperature=1.0, top_k=1) == answer(model, tokenizer, prompts, 4)
    assert answer(model, tokenizer, prompts, 4, temperature=1e-4) == answer(model, tokenizer, prompts, 4)


def test_sampled_tokens_have_the_models_probabilities() -> None:
    from utils.generation.decoding import build_sampler

    logits = torch.tensor([2.0, 0.0, 1.0, -1.0]).repeat(20_000, 1)
    chosen = build_sampler(GenerationSection(temperature=0.7, max_new_tokens=1), range(20_000), 5)(None, logits)
    assert bool(((chosen == 0).sum(-1) == 1).all())
    shares = torch.bincount(chosen.argmax(-1), minlength=4) / 20_000
    assert (shares - (logits[0] / 0.7).softmax(-1)).abs().max() < 0.012
    narrow = GenerationSection(temperature=1.0, top_k=3, top_p=0.9, max_new_tokens=1)
    kept = build_sampler(narrow, range(2000), 5)(None, logits[:2000].clone()).argmax(-1)
    assert set(kept.tolist()) == {0, 2, 1} - ({1} if logits[0, :3].softmax(-1)[[0, 2]].sum() >= 0.9 else set())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_does_not_change_training(family: str, build_model: Callable[..., tuple[Any, Any]]) -> None:
    """With dropout and gradient checkpointing, a step gives the same weights with and without generating first."""

    def train(generate: bool, **hot: Any) -> tuple[dict[str, Any], Any]:
        model, tokenizer = build_model(family, lora(0.3), dropout=0.2)
        model.config.use_cache = False
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        model.base_model.model.lm_head.eval()  # a module whose training mode differs from the others'
        modes = [module.training for module in model.modules()]
        checkpointing = [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
        assert True in checkpointing
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        ids = torch.tensor(draw_prompts(len(tokenizer), 4, 1)).repeat(1, 12)
        for _ in range(2):
            if generate:
                answer(model, tokenizer, draw_prompts(len(tokenizer)), 4, stop=["zzz"], **hot)
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert modes == [module.training for module in model.modules()]
        assert checkpointing == [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
        assert model.config.use_cache is False
        state = {key: value.clone() for key, value in model.state_dict().items()}
        return state, (random.random(), np.random.rand(), torch.rand(1).item())

    without, numbers = train(False)
    start = build_model(family, lora(0.3), dropout=0.2)[0].state_dict()
    assert any(not torch.equal(without[key], start[key]) for key in start), "two steps must have trained something"
    for hot in ({}, {"temperature": 1.0}):
        with_it, numbers_with = train(True, **hot)
        assert numbers_with == numbers
        assert with_it.keys() == without.keys()
        assert all(torch.equal(with_it[key], without[key]) for key in without)


def test_state_is_restored_after_a_failure(build_model: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = build_model("llama")
    model.train()
    before, numbers, state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    own = model.generation_config

    def fail(*_: Any) -> None:
        torch.rand(3), random.random(), np.random.rand()
        raise RuntimeError("no more")

    hook = model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no more"):
        answer(model, tokenizer, [[9, 10]])
    hook.remove()
    assert model.training
    assert model.generation_config is own
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert random.getstate() == state


def test_the_tokenizer_is_not_modified(quickstart: tuple[Any, Any]) -> None:
    model, tokenizer = quickstart
    for side in ("left", "right"):
        tokenizer.padding_side = side
        before = (tokenizer.padding_side, tokenizer.pad_token, tokenizer.backend_tokenizer.to_str())
        answer(model, tokenizer, [[5, 6], [7]])
        assert (tokenizer.padding_side, tokenizer.pad_token, tokenizer.backend_tokenizer.to_str()) == before


def test_a_batch_that_runs_out_of_memory_is_halved(
    build_model: Callable[..., tuple[Any, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = build_model("llama")
    prompts = draw_prompts(len(tokenizer), 7)
    expected = answer(model, tokenizer, prompts, 8)

    def refuse(limit: int) -> Any:
        def check(module: Any, inputs: Any) -> None:
            if inputs[0].shape[0] > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return model.lm_head.register_forward_pre_hook(check)

    hook = refuse(2)
    assert answer(model, tokenizer, prompts, 8) == expected
    hook.remove()
    assert "7 prompts at once do not fit into memory; trying 4" in caplog.text
    hook = refuse(0)
    with pytest.raises(torch.OutOfMemoryError):
        answer(model, tokenizer, prompts, 8)
    hook.remove()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_long_prompts_leave_fewer_new_tokens(
    family: str, build_model: Callable[..., tuple[Any, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = build_model(family, positions=32)
    prompts = [[9] * length for length in (31, 30, 30, 22, 16, 3, 1)]
    many = answer(model, tokenizer, prompts, 8)
    assert many == answer(model, tokenizer, prompts, 1)
    assert all(many[row].num_tokens <= room for row, room in enumerate([1, 2, 2, 10, 16, 16, 16]))
    assert "4 of 7 prompts leave room for fewer than generation.max_new_tokens (16)" in caplog.text
    with pytest.raises(DataError, match=r"prompt 2 has 32 tokens, and the model has 32 positions; .* shorten"):
        answer(model, tokenizer, [[9], [9] * 32])
    with pytest.raises(DataError, match="prompt 1 is empty"):
        answer(model, tokenizer, [[]])


def test_the_prompt_limit_leaves_space_for_the_answer(build_model: Callable[..., tuple[Any, Any]]) -> None:
    from peft import PromptTuningConfig

    model, tokenizer = build_model("llama", positions=32)
    assert count_text_positions(model) == 32
    assert [find_prompt_limit(32, number) for number in (8, 16, 256)] == [24, 16, 16]
    answer(model, tokenizer, [[9] * 16], max_new_tokens=256)
    adapted, _ = build_model("llama", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6), positions=32)
    assert count_text_positions(adapted) == 26


def test_processes_sharing_a_plan_answer_as_one_process(build_model: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = build_model("llama")
    prompts = draw_prompts(len(tokenizer), 11)
    section = GenerationSection(batch_size=3, max_new_tokens=8, max_batch_tokens=75)
    generator = Backend(model, tokenizer, section)
    batches = generator.plan_batches(prompts)
    assert len(batches) > 1, "the number of tokens must have ended some batches"
    assert 1 < max(map(len, batches)) <= 12
    shares = [
        [pair for batch in batches[rank::2] for pair in generator.generate_batch(prompts, batch)] for rank in (0, 1)
    ]
    assert dict([*shares[0], *shares[1]]) == answer(model, tokenizer, prompts, 1, max_new_tokens=8)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_new_tokens(build_model: Callable[..., tuple[Any, Any]], temperature: float) -> None:
    model, tokenizer = build_model("llama")
    prompts = draw_prompts(len(tokenizer))
    free = answer(model, tokenizer, prompts, temperature=temperature)
    # The most likely first token becomes the end token: it ends answers at once, or later with a minimum length.
    firsts = {tokenizer(each.text, add_special_tokens=False)["input_ids"][0] for each in free.values() if each.text}
    ends = {"stop_token_ids": sorted(firsts), "temperature": temperature}
    at_once = answer(model, tokenizer, prompts, **ends)
    held = answer(model, tokenizer, prompts, min_new_tokens=4, **ends)
    assert min(each.num_tokens for each in at_once.values()) < 4
    assert min(each.num_tokens for each in held.values()) >= 4
    assert held == answer(model, tokenizer, prompts, 1, min_new_tokens=4, **ends)


def test_stop_strings_are_ignored_within_the_minimum_length(build_model: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = build_model("qwen2")
    prompts = draw_prompts(len(tokenizer))
    free = answer(model, tokenizer, prompts)
    stop = tuple({each.text[0] for each in free.values() if each.text})
    cut = answer(model, tokenizer, prompts, stop=stop)
    held = answer(model, tokenizer, prompts, stop=stop, min_new_tokens=3)
    assert all(each.text == "" for row, each in cut.items() if free[row].text)
    assert min(each.num_tokens for each in held.values()) >= 3
    for each in held.values():
        tokens = tokenizer(each.text, add_special_tokens=False)["input_ids"]
        assert len(each.text) > 0
        assert len(tokens) <= 16
    assert held == answer(model, tokenizer, prompts, 1, stop=stop, min_new_tokens=3)


def test_batches_are_longest_first_and_within_batch_size(
    build_model: Callable[..., tuple[Any, Any]],
) -> None:
    model, tokenizer = build_model("llama")
    prompts = draw_prompts(len(tokenizer), 11)
    widths: list[tuple[int, ...]] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape))
    section = GenerationSection(batch_size=4, max_new_tokens=3)
    generator = Backend(model, tokenizer, section)
    answer_all(generator, prompts)
    hook.remove()
    [planned] = generator.plan_batches(prompts)
    lengths = [len(prompts[row]) for row in planned]
    assert lengths == sorted(lengths, reverse=True)
    assert next(shape for shape in widths if shape[1] > 1) == (4, max(lengths))
    assert {shape[0] for shape in widths} <= {1, 2, 3, 4}


def test_half_precision_and_no_rows(build_model: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = build_model("llama")
    assert answer(model, tokenizer, []) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(answer(model.to(torch.bfloat16), tokenizer, [[9], [9, 10]])) == 2


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_batches_do_not_depend_on_earlier_calls(build_model: Callable[..., Any], temperature: float) -> None:
    model, tokenizer = build_model("llama")
    prompts = draw_prompts(len(tokenizer))
    section = GenerationSection(batch_size=4, max_new_tokens=8, temperature=temperature)
    generator = Backend(model, tokenizer, section)
    planned = generator.plan_batches(prompts)
    batches = list(generate_batches(generator, prompts, planned, range(100, 113)))
    assert [len(batch) for batch in batches] == ([4, 4, 4, 1] if temperature else [13])
    assert list(generate_batches(generator, prompts, planned[2:], range(100, 113))) == batches[2:]
    answers = dict(pair for batch in batches for pair in batch)
    moved = dict(
        pair for batch in generate_batches(generator, prompts, generator.plan_batches(prompts)) for pair in batch
    )
    assert (moved == answers) == (temperature == 0), "sampling depends on a row's number, not its position"
    assert moved == answer_all(generator, prompts)


def test_batches_respect_the_token_limit(build_model: Callable[..., Any]) -> None:
    model, tokenizer = build_model("llama")
    prompts = draw_prompts(len(tokenizer))
    generator = Backend(model, tokenizer, GenerationSection(batch_size=64, max_new_tokens=8, max_batch_tokens=80))
    for batch in generator.plan_batches(prompts):
        assert len(batch) == 1 or len(batch) * (max(len(prompts[row]) for row in batch) + 8) <= 80
    assert generator.explain_refusal(0)
    assert generator.explain_refusal(64)
    assert generator.explain_refusal(63) is None


def count_tokens(model: Any, run: Callable[[], Any]) -> int:
    """Count the tokens that the model reads, including padding."""
    seen: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    try:
        run()
    finally:
        hook.remove()
    return sum(seen)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_shared_prefix_is_read_once_and_finished_rows_are_replaced(
    build_model: Callable[..., Any], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = build_model(family)
    few_shot = [7 + number % 40 for number in range(30)]
    prompts = [few_shot + prompt[:20] for prompt in draw_prompts(len(tokenizer), 40)]
    section = GenerationSection(batch_size=4, max_new_tokens=12)
    generator = Backend(model, tokenizer, section, stop_token_ids=range(2, 30))
    assert [len(batch) for batch in generator.plan_batches(prompts)] == [16, 16, 8]
    found: dict[int, Any] = {}
    num_read = count_tokens(model, lambda: found.update(answer_all(generator, prompts)))
    assert len({each.num_tokens for each in found.values()}) > 3, "answers end at different lengths"
    monkeypatch.setattr(generator, "_refills", False)
    expected: dict[int, Any] = {}
    num_before = count_tokens(model, lambda: expected.update(answer_all(generator, prompts)))
    assert found == expected
    num_written = sum(each.num_tokens for each in found.values())
    assert num_before > 40 * 30 + num_written
    assert num_read < num_before - 35 * 30


def test_models_with_state_beyond_the_kv_cache_are_not_refilled(build_model: Callable[..., Any]) -> None:
    import transformers as hf
    from peft import LoraConfig, PromptTuningConfig

    from utils.generation.refilling import can_refill

    sliding = hf.MistralForCausalLM(hf.MistralConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=20, sliding_window=8,
    ))  # fmt: skip
    state = hf.MambaForCausalLM(hf.MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=20, state_size=4))
    assert not can_refill(sliding)
    assert not can_refill(state)
    assert can_refill(build_model("llama")[0])
    assert can_refill(build_model("llama", LoraConfig(task_type="CAUSAL_LM"))[0])
    assert not can_refill(build_model("llama", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))[0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(build_model: Callable[..., Any], temperature: float) -> None:
    model, tokenizer = build_model("llama")
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    generator = Backend(model, tokenizer, GenerationSection(max_new_tokens=2, temperature=temperature))
    with pytest.raises(ModelError, match="not finite"):
        answer_all(generator, [[5, 6, 7]])
