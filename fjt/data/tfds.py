"""TFDS without TensorFlow: GLUE, which fjt downloads and unzips and TFDS builds; columns of any prepared data set."""

import fcntl
import hashlib
import logging
import os
import shutil
import sys
import urllib.parse
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fjt.core import files, network
from fjt.core.errors import UserError
from fjt.data.glue import Split, Task
from fjt.data.rows import Rows

log = logging.getLogger(__name__)

PREFIX = "tfds:"  # of the name of a split in place of a file's
# Seconds until a server must have answered.  A user without a network waits less than ten seconds in all.
CONNECT_SECONDS = 5


def load(task: Task, data_dir: str, manual_dir: str, cache_dir: str) -> dict[str, Split]:
    """{name: Split} of the task, rows sorted by TFDS's `idx`, the number of the row in the official file.

    Args:
        task: a GLUE task.
        data_dir: the folder of TFDS; a data set that was prepared there in array_record format is read from it.
        manual_dir: a folder with the archives as downloaded, or "" to download them.
        cache_dir: the folder to download archives to.

    Raises:
        UserError: an archive is missing, damaged or cannot be downloaded.
    """
    builders, splits = {}, {}
    configs = {table.tfds.split("/")[0]: table.optional for table in reversed(task.tables)}
    for config, optional in sorted(configs.items(), key=lambda item: item[1]):  # required data sets come first
        try:
            builders[config] = _prepared(config, data_dir, manual_dir, cache_dir)
        except UserError as error:
            # Only MNLI's diagnostic set is both optional and a separate data set: MNLI goes on without it.
            if not optional:
                raise
            log.warning("Going on without glue/%s: %s", config, error)
    for name, source in {table.split: table.tfds for table in task.tables}.items():
        config, split = source.split("/")
        if config in builders:
            splits[name] = _read(builders[config], split)
    return splits


def is_place(path: str) -> bool:
    """Whether a file's name in config.data stands for a split of TFDS, such as "tfds:squad/v1.1:3.0.0/validation"."""
    return path.startswith(PREFIX)


def read_columns(path: str, columns: Mapping[str, str], data_dir: str, optional: Collection[str] = ()) -> Rows:
    """The Rows of a split that TFDS has prepared, in its order.

    Args:
        path: PREFIX, the name of the data set with its config and version, if it has them, a slash, and the split.
        columns: {role: name of a feature}.
        data_dir: the folder of TFDS.
        optional: roles whose feature may be missing.

    Raises:
        UserError: the data set is not prepared there in array_record format, or lacks a feature.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    name, _, split = path.removeprefix(PREFIX).rpartition("/")
    if not (name and split):
        raise UserError(f"{path} should be {PREFIX}NAME/SPLIT, such as {PREFIX}conll2003/train.")
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):  # ValueError: not a name
        raise UserError(
            f"{path}: {data_dir} has no {name}. Prepare it in an environment with TensorFlow, by `tfds build {name} "
            f"--file_format=array_record --data_dir={data_dir}`; another folder is given by --config.data.dir."
        ) from None
    features: Any = builder.info.features
    source = _source(builder, split, path)
    names = {role: column for role, column in columns.items() if column in features or role not in optional}
    for role, column in names.items():
        if column not in features:
            raise UserError(
                f"{path}: no feature {column!r}; there are: {', '.join(sorted(features))}. Name it with "
                f"--config.data.columns.{role.partition(':')[0]}=FEATURE."
            )
    found, values = source.__getitems__(range(len(source))), {}
    for role, column in names.items():
        try:
            values[role] = [_plain(row[column], features[column]) for row in found]
        except UnicodeDecodeError:
            raise UserError(f"{path}: the feature {column!r} has texts that are not UTF-8. Name another one.") from None
    return Rows(path, values, list(range(len(found))), list(range(1, len(found) + 1)), {})


def _plain(value: Any, feature: Any) -> Any:
    """A value of TFDS as JSON would have it; classes by name, None for one that is unknown (-1)."""
    from tensorflow_datasets import features

    if isinstance(feature, features.Sequence):
        inner: Any = feature.feature
        if isinstance(inner, features.FeaturesDict):  # a list of objects is an object of lists there
            return {key: _plain(value[key], features.Sequence(inner[key])) for key in inner}
        return [_plain(one, inner) for one in value]
    if isinstance(feature, features.FeaturesDict):
        return {key: _plain(value[key], feature[key]) for key in feature}
    if isinstance(feature, features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.floating):  # 0.1 of 32 bits is the text 0.1, not 0.10000000149011612
        return float(str(value))
    return value.item() if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0 else value


def _source(builder: Any, split: str, place: str) -> Any:
    """The rows of a split by number.  place: for messages."""
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError:  # TFDS raises it for a format without random access, such as tfrecord
        raise UserError(
            f"{builder.data_dir} is in {builder.info.file_format.value} format, which only TensorFlow can read. Give "
            "another --config.data.dir, with the data set in array_record format; fjt prepares GLUE there itself."
        ) from None
    except ValueError as error:
        raise UserError(f"{place}: {str(error).splitlines()[0]}") from None


def _read(builder: Any, split: str) -> Split:
    source = _source(builder, split, f"glue/{builder.builder_config.name}")
    rows = sorted(source.__getitems__(range(len(source))), key=lambda row: row["idx"])
    texts = [tuple(row[name].decode() for row in rows) for name in builder.builder_config.text_features]
    label = np.array([row["label"] for row in rows], np.float32)
    if builder.builder_config.label_classes:
        label = label.astype(np.int32)
    else:
        label[label == -1] = np.nan  # TFDS marks the rows of a test set with -1
    return Split(tuple(str(row["idx"]) for row in rows), texts[0], texts[1] if len(texts) > 1 else None, label)


def _prepared(config: str, data_dir: str, manual_dir: str, cache_dir: str) -> Any:
    """The TFDS builder of glue/<config>, its data prepared in data_dir."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text.glue  # registers GLUE: TFDS's own registration stops at a missing h5py

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = tfds.builder(f"glue/{config}", data_dir=data_dir)
    if not _is_prepared(builder):
        os.makedirs(data_dir, exist_ok=True)
        with open(os.path.join(data_dir, f".glue-{config}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # runs of a sweep start together; one of them prepares
            builder = tfds.builder(f"glue/{config}", data_dir=data_dir)
            if not _is_prepared(builder):
                _prepare(builder, manual_dir, cache_dir)
    return builder


def _is_prepared(builder: Any) -> bool:
    return (builder.data_path / "dataset_info.json").exists()  # TFDS's own test logs a warning with each False


def _prepare(builder: Any, manual_dir: str, cache_dir: str) -> None:
    import tensorflow_datasets as tfds

    infos = {url: builder.url_infos[url] for url in _urls(builder)}
    folder = manual_dir or os.path.join(cache_dir, "downloads")
    for url, info in infos.items():
        path = os.path.join(folder, info.filename)
        if not os.path.isfile(path):
            if manual_dir:
                raise UserError(
                    f"config.data.manual_dir={manual_dir!r} has no {info.filename}. Download it there from {url}."
                )
            _download(url, info, path, builder.builder_config.name)
        elif _sha256(path) != info.checksum:
            raise UserError(
                f"{path} is damaged or from another release: its sha256 differs from the one that TFDS records "
                f"({info.checksum}). Delete the file and download {url} again."
            )
    # TFDS can unzip only with TensorFlow, but treats a folder of this name as an archive that is already unzipped.
    # Under this lock it is one process's own; another one that was killed may have left it.
    extracted = os.path.join(builder.data_dir_root, f"extracted-glue-{builder.builder_config.name}")
    shutil.rmtree(extracted, ignore_errors=True)
    try:
        with files.naming(builder.data_dir_root):
            for info in infos.values():
                if info.filename.endswith(".zip"):
                    _unzip(os.path.join(folder, info.filename), os.path.join(extracted, f"ZIP.{info.filename}"))
            downloads = tfds.download.DownloadConfig(manual_dir=folder, extract_dir=extracted)
            builder.download_and_prepare(file_format="array_record", download_config=downloads)
    finally:
        shutil.rmtree(extracted, ignore_errors=True)


def _urls(builder: Any) -> tuple[str, ...]:
    from tensorflow_datasets.text import glue

    if builder.builder_config.name == "mrpc":  # the only one that GLUE's server does not offer as an archive
        return (glue._MRPC_DEV_IDS, glue._MRPC_TRAIN, glue._MRPC_TEST)
    return (builder.builder_config.data_url,)


def _unzip(path: str, folder: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile:
        raise UserError(f"{path} is not a zip archive. Delete it and download it again.") from None


def _sha256(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _download(url: str, info: Any, path: str, config: str) -> None:
    """Writes the file at `url` to `path`, only when it is complete and has the checksum that TFDS records."""
    import requests

    os.makedirs(os.path.dirname(path), exist_ok=True)
    print(f"fjt: downloading {info.filename} ({int(info.size) / 1e6:.0f} MB)", file=sys.stderr)
    try:
        response = _open(url)
        response.raise_for_status()
        digest = hashlib.sha256()
        with files.written(path) as f:
            for chunk in response.iter_content(1 << 20):
                f.write(chunk)
                digest.update(chunk)
                if sys.stderr.isatty():
                    print(f"\r{f.tell() / int(info.size):6.1%} of {info.filename}", end="", file=sys.stderr)
            if digest.hexdigest() != info.checksum:
                raise UserError(
                    f"{url} returned a file whose sha256 differs from the one that TFDS records.{_ways(info, config)}"
                )
    except requests.RequestException as error:
        answer = getattr(error, "response", None)
        reason = f"HTTP status {answer.status_code}" if answer is not None else f"{type(error).__name__}"
        server = urllib.parse.urlsplit(url).netloc
        raise network.Unreachable(f"{server} could not be reached for {url} ({reason}).{_ways(info, config)}") from None


def _open(url: str) -> Any:
    """The opened response of `requests`; raises requests.RequestException after CONNECT_SECONDS at the latest."""
    import requests

    try:
        return network.within(CONNECT_SECONDS, lambda: requests.get(url, stream=True, timeout=(CONNECT_SECONDS, 60)))
    except requests.RequestException:
        raise
    except Exception as error:
        raise requests.ConnectionError(error) from None


def _ways(info: Any, config: str) -> str:
    return (
        " To use a local copy, give --config.data.source=files --config.data.dir=DIR (GLUE's TSV files), "
        f"--config.data.manual_dir=DIR ({info.filename} and similar archives, as downloaded), or "
        f"--config.data.dir=DIR (a TFDS folder with glue/{config} prepared in array_record format)."
    )
