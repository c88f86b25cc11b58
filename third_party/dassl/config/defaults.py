"""Dassl 0.6.3's default configuration, without keys of components that are not included.

Some values are tuples and others lists, as in Dassl; yacs converts between the two when a value is merged.
"""

from yacs.config import CfgNode

_INPUT = {
    "SIZE": (224, 224),  # height, width
    "INTERPOLATION": "bilinear",
    "TRANSFORMS": (),  # names from dassl.data.transforms.AVAI_CHOICES
    "NO_TRANSFORM": False,
    "PIXEL_MEAN": [0.485, 0.456, 0.406],
    "PIXEL_STD": [0.229, 0.224, 0.225],
    "CROP_PADDING": 4,  # pixels, of random_crop
    "RRCROP_SCALE": (0.08, 1.0),  # area of random_resized_crop, as a fraction
    "CUTOUT_N": 1,
    "CUTOUT_LEN": 16,
    "GN_MEAN": 0.0,  # gaussian_noise
    "GN_STD": 0.15,
    "RANDAUGMENT_N": 2,
    "RANDAUGMENT_M": 10,
    "COLORJITTER_B": 0.4,
    "COLORJITTER_C": 0.4,
    "COLORJITTER_S": 0.4,
    "COLORJITTER_H": 0.1,
    "RGS_P": 0.2,  # probability of randomgrayscale
    "GB_P": 0.5,  # probability of gaussian_blur
    "GB_K": 21,  # its kernel, pixels, odd
}

_DATASET = {
    "ROOT": "",
    "NAME": "",
    "SOURCE_DOMAINS": (),
    "TARGET_DOMAINS": (),
    "NUM_SHOTS": -1,  # images per class; below 1: all
}

_DATALOADER = {
    "NUM_WORKERS": 4,
    "TRAIN_X": {"SAMPLER": "RandomSampler", "BATCH_SIZE": 32},
    "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
}

_MODEL = {
    "INIT_WEIGHTS": "",
    "BACKBONE": {"NAME": ""},
    "HEAD": {"NAME": ""},
}

_OPTIM = {
    "NAME": "adam",
    "LR": 0.0003,
    "WEIGHT_DECAY": 5e-4,
    "MOMENTUM": 0.9,
    "SGD_DAMPNING": 0,
    "SGD_NESTEROV": False,
    "RMSPROP_ALPHA": 0.99,
    "ADAM_BETA1": 0.9,
    "ADAM_BETA2": 0.999,
    "LR_SCHEDULER": "single_step",
    "STEPSIZE": (-1,),  # epochs; below 1: MAX_EPOCH
    "GAMMA": 0.1,
    "MAX_EPOCH": 10,
    "WARMUP_EPOCH": -1,
    "WARMUP_TYPE": "linear",
    "WARMUP_CONS_LR": 1e-5,
    "WARMUP_MIN_LR": 1e-5,
    "WARMUP_RECOUNT": True,  # the schedule after the warm-up starts at its own epoch 0
}

_TEST = {
    "EVALUATOR": "Classification",
    "PER_CLASS_RESULT": False,
    "COMPUTE_CMAT": False,  # save the confusion matrix as cmat.pt in OUTPUT_DIR
    "NO_TEST": False,
    "SPLIT": "test",
    "FINAL_MODEL": "last_step",  # or best_val
}

_DEFAULTS = {
    "OUTPUT_DIR": "./output",
    "RESUME": "",
    "SEED": -1,  # negative: not fixed
    "USE_CUDA": True,
    "VERBOSE": True,
    "INPUT": _INPUT,
    "DATASET": _DATASET,
    "DATALOADER": _DATALOADER,
    "MODEL": _MODEL,
    "OPTIM": _OPTIM,
    "TRAIN": {"CHECKPOINT_FREQ": 0, "PRINT_FREQ": 10},
    "TEST": _TEST,
    "TRAINER": {"NAME": ""},
}


def get_cfg_default() -> CfgNode:
    """Return a new, unfrozen `CfgNode` with the defaults."""
    return CfgNode(_DEFAULTS)
