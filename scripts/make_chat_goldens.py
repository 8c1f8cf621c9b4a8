"""Writes the goldens of chat templates and GGUF tokenizers: tests/golden/chat/golden.json and tests/golden/gguf.json.

The templates next to golden.json are this project's own, each in the prompt format of a family of models. transformers
renders and encodes them; tokenizers trains the small tokenizers. Each run gives the same files. Needs transformers,
tokenizers and jinja2:

    python scripts/make_chat_goldens.py

The templates of real models can be checked without being kept here: this command writes the same kind of file for a
folder of `.jinja` files, and the test `templates_from_outside_render_as_in_transformers` reads it.

    python scripts/make_chat_goldens.py --templates FOLDER --out FILE
    CHAT_GOLDENS=FILE cargo test --release --test chat -- --ignored
"""

import argparse
import datetime
import json
from pathlib import Path

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = Path(__file__).resolve().parent.parent
CHAT = HERE / "tests" / "golden" / "chat"
DATE = "2024-07-26"


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = FixedDate

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12:30, and they're late; we'll wait, I'd say, since I'm here.",
    "System, user and assistant: you are a helpful assistant. Today Date, Cutting Knowledge Date: December 2023.",
    "Numbers 1234567890, 3.14159, 2,500,000 and 007; prices of $5 or €10; 50 % of 100.",
    "def add(a, b):\n    return a + b  # sum\n\n\tprint(add(1, 2))\n\n\nif x != y: z[0] = {'k': \"v\"}",
    "Über die Straße läuft ein Käfer. ÜBER ALLES. Le café à côté. Ångström, naïve, coöperate.",
    "你好，世界。東京へ行きます。カタカナとひらがな。한국어 문장입니다. Привет, мир! Γειά σου. مرحبا بالعالم",
    "HTTPServer camelCase ALLCAPS snake_case kebab-case and/or x<y>z &amp; a@b.c #tag ~/path C:\\dir",
]

HARD = [
    "",
    " ",
    "   \n\n  \t x  ",
    "Hello, world!",
    "It's they'RE WE'LL I'd don't 'quoted'",
    "1234567890 12 345 6.78 ½ ²",
    "emoji 😀👩‍👩‍👧 flags 🇩🇪 and text",
    "你好，世界 東京カタカナ 한국어",
    "trailing blanks   ",
    "line\r\nbreaks\n\n\nand\ttabs",
    "e\u0301 decomposed, \u00e9 composed, \u212b",
    "camelCaseHTTPServer/and/or snake_case",
    "<|special|> in the text <|user|>x",
    "\u00a0no-break\u2003em\u200bzero",
    "def f(x):\n    return {'a': [1, 2]}\n",
    "!!!??? ... $%^&* ~`|\\",
]

CONVERSATIONS = {
    "user": [{"role": "user", "content": "Name three colours."}],
    "blanks": [{"role": "user", "content": "  \n Count to 12.\n\n"}],
    "system": [
        {"role": "system", "content": " Answer in one word. "},
        {"role": "user", "content": "What's “2 < 3 & 4”? <b>'ä'</b>"},
    ],
    "turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello! "},
        {"role": "user", "content": "你好 😀"},
    ],
    "two questions": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ],
    "wrong turns": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "wrong role": [{"role": "critic", "content": "hm"}],
    "empty": [{"role": "user", "content": ""}],
    "specials": [{"role": "user", "content": "<|im_end|><|eot_id|>{{ bos_token }} {% raw %}"}],
}

SPECIAL = [
    "<s>", "</s>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>",
    "<|im_end|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|system|>", "<|user|>",
    "<|assistant|>", "<|end|>", "<|endoftext|>", "<pad>",
]

FAMILIES = {
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "phi": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    "constructs": {"bos_token": "<s>", "eos_token": "</s>"},
}

VARIABLES = [{}, {"enable_thinking": False}, {"date_string": "1 Jan 2030", "bos_token": "<x>"}]


def trained(pre_tokenizer, normalizer=None, specials=(), ignore_merges=False, size=420):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def with_bos(tokenizer, bos):
    """A tokenizer that puts BOS before each text: a rendered template must not get a second one."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def cases(tokenizer, template):
    found = []
    for name, messages in CONVERSATIONS.items():
        for variables in VARIABLES:
            case = {"name": name, "messages": messages, "variables": variables}
            arguments = {"chat_template": template, "add_generation_prompt": True, **variables}
            try:
                case["text"] = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
                case["ids"] = list(tokenizer.apply_chat_template(messages, return_dict=False, **arguments))
            except (jinja2.TemplateError, TypeError, KeyError, IndexError, ValueError) as error:
                case["error"] = str(error)
                case["raised"] = type(error) is jinja2.TemplateError
            if not any({**case, "variables": 0} == {**other, "variables": 0} for other in found):
                found.append(case)
    return found


def chat(base, folder, families):
    entries = []
    for template in sorted(folder.glob("*.jinja")):
        config = families.get(template.stem, {"bos_token": "<s>", "eos_token": "</s>"})
        backend = with_bos(base, config["bos_token"]) if "bos_token" in config else base
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **config)
        text = template.read_text(encoding="utf-8")
        entry = {"template": template.name, "config": config, "cases": cases(tokenizer, text)}
        if folder != CHAT:
            entry["text"] = text
        entries.append(entry)
    return entries


def split(*patterns):
    steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TIKTOKEN = ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Pre-tokenizers as in the tokenizer.json of the models behind each name.
PRE = {
    "gpt-2": dict(pre=GPT2),
    "olmo": dict(pre=GPT2, nfc=True),
    "smollm": dict(pre=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
    "llama-bpe": dict(pre=split(TIKTOKEN % "{1,3}"), ignore_merges=True, bos=True),
    "qwen2": dict(pre=split(TIKTOKEN % ""), nfc=True),
    "gpt-4o": dict(
        pre=split(f"{CASED}*{LOWER}+{ENDINGS}?|{CASED}+{LOWER}*{ENDINGS}?|" + r"\p{N}{1,3}|" + REST)
    ),
    "tekken": dict(pre=split(f"{CASED}*{LOWER}+|{CASED}+{LOWER}*|" + r"\p{N}|" + REST), ignore_merges=True, bos=True),
    "deepseek-coder": dict(
        pre=split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
    ),
    "deepseek-v3": dict(
        pre=split(
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
        )
    ),
}


def gguf():
    """Each tokenizer twice: as in a GGUF file's metadata, and the original's tokens of difficult strings."""
    entries = []
    for name, kind in PRE.items():
        normalizer = normalizers.NFC() if kind.get("nfc") else None
        specials = ["<|bos|>", "<|special|>", "<|eos|>"]
        tokenizer = trained(kind["pre"], normalizer, specials, kind.get("ignore_merges", False), 380)
        tokenizer.add_tokens([AddedToken("<|user|>", special=False, normalized=False)])
        vocab = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
        assert [index for _, index in vocab] == list(range(len(vocab)))
        types = [3 if token in specials else 4 if token == "<|user|>" else 1 for token, _ in vocab]
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        if kind.get("bos"):
            tokenizer = with_bos(tokenizer, "<|bos|>")
        encodings = [{"text": text, "ids": tokenizer.encode(text).ids} for text in HARD]
        for encoding in encodings:
            encoding["decoded"] = tokenizer.decode(encoding["ids"])
        entries.append(
            {
                "pre": name,
                "tokens": [token for token, _ in vocab],
                "types": types,
                "merges": [" ".join(merge) for merge in merges],
                "bos": tokenizer.token_to_id("<|bos|>"),
                "eos": tokenizer.token_to_id("<|eos|>"),
                "encodings": encodings,
            }
        )
    return entries


def truncations(base):
    """`tokenizer(text, truncation=True)` of transformers, from both sides, with and without a BOS."""
    found = []
    for bos in [None, "<s>"]:
        for side in ["left", "right"]:
            backend = with_bos(base, bos) if bos else base
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, truncation_side=side)
            for text in [CORPUS[0], CORPUS[5], "short"]:
                for most in [2, 3, 10, 400]:
                    ids = tokenizer(text, truncation=True, max_length=most)["input_ids"]
                    found.append({"bos": bos, "side": side, "text": text, "most": most, "ids": ids})
    return found


def write(path, value):
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in value)
    path.write_text("[\n" + lines + "\n]\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=Path, help="folder of .jinja files to use instead of the own ones")
    parser.add_argument("--out", type=Path, help="file to write those goldens to")
    arguments = parser.parse_args()
    base = trained(split(TIKTOKEN % "{1,3}"), specials=SPECIAL)
    if arguments.templates:
        write(arguments.out, chat(base, arguments.templates, {}))
        return
    base.save(str(CHAT / "tokenizer.json"), pretty=False)
    write(CHAT / "golden.json", chat(base, CHAT, FAMILIES))
    write(CHAT / "truncation.json", truncations(base))
    write(HERE / "tests" / "golden" / "gguf.json", gguf())


if __name__ == "__main__":
    main()
