"""GLUE through TFDS's own builder, without TensorFlow: fjt fetches and unzips the archives, TFDS builds and reads."""

import fcntl
import hashlib
import logging
import os
import sys
import tempfile
import urllib.parse
import zipfile

import numpy as np

from fjt.core import network
from fjt.core.errors import UserError
from fjt.data.glue import Split

log = logging.getLogger(__name__)

# Seconds until a server must have answered; with what follows, a user without a network waits less than ten.
CONNECT_SECONDS = 5


def load(task, data_dir, manual_dir, cache_dir):
    """{name: Split} of the task's splits, rows sorted by TFDS's `idx`, which is the row's number in the official file.

    data_dir: TFDS's; a data set that was prepared there in array_record format is read as it is.  manual_dir: a folder
    with the archives as downloaded, or "".  cache_dir: where archives are downloaded to.  Raises UserError.
    """
    builders, splits = {}, {}
    configs = {table.tfds.split("/")[0]: table.optional for table in reversed(task.tables)}
    for config, optional in sorted(configs.items(), key=lambda item: item[1]):  # the needed ones are missed first
        try:
            builders[config] = _prepared(config, data_dir, manual_dir, cache_dir)
        except UserError as error:
            # Only MNLI's diagnostic set is both optional and a data set of its own: MNLI goes on without it.
            if not optional:
                raise
            log.warning("Going on without glue/%s: %s", config, error)
    for name, place in {table.split: table.tfds for table in task.tables}.items():
        config, split = place.split("/")
        if config in builders:
            splits[name] = _read(builders[config], split)
    return splits


def _read(builder, split):
    try:
        source = builder.as_data_source(split=split)
    except NotImplementedError:  # what TFDS raises for a format without random access, such as tfrecord
        raise UserError(
            f"{builder.data_dir} is in {builder.info.file_format.value} format, which only TensorFlow reads; give "
            "another --config.data.dir, in which fjt prepares the data set in array_record format."
        ) from None
    rows = sorted(source.__getitems__(range(len(source))), key=lambda row: row["idx"])
    texts = [tuple(row[name].decode() for row in rows) for name in builder.builder_config.text_features]
    label = np.array([row["label"] for row in rows], np.float32)
    if builder.builder_config.label_classes:
        label = np.int32(label)
    else:
        label[label == -1] = np.nan  # so TFDS marks the rows of a test set
    return Split(tuple(str(row["idx"]) for row in rows), texts[0], texts[1] if len(texts) > 1 else None, label)


def _prepared(config, data_dir, manual_dir, cache_dir):
    """TFDS builder of glue/<config> whose data lie in data_dir."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text.glue  # registers it: TFDS's own registration stops at a missing h5py

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = tfds.builder(f"glue/{config}", data_dir=data_dir)
    if not _is_prepared(builder):
        os.makedirs(data_dir, exist_ok=True)
        with open(os.path.join(data_dir, f".glue-{config}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # runs of a sweep start together, and one of them prepares
            builder = tfds.builder(f"glue/{config}", data_dir=data_dir)
            if not _is_prepared(builder):
                _prepare(builder, manual_dir, cache_dir)
    return builder


def _is_prepared(builder):
    return (builder.data_path / "dataset_info.json").exists()  # TFDS's own question logs a warning with each no


def _prepare(builder, manual_dir, cache_dir):
    import tensorflow_datasets as tfds

    infos = {url: builder.url_infos[url] for url in _urls(builder)}
    folder = manual_dir or os.path.join(cache_dir, "downloads")
    for url, info in infos.items():
        path = os.path.join(folder, info.filename)
        if not os.path.isfile(path):
            if manual_dir:
                raise UserError(f"config.data.manual_dir={manual_dir!r} has no {info.filename}, which is {url}.")
            _download(url, info, path, builder.builder_config.name)
        elif _sha256(path) != info.checksum:
            raise UserError(
                f"{path} is damaged or of another release: its sha256 is not the one that TFDS records "
                f"({info.checksum}). Delete it and download {url} again."
            )
    # TFDS can unzip only with TensorFlow, but takes a folder of this name for an archive that is unzipped already.
    with tempfile.TemporaryDirectory(dir=builder.data_dir_root, prefix="extracted-") as extracted:
        for info in infos.values():
            if info.filename.endswith(".zip"):
                _unzip(os.path.join(folder, info.filename), os.path.join(extracted, f"ZIP.{info.filename}"))
        downloads = tfds.download.DownloadConfig(manual_dir=folder, extract_dir=extracted)
        builder.download_and_prepare(file_format="array_record", download_config=downloads)


def _urls(builder):
    from tensorflow_datasets.text import glue

    if builder.builder_config.name == "mrpc":  # the one that GLUE's server does not hold as an archive
        return (glue._MRPC_DEV_IDS, glue._MRPC_TRAIN, glue._MRPC_TEST)
    return (builder.builder_config.data_url,)


def _unzip(path, folder):
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile:
        raise UserError(f"{path} is no zip archive; delete it and download it again.") from None


def _sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _download(url, info, path, config):
    """Writes the file behind `url` to `path`, whole and with the checksum that TFDS records, or not at all."""
    import requests

    partial = f"{path}.{os.getpid()}.partial"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    print(f"fjt: downloading {info.filename} ({int(info.size) / 1e6:.0f} MB)", file=sys.stderr)
    try:
        response = _open(url)
        response.raise_for_status()
        with open(partial, "wb") as f:
            for chunk in response.iter_content(1 << 20):
                f.write(chunk)
                if sys.stderr.isatty():
                    print(f"\r{f.tell() / int(info.size):6.1%} of {info.filename}", end="", file=sys.stderr)
        if _sha256(partial) != info.checksum:
            raise UserError(f"{url} gave a file whose sha256 is not the one that TFDS records.{_ways(info, config)}")
        os.replace(partial, path)
    except requests.RequestException as error:
        answer = getattr(error, "response", None)
        reason = f"HTTP status {answer.status_code}" if answer is not None else f"{type(error).__name__}"
        where = urllib.parse.urlsplit(url).netloc
        raise network.Unreachable(f"{where} could not be reached for {url} ({reason}).{_ways(info, config)}") from None
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _open(url):
    """The opened response; raises requests.RequestException after CONNECT_SECONDS at the latest."""
    import requests

    try:
        return network.within(CONNECT_SECONDS, lambda: requests.get(url, stream=True, timeout=(CONNECT_SECONDS, 60)))
    except requests.RequestException:
        raise
    except Exception as error:
        raise requests.ConnectionError(error) from None


def _ways(info, config):
    return (
        " Local copies are taken from: --config.data.source=files --config.data.dir=DIR (GLUE's TSV files), "
        f"--config.data.manual_dir=DIR ({info.filename} and its like, as downloaded), or --config.data.dir=DIR "
        f"(a TFDS folder with glue/{config} prepared in array_record format)."
    )
