"""The order in which a data set's items are seen (`cfg.DATALOADER.*.SAMPLER`).

The domain and class samplers draw a whole epoch when they are built, to know its length, and again each
epoch, as Dassl's do: runs with one seed see the same items there and here.
"""

import random
from collections import defaultdict

import numpy as np
from torch.utils.data.sampler import RandomSampler, Sampler, SequentialSampler

from dassl.utils import check_availability


def _group_indices(data_source, key):
    groups = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[key(item)].append(index)
    return groups


class RandomDomainSampler(Sampler):
    """Batches of `n_domain` random domains, each with as many random images; ends when a domain runs short.

    Args:
        data_source: list of `Datum`.
        batch_size: a multiple of `n_domain`.
        n_domain: 0 or less (or None): all.

    Raises:
        ValueError: `batch_size` is not such a multiple, or a domain has too few images.
    """

    def __init__(self, data_source, batch_size, n_domain):
        self.data_source = data_source
        self.domain_dict = _group_indices(data_source, lambda item: item.domain)
        self.domains = list(self.domain_dict)
        self.batch_size = batch_size
        self.n_domain = n_domain if n_domain and n_domain > 0 else len(self.domains)
        if batch_size % self.n_domain:
            raise ValueError(f"batch size {batch_size} is not a multiple of the {self.n_domain} domains in it")
        self.n_img_per_domain = batch_size // self.n_domain
        for domain, indices in self.domain_dict.items():
            if len(indices) < self.n_img_per_domain:
                raise ValueError(
                    f"domain {domain} has {len(indices)} images, a batch needs {self.n_img_per_domain} of it"
                )
        self.length = len(list(iter(self)))

    def _next_domains(self):
        return random.sample(self.domains, self.n_domain)

    def __iter__(self):
        left = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        order, enough = [], True
        while enough:
            for domain in self._next_domains():
                chosen = random.sample(left[domain], self.n_img_per_domain)
                order += chosen
                taken = set(chosen)
                left[domain] = [index for index in left[domain] if index not in taken]
                enough = enough and len(left[domain]) >= self.n_img_per_domain
        return iter(order)

    def __len__(self):
        return self.length


class SeqDomainSampler(RandomDomainSampler):
    """Batches with every domain, in sorted order, each with as many random images."""

    def __init__(self, data_source, batch_size):
        super().__init__(data_source, batch_size, n_domain=0)

    def _next_domains(self):
        return sorted(self.domains)


class RandomClassSampler(Sampler):
    """Batches of `batch_size // n_ins` random classes with `n_ins` images each; ends when too few are left.

    A class with fewer than `n_ins` images repeats some.

    Raises:
        ValueError: `batch_size` is below `n_ins`, or there are fewer classes than a batch needs.
    """

    def __init__(self, data_source, batch_size, n_ins):
        if batch_size < n_ins:
            raise ValueError(f"batch size {batch_size} is below N_INS {n_ins}, the images of one class in it")
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic = _group_indices(data_source, lambda item: item.label)
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise ValueError(
                f"a batch of {batch_size} with {n_ins} images a class needs {self.ncls_per_batch} classes, "
                f"the data set has {len(self.labels)}"
            )
        self.length = len(list(iter(self)))

    def _chunks(self, indices):
        """The shuffled indices of one class in lists of `n_ins`; what is left over is not used."""
        if len(indices) < self.n_ins:
            indices = np.random.choice(indices, size=self.n_ins, replace=True)
        indices = [int(index) for index in indices]
        random.shuffle(indices)
        return [indices[i : i + self.n_ins] for i in range(0, len(indices) - self.n_ins + 1, self.n_ins)]

    def __iter__(self):
        chunks = {label: self._chunks(self.index_dic[label]) for label in self.labels}
        labels, order = list(self.labels), []
        while len(labels) >= self.ncls_per_batch:
            for label in random.sample(labels, self.ncls_per_batch):
                order += chunks[label].pop(0)
                if not chunks[label]:
                    labels.remove(label)
        return iter(order)

    def __len__(self):
        return self.length


def build_sampler(sampler_type, cfg=None, data_source=None, batch_size=32, n_domain=0, n_ins=16):
    """The sampler called `sampler_type`.

    Raises:
        ValueError: no such sampler.
    """
    samplers = {
        "RandomSampler": lambda: RandomSampler(data_source),
        "SequentialSampler": lambda: SequentialSampler(data_source),
        "RandomDomainSampler": lambda: RandomDomainSampler(data_source, batch_size, n_domain),
        "SeqDomainSampler": lambda: SeqDomainSampler(data_source, batch_size),
        "RandomClassSampler": lambda: RandomClassSampler(data_source, batch_size, n_ins),
    }
    check_availability(sampler_type, list(samplers))
    return samplers[sampler_type]()
