"""Columns of any data set that TFDS has prepared: words with tags, and questions with contexts."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from glue_files import load_own, refusal

from fjt.data import squad
from fjt.data import tfds as tfds_columns

TAGS = ("O", "B-PER", "I-PER", "B-LOC")
SENTENCES = [(("Ada", "sees", "Rome"), ("B-PER", "O", "B-LOC")), (("Bo", "Li", "slept"), ("B-PER", "I-PER", "O"))] * 3
CONTEXT = "Ada saw the river and the old town."


class MadeWords(tfds.core.GeneratorBasedBuilder):
    """In the form of conll2003."""

    VERSION = tfds.core.Version("1.0.0")
    __module__ = "__main__"  # TFDS looks for files beside any other module

    def _info(self):
        tags = tfds.features.Sequence(tfds.features.ClassLabel(names=TAGS))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"tokens": tfds.features.Sequence(tfds.features.Text()), "ner": tags}),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "dev": self._generate_examples()}

    def _generate_examples(self):
        for key, (words, tags) in enumerate(SENTENCES):
            yield key, {"tokens": list(words), "ner": list(tags)}


class MadeQuestions(tfds.core.GeneratorBasedBuilder):
    """In the form of squad."""

    VERSION = tfds.core.Version("1.0.0")
    __module__ = "__main__"  # TFDS looks for files beside any other module

    def _info(self):
        text, answers = tfds.features.Text(), {"text": tfds.features.Text(), "answer_start": np.int32}
        features = {"id": text, "title": text, "context": text, "question": text}
        features |= {"answers": tfds.features.Sequence(answers)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "dev": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            answers = [
                {"text": text, "answer_start": CONTEXT.index(text)} for text in ("the river", "old")[: 1 + i % 2]
            ]
            row = {"id": f"q{i}", "title": "Ada", "context": CONTEXT, "question": f"what {i}?", "answers": answers}
            yield i, row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (MadeWords, MadeQuestions):
        builder(data_dir=str(folder)).download_and_prepare(file_format="array_record")
    return folder


WORDS = {"data__columns__text": "tokens", "data__columns__label": "ner"}
QUESTIONS = {
    "data__columns__text": "question", "data__columns__text_pair": "context", "data__columns__label": "answers",
    "data__columns__id": "id", "data__columns__cluster": "title",
}  # fmt: skip


def test_words_and_their_tags(folder):
    train, dev = "tfds:made_words/train", "tfds:made_words/dev"
    task, splits = load_own(train, dev, kind="entities", data__dir=str(folder), **WORDS)
    assert sorted(splits["train"].words) == sorted(words for words, _ in SENTENCES)
    tags = dict(SENTENCES)
    for words, label in zip(splits["dev"].words, splits["dev"].label, strict=True):
        assert tuple(task.label_names[i] for i in label) == tags[words]


def test_questions_and_their_contexts(folder):
    train, dev = "tfds:made_questions/train", "tfds:made_questions:1.0.0/dev[:50%]"
    _, splits = load_own(train, dev, kind="question_answering", data__dir=str(folder), **QUESTIONS)
    assert sorted(splits["train"].id) == [f"q{i}" for i in range(6)] and len(splits["dev"]) == 3
    assert set(splits["train"].text_pair) == {CONTEXT} and set(splits["train"].cluster) == {"Ada"}
    for name, label in zip(splits["train"].id, splits["train"].label, strict=True):
        assert squad.texts_of(label) == ["the river", "old"][: 1 + int(name[1]) % 2]


@pytest.mark.parametrize(
    ("path", "columns", "words"),
    [
        ("tfds:made_word/train", WORDS, ["has no made_word", "tfds build made_word --file_format=array_record"]),
        ("tfds:made_words/trian", WORDS, ["tfds:made_words/trian", "Unknown split"]),
        ("tfds:made_words/dev[:0%]", WORDS, ["tfds:made_words/dev[:0%]"]),
        ("tfds:/train", WORDS, ["should be tfds:NAME/SPLIT"]),
        ("tfds:made_words", WORDS, ["should be tfds:NAME/SPLIT"]),
        ("tfds:made_words/train", WORDS | {"data__columns__label": "pos"},
         ["no feature 'pos'; there are: ner, tokens", "config.data.columns.label=FEATURE"]),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(folder, path, columns, words):
    refusal(*words, call=lambda: load_own(path, path, kind="entities", data__dir=str(folder), **columns))


def test_a_format_that_needs_tensorflow_is_refused(folder, monkeypatch):
    from tensorflow_datasets.core import dataset_builder

    def refuse(*args, **kwargs):
        raise NotImplementedError  # what TFDS raises for files without random access, such as tfrecord

    monkeypatch.setattr(dataset_builder.DatasetBuilder, "as_data_source", refuse)
    path = "tfds:made_words/train"
    refusal(
        "which only TensorFlow can read",
        call=lambda: load_own(path, path, kind="entities", data__dir=str(folder), **WORDS),
    )


def test_values_are_those_of_json():
    features = tfds.features
    nested = features.Sequence({"a": {"u": features.Text(), "v": np.float32}, "b": features.ClassLabel(names=TAGS)})
    value = {"a": {"u": [b"x", b"y"], "v": np.float32([0.1, 2])}, "b": np.int64([1, -1])}
    assert tfds_columns._plain(value, nested) == {"a": {"u": ["x", "y"], "v": [0.1, 2.0]}, "b": ["B-PER", None]}
