"""Question answering: the span of a context that answers a question, from files in the layout of SQuAD 1.1 or 2.0.

    python -m fjt.main --config configs/squad.py --config.model.path=MODEL \\
        --config.data.files.train=train-v1.1.json --config.data.files.dev=dev-v1.1.json --workdir runs/squad

Contexts longer than config.model.max_length are read in windows that share config.model.doc_stride tokens.  Where the
training data have questions without an answer, as in version 2.0, the run may answer none; the threshold for this is
the one with the best F1 on dev, and is kept with the run.  In a .jsonl or .parquet file, answers are a list of
{text, answer_start}, or {text: list, answer_start: list}.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "table"
    config.data.source = "files"
    config.data.kind = "question_answering"
    config.data.columns.text = "question"
    config.data.columns.text_pair = "context"
    config.data.columns.label = "answers"
    config.data.columns.id = "id"
    config.data.columns.cluster = "title"  # questions about one article are not independent
    config.model.max_length = 384
    config.model.doc_stride = 128
    return config
