"""What the demo model says when it decodes greedily, by transformers: nothing of SGLang is asked."""

from __future__ import annotations


def greedy_answers(prompts: list[str], num_tokens: int, *, ignore_eos: bool = False) -> list[str]:
    """In float32, each prompt alone; ends at the end-of-sequence token, unless that is ignored."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sglang_blend.demo_model import demo_model_path

    path = str(demo_model_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if ignore_eos:
        model.generation_config.eos_token_id = None
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=num_tokens, do_sample=False)
        answers.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers
