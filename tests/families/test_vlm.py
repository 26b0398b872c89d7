"""A sample of the vision-language families: `make families` goes through them all."""

import pytest
import torch

from datamodules.scenes.reader import Reader
from lightning_modules.svco.evaluation import greedy
from lightning_modules.svco.models import VLM
from tests.families.vlm import SAMPLE, built, parts, pictures, verdict


@pytest.mark.parametrize("family", SAMPLE)
@pytest.mark.slow
def test_a_family_is_computed_as_it_computes_itself_or_refused(family):
    row = verdict(family)
    # A right family has the way it is computed as its reason: a fault of a fast way must not hide behind a slow one.
    assert SAMPLE[family] == (row["why"] if row["verdict"] == "right" else row["verdict"]), row
    assert row["difference"] is None or row["difference"] < 1e-5


TURNS = {
    "gemma3": ("<s><start_of_turn>user\n", "it is red .<end_of_turn>"),
    "llava": ("<s>USER: ", " it is red . </s>"),
    "idefics3": ("<s>User:", " it is red .<end_of_utterance>"),
    "mllama": ("<s><|h|>user", "it is red .<|eot_id|>"),
}


@pytest.mark.parametrize("family", TURNS)
def test_an_answer_is_the_templates_own_turn_and_a_prompt_begins_once(family):
    reader = Reader(processor=parts(family)[1])
    begins, answer = TURNS[family]
    prompt, _ = reader.prompt("what is it ?", pictures()[0])
    assert reader.tokenizer.decode(prompt).startswith(begins)
    assert prompt.tolist().count(reader.tokenizer.bos_token_id) == 1
    assert reader.tokenizer.decode(reader.response("it is red .")[0]) == answer.replace(" . </s>", " .</s>")


def thinking(prompt_ends, answer_begins):
    """A model whose template writes thoughts: one of an answer's text, or an empty one."""
    net, processor = parts("qwen2_vl")
    opened = "{{ '<|im_start|>assistant\\n' }}"
    said = "{% set t = m['content'][0]['text'] %}{{ " + answer_begins + " + t.split('</think>')[-1] }}<|im_end|>"
    processor.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}" + opened + said + "{% else %}<|im_start|>user\n"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}" + opened + prompt_ends + "{% endif %}"
    )
    return VLM(net=net, reader=Reader(processor=processor))


THOUGHT = "'<think>' + (t.split('</think>')[0].split('<think>')[-1] if '</think>' in t else '') + '</think>'"


def test_a_thought_of_an_answer_and_one_of_the_prompt_are_not_mixed():
    vlm = thinking("<think></think>", THOUGHT)
    assert vlm.reader.tokenizer.decode(vlm.reader.response("it is red .")[0]) == "it is red .<|im_end|>"
    with pytest.raises(
        ValueError,
        match=r"does not put the response '<think>a star</think>red' behind the end of a prompt, '.*<think></think>'",
    ):
        vlm.reader.response("<think>a star</think>red")


def test_the_first_tokens_of_a_thought_are_no_answer():
    vlm = thinking("<think>", THOUGHT)
    assert (
        vlm.reader.tokenizer.decode(vlm.reader.response("<think>a star</think>red")[0]) == "a star</think>red<|im_end|>"
    )
    with pytest.raises(ValueError, match="opens a thought, <think>, where an answer begins.*pope_answers=likelier"):
        greedy(vlm, [vlm.reader.prompt("?", pictures()[0])], longest=4)


def test_what_follows_a_prompt_has_what_its_tokens_need():
    pali, mllama = (Reader(processor=parts(family)[1]) for family in ("paligemma", "mllama"))
    prompt, inputs = pali.prompt("?", pictures()[0])
    assert pali.followed(inputs, prompt=len(prompt), tokens=2)["token_type_ids"][0, -3:].tolist() == [0, 1, 1]
    prompt, inputs = mllama.prompt("?", pictures()[0])
    mask = mllama.followed(inputs, prompt=len(prompt), tokens=2)["cross_attention_mask"]
    assert mask.shape[1] == len(prompt) + 2 and torch.equal(mask[:, -1], mask[:, len(prompt) - 1])
    with pytest.raises(ValueError, match="one a token, which nobody here can continue"):
        mllama.followed({"other": torch.zeros(1, 5)}, prompt=5, tokens=1)


def test_what_a_template_refuses_is_said_in_plain_words():
    processor = parts("gemma3")[1]
    processor.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        + processor.chat_template
    )
    reader = Reader(processor=processor)
    with pytest.raises(ValueError, match=r"Gemma3Processor refuses .*no system here.*leave 'system_prompt' empty"):
        reader.prompt_text("?", system="be brief")
    with pytest.raises(ValueError, match="holds '<start_of_image>', which stands for a picture"):
        reader.prompt_text("<start_of_image> what is it ?")
    with pytest.raises(ValueError, match="holds '<end_of_turn>', which the model reads as a token of its own"):
        reader.response("it is red<end_of_turn> .")


# As Llama 3.2's: a system turn where there is no picture, and the date in it.
SYSTEM = (
    "{% set told = strftime_now('%d %b %Y') %}{% set seen = namespace(image=false) %}{% for m in messages %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{% set seen.image = true %}{% endif %}{% endfor %}{% endfor %}"
    "{% if not seen.image %}<|h|>system<|/h|>\n\nToday Date: {{ told }}<|eot_id|>{% endif %}"
)


def test_a_prompt_without_a_picture_is_the_one_with_it_less_its_mark():
    processor = parts("mllama")[1]
    own = Reader(processor=processor)
    processor.chat_template = f"<s>{SYSTEM}{processor.chat_template.removeprefix('<s>')}"
    reader = Reader(processor=processor)
    assert reader.prompt_text("what ?") == own.prompt_text("what ?")
    assert reader.prompt_text("what ?", image=False) == own.prompt_text("what ?", image=False)
    assert reader.response("it is red .")[0].tolist() == own.response("it is red .")[0].tolist()
    whole = reader.conversation("what ?", "it is red .", None)[0]
    assert torch.equal(whole, torch.cat([reader.prompt("what ?")[0], reader.response("it is red .")[0]]))
    assert reader.content != own.content
    # Idefics' has another blank there, and stays as it is.
    processor.chat_template = own.template.replace("user<", "{{ ' ' if m['content'][0]['type'] == 'text' }}user<")
    assert Reader(processor=processor).prompt_text("?", image=False).startswith("<s><|h|> user")


def test_a_template_that_tells_the_date_tells_the_same_one_every_day():
    processor = parts("llava")[1]
    processor.chat_template = "{{ strftime_now('%d %b %Y') }} " + processor.chat_template
    assert Reader(processor=processor).prompt_text("?").startswith("26 Jul 2024 ")


def test_pictures_of_one_shape_are_one_pass_of_the_vision_tower():
    """Whatever the family: two responses of a prompt do not make two of its picture."""
    from lightning_modules.svco.scores import Row, scores_of

    vlm = built("qwen2_vl")
    seen = []
    vlm.core.model.visual.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    rows = [Row(*vlm.reader.prompt("?", p), [vlm.reader.response(a)[0] for a in ("red", "blue .")]) for p in pictures()]
    with torch.no_grad():
        scores_of(vlm, rows)
    assert seen == [sum(len(row.inputs["pixel_values"]) for row in rows)]


def test_the_head_is_asked_once_and_for_tokens_of_answers_alone():
    from lightning_modules.svco.scores import Row, scores_of

    vlm = built("gemma3")
    seen = []
    vlm.core.get_output_embeddings().register_forward_pre_hook(
        lambda _, given: seen.append(given[0].shape[:-1].numel())
    )
    answers = [vlm.reader.response(a)[0] for a in ("red", "on the left side there are two blue stars .")]
    rows = [Row(*vlm.reader.prompt("?", picture), answers) for picture in (*pictures(), None)]
    with torch.no_grad():
        scores_of(vlm, rows)
    assert [count for count in seen if count] == [len(rows) * sum(map(len, answers))]
