"""A language model is tuned on a folder of notes. Run: python examples/tune_notes.py [MODEL_FOLDER] [NOTES_FOLDER]

MODEL_FOLDER is a causal language model of Hugging Face with its tokenizer. Without one, a small model that has learned
nothing reads letters; without notes, it reads these examples.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import forwardonly as fo


def read_letters(text: str) -> list[int]:
    """A token for each letter."""
    return [min(ord(letter), 127) for letter in text]


def main(folder: str | None = None, notes: str = str(Path(__file__).parent)) -> tuple[float, float]:
    """Cross-entropy of held-out notes, before and after."""
    if folder is None:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=128, **sizes, tie_word_embeddings=True))
        encode, words, rate = read_letters, 128, 1e-2
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
        encode, words, rate = AutoTokenizer.from_pretrained(folder).encode, model.config.vocab_size, 2e-3
    train, validation, _ = fo.data.texts(notes, encode, length=64, validation=20)
    rule = fo.rules.Projection(classes=words, targets="token")
    net = fo.localize(model, rule, train.images[:2], blocks=2, heads="own", readout="last")
    before = fo.evaluate(net, validation).cross_entropy
    fo.fit(net, train, epochs=3, batch_size=4, learning_rate=rate, body_rate=0.1, layer_decay=0.25)
    return before, fo.evaluate(net, validation).cross_entropy


if __name__ == "__main__":
    before, after = main(*sys.argv[1:])
    print(f"cross-entropy of notes that were not learned: {before:.3f} before, {after:.3f} after")
