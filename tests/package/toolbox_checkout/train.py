"""The entry of a small toolbox of CoOp's kind, before a user adds the two lines of CasPL."""

import argparse

import datasets.oxford_pets
import trainers.coop
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger
from yacs.config import CfgNode

REGISTERED = (datasets.oxford_pets, trainers.coop)


def extend_cfg(cfg):
    cfg.TRAINER.COOP = CfgNode({"N_CTX": 4, "PREC": "fp32"})
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"


def setup_cfg(args):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for file in (args.dataset_config_file, args.config_file):
        cfg.merge_from_file(file)
    cfg.DATASET.ROOT, cfg.OUTPUT_DIR, cfg.SEED, cfg.TRAINER.NAME = args.root, args.output_dir, args.seed, args.trainer
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    return cfg


def main():
    parser = argparse.ArgumentParser()
    for option in ("--root", "--output-dir", "--dataset-config-file", "--config-file", "--trainer", "--model-dir"):
        parser.add_argument(option, default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load-epoch", type=int)
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    cfg = setup_cfg(args)
    set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR)
    trainer = build_trainer(cfg)
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    else:
        trainer.train()


if __name__ == "__main__":
    main()
