"""What `tidegate base import` of SmolLM2-135M-Instruct is compared with.

  tidegate base import SmolLM2-135M-Instruct.Q4_1.gguf IMPORTED --dtype f32
  python tests/golden/make_smollm2_import.py --imported IMPORTED --base FOLDER

FOLDER is what make_smollm2_base.py made of the same file. Checked here: transformers loads IMPORTED
without a warning and its weights equal FOLDER's bit for bit. Written: smollm2/import.json, a digest
of those weights and the ids that transformers' tokenizer gives for many lines of many languages.
--lines and --out make more lines for a longer comparison.
"""

import argparse
import hashlib
import json
import os
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))

PHRASES = """The quick brown fox isn't lazy; it'll've jumped.|DON'T 'Tis WE'RE I'M o'clock 'S 's 'LL
Zażółć gęślą jaźń|Příliš žluťoučký kůň|Falsches Üben von Xylophonmusik quält Größe|ſtraße ﬁne ﬀ
El pingüino Wenceslao hizo kilómetros|Où est l'été ? C'est « là »|Það er gott að lesa|ångström Åse
Разъяренный чтец эгоистично бьёт|Щастлива сім'я їжаків|Ξεσκεπάζω την ψυχοφθόρα|Խոսքի մասին
שָׁלוֹם עולם|مرحبا بالعالم ١٢٣٤٥|سلام دنیا ۱۲۳|हिन्दी में १२३ शब्द|বাংলা ভাষা|தமிழ் மொழி|తెలుగు|ไทยแลนด์ ๑๒
日本語のテキスト、カタカナも。|中文测试：你好，世界！|繁體中文「測試」|한국어 문장입니다|Tiếng Việt có dấu|ⴰⵎⴰⵣⵉⵖ|ქართული
int main(void) { return x[i]++ ^ 0xFF; }|SELECT * FROM t WHERE a <> 'b';|def f(x): return x**2  # ok|</div>
https://example.org/a?b=c&d=%20|user@example.com|C:\\Users\\x|1,234,567.89 EUR|2026-11-25T08:02:54Z|3.14e-10
½ ² Ⅷ ① ٣ 𝟘𝟙 ౩|🙂👩‍👩‍👧‍👦🇪🇺👍🏽|e\u0301 é a\u0308 \u1e69 s\u0323\u0307|\u200b\u200d\ufeff\u00ad|𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈|\ue000\uffff\U0010fffd
<|im_start|>|<|im_end|>|<|endoftext|>|<repo_name>|<|im_end|<|im_end|>|< |im_start|>|<|IM_END|>|<jupyter_code>"""
SPACES = [" ", "  ", "   ", "\n", "\n\n", " \n ", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x0b"]
SPACES += ["\x85", "\u200a", "", "", "", " ", " ", " "]
BLOCKS = [(0, 0x20), (0x21, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x780)]
BLOCKS += [(0x900, 0xE00), (0x2000, 0x2C00), (0x3000, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A0)]
BLOCKS += [(0xE000, 0xFFFF), (0x10000, 0x10FFFF), (0x1F300, 0x1FAFF)]


class Draw:
    """Numbers from SHA-256 of a counter: the same lines with every version of every library."""

    def __init__(self, seed):
        self.seed, self.count = seed, 0

    def below(self, n):
        self.count += 1
        text = f"{self.seed}/{self.count}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") % n

    def of(self, items):
        return items[self.below(len(items))]


def line(index):
    draw = Draw(index)
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>"]
    out = draw.of(SPACES)
    for _ in range(1 + draw.below(4)):
        kind = draw.below(8)
        if kind == 0:
            low, high = draw.of(BLOCKS)
            out += "".join(chr(low + draw.below(high - low)) for _ in range(1 + draw.below(6)))
        elif kind == 1:
            out += str(draw.below(10 ** (1 + draw.below(9))))
        elif kind == 2:
            out += draw.of(special)
        else:
            phrase = draw.of(PHRASES.split("\n"))
            begin = draw.below(len(phrase)) if draw.below(2) else 0
            out += phrase[begin : begin + 1 + draw.below(28)]
        out += draw.of(SPACES)
    return out


def weights_digest(path):
    """SHA-256 over name, 0x00 and f32 bytes of every tensor, by name."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        digest.update(name.encode() + b"\0" + value.astype("<f4").tobytes())
    return digest.hexdigest()


def main():
    warnings.simplefilter("error")
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imported", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--out", default=os.path.join(HERE, "smollm2", "import.json"))
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.imported)
    reference = load_file(os.path.join(args.base, "model.safetensors"))
    state = model.state_dict()
    for name, value in reference.items():
        assert torch.equal(state[name], value), name
    tokenizer = AutoTokenizer.from_pretrained(args.imported)
    cases = [
        {"ids": tokenizer(text, add_special_tokens=False)["input_ids"], "text": text}
        for text in (line(i) for i in range(args.lines))
    ]
    digest = weights_digest(os.path.join(args.base, "model.safetensors"))
    with open(args.out, "w", encoding="utf-8") as out:
        out.write('{"weights_sha256": "' + digest + '",\n "lines": [\n')
        rows = (json.dumps(case, separators=(",", ":"), ensure_ascii=True) for case in cases)
        out.write(",\n".join(rows) + "\n]}\n")
    print(f"{len(reference)} tensors equal, {len(cases)} lines in {args.out}")


if __name__ == "__main__":
    main()
