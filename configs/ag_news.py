"""AG News: the topic of a news item (World, Sports, Business, Sci/Tech) from its description, without the title.

    python -m fjt.main --config configs/ag_news.py --config.model.path=MODEL \\
        --config.data.dir=DIR --workdir runs/ag_news

DIR holds the official test.csv (class 1 to 4, title, description; no header) and, for training, either the official
train.csv of the same layout or train_subset_description.jsonl (keys text, label 0 to 3).  There is no dev set: a
twentieth of train is kept aside to choose by, and test.csv, which has labels, is scored at the end.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "ag_news"
    config.data.source = "files"
    config.data.holdout = 0.05
    return config
