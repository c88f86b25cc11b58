"""One image (`Datum`) and a data set of them (`DatasetBase`)."""

import logging
import os
import random
from collections import defaultdict

logger = logging.getLogger(__name__)


class Datum:
    """An image file, its label, domain and class name. Read-only.

    The module's path and the attributes' names are part of the few-shot files (`shot_<n>-seed_<s>.pkl`) that
    the family's data sets keep: files written with the real Dassl load here, and the other way round.

    Raises:
        TypeError: `impath` is not a string.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, impath="", label=0, domain=0, classname=""):
        if not isinstance(impath, str):
            raise TypeError(f"the image's path must be a string, got {impath!r}")
        if not os.path.isfile(impath):
            raise FileNotFoundError(
                f'No image "{impath}" (label {label}, {classname}): check DATASET.ROOT and the download'
            )
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self):
        return self._impath

    @property
    def label(self):
        return self._label

    @property
    def domain(self):
        return self._domain

    @property
    def classname(self):
        return self._classname


class DatasetBase:
    """Lists of `Datum`: `train_x`, and optionally `train_u` (unlabelled), `val`, `test`.

    The labels run from 0; `num_classes`, `lab2cname` ({label: name}) and `classnames` (in order of labels)
    come from `train_x`. A subclass is registered in `DATASET_REGISTRY` and takes `cfg`.

    Raises:
        ValueError: `train_x` is empty.
    """

    dataset_dir = ""
    domains = []

    def __init__(self, train_x=None, train_u=None, val=None, test=None):
        if not train_x:
            raise ValueError(f"{type(self).__name__} has no training images, so no classes either")
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @property
    def train_x(self):
        return self._train_x

    @property
    def train_u(self):
        return self._train_u

    @property
    def val(self):
        return self._val

    @property
    def test(self):
        return self._test

    @property
    def lab2cname(self):
        return self._lab2cname

    @property
    def classnames(self):
        return self._classnames

    @property
    def num_classes(self):
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source):
        """The largest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source):
        """({label: class name}, [class names]), both in order of labels; a label's first name counts."""
        names = {}
        for item in data_source:
            if names.setdefault(item.label, item.classname) != item.classname:
                logger.warning('Label %d is called "%s" and "%s"', item.label, names[item.label], item.classname)
        names = dict(sorted(names.items()))
        return names, list(names.values())

    def check_input_domains(self, source_domains, target_domains):
        """Raise ValueError unless both lists name some of `self.domains` and nothing else."""
        for domains in (source_domains, target_domains):
            if not domains:
                raise ValueError("DATASET.SOURCE_DOMAINS and TARGET_DOMAINS must each name a domain")
            self.is_input_domain_valid(domains)

    def is_input_domain_valid(self, input_domains):
        """Raise ValueError unless every one of `input_domains` is in `self.domains`."""
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(f'"{domain}" is no domain of {type(self).__name__}: {self.domains}')

    def generate_fewshot_dataset(self, *data_sources, num_shots=-1, repeat=False):
        """Draw `num_shots` images a class with `random.sample`, classes in the order of their first image.

        Args:
            data_sources: lists of `Datum`.
            num_shots: below 1, the sources are returned as they are.
            repeat: fill up a class that has fewer images by repetition; else it keeps what it has.

        Returns:
            a list of `Datum`, or, for several sources, a list of such lists.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        logger.info("Creating a %d-shot dataset", num_shots)
        drawn = [
            [
                item
                for items in self.split_dataset_by_label(source).values()
                for item in self._draw(items, num_shots, repeat)
            ]
            for source in data_sources
        ]
        return drawn[0] if len(drawn) == 1 else drawn

    @staticmethod
    def _draw(items, num_shots, repeat):
        if len(items) >= num_shots:
            return random.sample(items, num_shots)
        return random.choices(items, k=num_shots) if repeat else items

    def split_dataset_by_label(self, data_source):
        """{label: its items}, labels in the order of their first item."""
        return self._group(data_source, lambda item: item.label)

    def split_dataset_by_domain(self, data_source):
        """{domain: its items}, domains in the order of their first item."""
        return self._group(data_source, lambda item: item.domain)

    @staticmethod
    def _group(data_source, key):
        groups = defaultdict(list)
        for item in data_source:
            groups[key(item)].append(item)
        return groups
