"""Vocabularies that are learned from texts."""

import numpy as np
import pytest
import squad_files

from configs import pretrain
from fjt import vocabulary as door
from fjt.core import settings
from fjt.core.errors import UserError
from fjt.data import tokenization, vocabulary
from fjt.experiment.prepare import prepare

RNG = np.random.default_rng(0)
WORDS = [a + b for a in ("play", "walk", "talk", "Look") for b in ("", "ing", "ed", "er", "s")]
TEXTS = [" ".join(RNG.choice([*WORDS, *squad_files.FILLERS], 30)) + " ." for _ in range(200)]


@pytest.mark.parametrize(
    ("pieces", "cased", "looks"),
    [("wordpiece", False, "looks"), ("wordpiece", True, "Looks"), ("bytes", False, " Looks")],
)
def test_a_vocabulary_writes_its_texts(pieces, cased, looks, tmp_path):
    made = vocabulary.learn(TEXTS, 300, pieces, cased)
    vocabulary.save(made, str(tmp_path / "v"))
    read = tokenization.load_tokenizer(str(tmp_path / "v"))
    assert 60 < len(read) <= 300 and read.mask_token == "[MASK]" and read.pad_token_id == 0
    ids = read.encode("Looks walking .")
    assert ids[0] == read.cls_token_id and ids[-1] == read.sep_token_id and len(ids) < 12
    assert read.unk_token_id not in ids and read.decode(ids[1:-1]).startswith(looks)
    assert read("a", "b")["token_type_ids"].count(1) > 1
    again = tokenization.load_tokenizer(str(tmp_path / "v"))
    assert tokenization.tokenizer_sha256(again) == tokenization.tokenizer_sha256(read)
    if pieces == "bytes":
        assert read.unk_token_id not in read.encode("naïve ☃ 中"), "every text can be written"
        other = vocabulary.learn(TEXTS, 300, pieces, cased)
        assert tokenization.tokenizer_sha256(other) == tokenization.tokenizer_sha256(made)


def test_the_command_and_a_model_from_scratch(tmp_path, capsys):
    (tmp_path / "train.txt").write_text("\n\n".join(TEXTS))
    arguments = ["--input", str(tmp_path / "train.txt"), "--output", str(tmp_path / "v"), "--size", "290"]
    assert door.main(["", *arguments, "--pieces", "bytes"]) == 0
    assert "tokens (bytes) of 200 texts" in capsys.readouterr().out
    made = pretrain.get_config()
    made.update_from_flattened_dict({
        "data.files.train": str(tmp_path / "train.txt"), "data.holdout": 0.1, "model.path": "", "mesh.data": 1,
        "model.scratch.vocab": str(tmp_path / "v"), "model.scratch.layers": 1, "model.max_length": 32,
        "cache.dir": str(tmp_path / "cache"),
    })  # fmt: skip
    experiment = prepare(settings.from_config(made))
    assert experiment.model.config.vocab == len(experiment.tokenizer) == 290
    assert door.main(["", *arguments]) == 2 and "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "200"], "--size=200 leaves no room for sub-words; give more than 261"),
        (["--pieces", "bytes", "--cased"], "bytes are always cased"),
        (["--input", "none.txt"], "none.txt does not exist"),
    ],
)
def test_mistakes_of_the_command(arguments, message, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one\n")
    given = ["--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "v"), *arguments]
    assert door.main(["", *given]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "v").exists()


def test_no_text():
    with pytest.raises(UserError, match="no text to learn a vocabulary from"):
        vocabulary.learn([], 300, "wordpiece", False)
