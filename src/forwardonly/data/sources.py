"""The data sets known by name: their files, origin, checksums and terms, and their folder on this machine."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from forwardonly.data.augment import Augment
from forwardonly.data.reading import GIB, UnreadableError, reading
from forwardonly.names import nearest

NO_AUGMENTATION = Augment()


@dataclass(frozen=True)
class File:
    """A file by its path in the data folder, its published MD5, and that of its decompressed content (`plain`)."""

    path: str
    md5: str
    size: int = 0
    plain: str = ""


@dataclass(frozen=True)
class Source:
    """A known set: its content, its files (in torchvision's layout), its origin and its terms."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    terms: str
    page: str
    files: tuple[File, ...] = ()
    archive: File | None = None  # holds `files` under their own paths, or (Tiny ImageNet) is read as it is
    url: str = ""  # folder of the archive if there is one, else of the files, by their last name
    augment: Augment = NO_AUGMENTATION  # augmentation that keeps the class of these images


class Description(TypedDict):
    """One row of `forwardonly data list`; `found` is the folder of the whole set, or None, and `incomplete` says how
    much there is of a set of which something is missing.
    """

    name: str
    images: tuple[int, int, int]
    classes: int
    train: int
    test: int
    download_bytes: int
    found: str | None
    incomplete: str | None
    terms: str
    page: str


Status = Literal["ok", "missing", "damaged", "incomplete", "unchecked"]
BAD = ("missing", "damaged", "incomplete")


class Check(TypedDict):
    """One row of `forwardonly data verify`; `note` says more, where there is more to say."""

    file: str
    path: str
    status: Status
    note: str


def _idx_files(folder: str, *sums: tuple[str, int, str]) -> tuple[File, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(
        File(f"{folder}/raw/{name}-ubyte.gz", md5, size, plain)
        for name, (md5, size, plain) in zip(names, sums, strict=True)
    )


SOURCES = {
    "digits": Source(
        shape=(1, 8, 8),
        classes=10,
        train=1438,
        test=359,
        terms="CC BY 4.0; comes with scikit-learn",
        page="https://archive.ics.uci.edu/dataset/80",
    ),
    "mnist": Source(
        shape=(1, 28, 28),
        classes=10,
        train=60_000,
        test=10_000,
        augment=Augment(crop=1),
        terms="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
        page="https://ossci-datasets.s3.amazonaws.com/mnist/",
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files=_idx_files(
            "MNIST",
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422, "6bbc9ace898e44ae57da46a324031adb"),
            ("d53e105ee54ea40749a09fcbcd1e9432", 28_881, "a25bea736e30d166cdddb491f175f624"),
            ("9fb629c4189551a2d022fa330f9573f3", 1_648_877, "2646ac647ad5339dbf082846283269ea"),
            ("ec29112dd5afa0611ce80d1b7f02629c", 4_542, "27ae3e4e09519cfbb04c329615203637"),
        ),
    ),
    "fashion-mnist": Source(
        shape=(1, 28, 28),
        classes=10,
        train=60_000,
        test=10_000,
        terms="MIT, Zalando SE",
        page="https://github.com/zalandoresearch/fashion-mnist",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files=_idx_files(
            "FashionMNIST",
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            ("25c81989df183df01b3e8a0aad5dffbe", 29_515, "9018921c3c673c538a1fc5bad174d6f9"),
            ("bef4ecab320f06d8554ea6380940ec79", 4_422_102, "8181f5470baa50b63fa0f6fddb340f0a"),
            ("bb300cfdad3c16e7a12a480ee83cd310", 5_148, "15d484375f8d13e6eb1aabb0c3f46965"),
        ),
    ),
    "cifar-10": Source(
        shape=(3, 32, 32),
        classes=10,
        train=50_000,
        test=10_000,
        augment=Augment(crop=4, flip="alternating"),
        terms="no licence stated, cite Krizhevsky 2009",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        url="https://www.cs.toronto.edu/~kriz/",
        archive=File("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071),
        files=(
            File("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
            File("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            File("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            File("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
            File("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            File("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e"),
            File("cifar-10-batches-py/batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        ),
    ),
    "cifar-100": Source(
        shape=(3, 32, 32),
        classes=100,
        train=50_000,
        test=10_000,
        augment=Augment(crop=4, flip="alternating"),
        terms="no licence stated, cite Krizhevsky 2009",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        url="https://www.cs.toronto.edu/~kriz/",
        archive=File("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
        files=(
            File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d"),
            File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            File("cifar-100-python/meta", "7973b15100ade9c7d40fb424638fde48"),
        ),
    ),
    "tiny-imagenet": Source(
        shape=(3, 64, 64),
        classes=200,
        train=100_000,
        test=10_000,
        augment=Augment(crop=4, flip="alternating"),
        terms="ImageNet's: research and education, not commerce",
        page="http://cs231n.stanford.edu/",
        url="http://cs231n.stanford.edu/",
        archive=File("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", 248_100_043),
    ),
}
NAMES = tuple(SOURCES)
TINY = "tiny-imagenet-200"
NAMED_BY_NUMBER = "classes are named by their numbers in WordNet"


def source(name: str) -> Source:
    """The known set `name`; ValueError with a suggestion if there is none."""
    if name not in SOURCES:
        raise ValueError(f"there is no data set, folder or .npz file {name!r}: {nearest(name, NAMES)}")
    return SOURCES[name]


def augmentation(name: str) -> Augment:
    """The augmentation that suits a known set; none for other images."""
    return SOURCES[name].augment if name in SOURCES else NO_AUGMENTATION


def folders(data_dir: Path | str | None) -> list[Path]:
    """The folders in which sets are searched: `data_dir` if given, else $FORWARDONLY_DATA, then the user's cache."""
    if data_dir is not None:
        return [Path(data_dir).expanduser()]
    import pooch

    cache = Path(pooch.os_cache("forwardonly"))
    named = os.environ.get("FORWARDONLY_DATA")
    return [Path(named).expanduser(), cache] if named else [cache]


def locate(root: Path, file: File) -> Path | None:
    """The file under `root`, compressed as published or decompressed; None if it does not exist.

    MNIST's files are also found as Kaggle names them, `train-images.idx3-ubyte`.
    """
    names = (file.path, file.path.removesuffix(".gz"))
    for path in (root / name for name in (*names, *(name.replace("-idx", ".idx") for name in names))):
        if os.path.isfile(path):  # unlike Path's, False also for a folder we may not enter
            return path
    return None


def find(name: str, data_dir: Path | str | None = None) -> Path | None:
    """The first of `folders` that holds the whole set (or an archive of it), None if none does."""
    known = source(name)
    for root in folders(data_dir):
        if name == "tiny-imagenet" and os.path.isdir(root / TINY):  # it is read, with or without the archive
            if _lacking(root) is None:
                return root
            continue
        if known.archive is not None and locate(root, known.archive):
            return root
        if known.files and all(locate(root, file) for file in known.files):
            return root
    return None


def incomplete(name: str, data_dir: Path | str | None = None) -> tuple[Path, str] | None:
    """The first of `folders` that holds a part of a set, and how much: "1,000 of 100,000 training images"."""
    known = source(name)
    for root in folders(data_dir):
        if name == "tiny-imagenet" and os.path.isdir(root / TINY):
            if (words := _lacking(root)) is not None:
                return root, words
            continue
        here = sum(locate(root, file) is not None for file in known.files)
        if 0 < here < len(known.files) and not (known.archive and locate(root, known.archive)):
            return root, f"{here} of {len(known.files)} files"
    return None


def _lacking(root: Path) -> str | None:
    """How much of Tiny ImageNet its folder in `root` holds; None if it is all there. Files are counted, not opened."""
    known, folder = source("tiny-imagenet"), root / TINY
    counts = {"training": 0, "test": _jpegs(folder / "val" / "images")}
    if os.path.isdir(folder / "train"):
        with os.scandir(folder / "train") as classes:
            counts["training"] = sum(_jpegs(Path(each.path) / "images") for each in classes)
    for part, wanted in (("training", known.train), ("test", known.test)):
        if counts[part] < wanted:
            return f"{counts[part]:,} of {wanted:,} {part} images"
    for text in ("wnids.txt", "val/val_annotations.txt"):
        if not os.path.isfile(folder / text):
            return f"all images but no {text}"
    return None


def has_words(root: Path) -> bool:
    """Whether Tiny ImageNet's folder in `root` has the names of its classes, without which it can be read too."""
    return os.path.isfile(root / TINY / "words.txt")


def _jpegs(folder: Path) -> int:
    """Number of JPEG files in a folder; 0 if there is no such folder."""
    try:
        with os.scandir(folder) as files:
            return sum(file.name.endswith(".JPEG") for file in files)
    except OSError:
        return 0


def describe(name: str, data_dir: Path | str | None = None) -> Description:
    """The description of a set, and whether it is on this machine; ready for JSON."""
    known = source(name)
    root = find(name, data_dir)
    part = None if root or name == "digits" else incomplete(name, data_dir)
    download = sum(file.size for file in ((known.archive,) if known.archive else known.files))
    return Description(
        name=name,
        images=known.shape,
        classes=known.classes,
        train=known.train,
        test=known.test,
        download_bytes=download,
        found="scikit-learn" if name == "digits" else str(root) if root else None,
        incomplete=part[1] if part else None,
        terms=known.terms,
        page=known.page,
    )


def table(data_dir: Path | str | None = None) -> list[Description]:
    """`describe` of every known set."""
    return [describe(name, data_dir) for name in NAMES]


def md5(path: Path) -> str:
    """The MD5 of a file's bytes, read in pieces."""
    with reading(path, "a readable file"), path.open("rb") as stream:
        return hashlib.file_digest(stream, _md5).hexdigest()


def verify(name: str, data_dir: Path | str | None = None) -> list[Check]:
    """Each file of a set checked against its published MD5; empty for `digits`, which has no files of its own.

    An archive that is not the published one, but whose members are, is `ok`, with a note: sets are read from members.
    `unchecked` are members without published checksums, of which all are there, and `incomplete` is a set of which some
    are not.
    """
    known, part = source(name), None
    root = find(name, data_dir)
    if root is None and name != "digits":
        part = incomplete(name, data_dir)
    root = root or (part[0] if part else folders(data_dir)[0])
    if name == "tiny-imagenet" and (root / TINY).is_dir():
        tiny = str(root / TINY)
        if part is not None:
            return [Check(file=TINY, path=tiny, status="incomplete", note=part[1])]
        words = "" if has_words(root) else f" but no words.txt, so {NAMED_BY_NUMBER}"
        return [Check(file=TINY, path=tiny, status="unchecked", note=f"all images are there{words}")]
    if known.archive is not None and not any(locate(root, file) for file in known.files):
        return [_check_archive(known, root)]
    checks = []
    for file in known.files:
        path = locate(root, file)
        expected = file.plain if path and path.suffix != ".gz" and file.plain else file.md5
        status: Status = "missing"
        if path is not None:
            status = "ok" if md5(path) == expected else "damaged"
        checks.append(Check(file=file.path, path=str(path or root / file.path), status=status, note=""))
    return checks


def _check_archive(known: Source, root: Path) -> Check:
    """The verdict on an archive by its own checksum, else by its members."""
    file, found = known.archive, None if known.archive is None else locate(root, known.archive)
    assert file is not None
    status: Status
    if found is None:
        status, note = "missing", ""
    elif md5(found) == file.md5:
        status, note = "ok", ""
    else:
        try:
            wrong = _wrong_in_tar(known, found) if known.files else _wrong_in_zip(known, found)
        except ValueError as error:  # it cannot be read as an archive
            wrong = str(error).removeprefix(f"{found}: ")
        status = "damaged" if wrong else "ok" if known.files else "unchecked"
        note = wrong or "not the published archive, but its members are " + ("right" if known.files else "all there")
    return Check(file=file.path, path=str(found or root / file.path), status=status, note=note)


def _wrong_in_tar(known: Source, path: Path) -> str:
    """What is wrong with the members that a set is read from; empty if they are the published files."""
    wanted = {file.path: file.md5 for file in known.files}
    with reading(path, "a .tar.gz archive"), tarfile.open(path, "r:gz") as opened:
        for member in opened:
            name = member.name.removeprefix("./")
            if member.size > GIB:
                raise UnreadableError(f"{path}: {member.name[:80]!r} in it is larger than 1 GiB, refused")
            stream: Any = opened.extractfile(member) if name in wanted and member.isreg() else None
            if stream is not None and hashlib.file_digest(stream, _md5).hexdigest() != wanted.pop(name):
                return f"{name} in it is not the published file"
    return f"it has no {next(iter(wanted))} in it" if wanted else ""


def _wrong_in_zip(known: Source, path: Path) -> str:
    """What is wrong with a Tiny ImageNet that was packed again: images that are missing, or not as their CRC says."""
    with reading(path, "a zip archive"), zipfile.ZipFile(path) as opened:
        names = [name for name in opened.namelist() if name.endswith(".JPEG")]
        for part, begins, wanted in (("training", "train", known.train), ("test", "val/images", known.test)):
            if (count := sum(name.startswith(f"{TINY}/{begins}/") for name in names)) < wanted:
                return f"{count:,} of {wanted:,} {part} images"
        damaged = opened.testzip()
    return f"{damaged} in it is damaged" if damaged else ""


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)
