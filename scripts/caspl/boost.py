"""Phase 1 alone: train the boosting prompt of a dataset, once, for all seeds and hosts."""

import argparse

from runs import Setting, add_arguments, as_program, boost, dataset_name


def main() -> None:
    """Command line: boost.py <dataset> [--data DIR] [--output DIR] [KEY VALUE ...]"""
    parser = argparse.ArgumentParser(prog="boost.sh", description=__doc__)
    parser.add_argument("dataset", type=dataset_name)
    add_arguments(parser)
    args = parser.parse_intermixed_args()
    print(boost(Setting(args.dataset, args.data, args.output), args.opts))


if __name__ == "__main__":
    as_program(main)
