"""Names for channels, and explanations in words: "said truck because of: wheel (+), headlight (+), not: sky (-)".

Two doors. :func:`name_channels` says which concept each channel of a layer stands for, once per model;
:func:`in_words` ranks the named channels by their Grad-CAM weights for one picture. The words are those of the concepts
that were shown to the model; captions and answers of language models have nothing to do with it.

    ex = Explainer("model.onnx")
    names = name_channels(ex, read_examples("concepts/"))
    print(in_words(ex, "photo.jpg", names).sentence)
"""

from __future__ import annotations

from onnxcam.concepts.examples import Example, read_examples
from onnxcam.concepts.naming import name_channels
from onnxcam.concepts.record import Named, Names, load_names
from onnxcam.concepts.words import Word, Words, in_words

__all__ = ["Example", "Named", "Names", "Word", "Words", "in_words", "load_names", "name_channels", "read_examples"]
