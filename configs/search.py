"""Every option of a search and of the runs that it makes; configs of searches start from here.

    python -m fjt.search configs/quickstart_search.py --workdir runs/quickstart_search --trials 20

`config.search.space` is a dict {config key: axis} in a tuple.  An axis is a list of values, or a range: ("log", 1e-5,
1e-2), ("float", 0.0, 0.5) or ("int", 1, 5).  A grid needs a number of points as the last item of a range that is not
of whole numbers: ("log", 1e-5, 1e-2, 7).  Where methods have options of their own, give one dict per method.
"""

from ml_collections import ConfigDict

from configs import study
from fjt.core import schema
from fjt.study.space import SearchConfig


def get_config(run: ConfigDict | None = None) -> ConfigDict:
    """The config of a search over a run's, by default that of configs/base.py."""
    config = study.get_config(run)
    del config.study
    config.search = schema.make_config(SearchConfig)
    return config
