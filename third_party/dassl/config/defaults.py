"""Dassl 0.6.3's default configuration, key for key.

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
    "NUM_LABELED": -1,
    "NUM_SHOTS": -1,  # images a class; below 1: all
    "VAL_PERCENT": 0.1,
    "STL10_FOLD": -1,
    "CIFAR_C_TYPE": "",
    "CIFAR_C_LEVEL": 1,
    "ALL_AS_UNLABELED": False,
}

_LOADER = {"SAMPLER": "RandomSampler", "BATCH_SIZE": 32, "N_DOMAIN": 0, "N_INS": 16}

_DATALOADER = {
    "NUM_WORKERS": 4,
    "K_TRANSFORMS": 1,  # differently transformed copies of each training image
    "RETURN_IMG0": False,  # also give the image without augmentation
    "TRAIN_X": _LOADER,
    "TRAIN_U": {"SAME_AS_X": True, **_LOADER},
    "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
}

_MODEL = {
    "INIT_WEIGHTS": "",
    "BACKBONE": {"NAME": "", "PRETRAINED": True},
    "HEAD": {"NAME": "", "HIDDEN_LAYERS": (), "ACTIVATION": "relu", "BN": True, "DROPOUT": 0.0},
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
    "STAGED_LR": False,  # layers not in NEW_LAYERS train with LR * BASE_LR_MULT
    "NEW_LAYERS": (),
    "BASE_LR_MULT": 0.1,
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

# Nodes of trainers that the substitute does not have: configuration files may still name them.
_CONFIDENT = {"WEIGHT_U": 0.5, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()}
_TRAINER = {
    "NAME": "",
    "MCD": {"N_STEP_F": 4},
    "MME": {"LMDA": 0.1},
    "CDAC": {
        "CLASS_LR_MULTI": 10,
        "RAMPUP_COEF": 30,
        "RAMPUP_ITRS": 1000,
        "TOPK_MATCH": 5,
        "P_THRESH": 0.95,
        "STRONG_TRANSFORMS": (),
    },
    "SE": {"EMA_ALPHA": 0.999, "CONF_THRE": 0.95, "RAMPUP": 300},
    "M3SDA": {"LMDA": 0.5, "N_STEP_F": 4},
    "DAEL": _CONFIDENT,
    "CROSSGRAD": {"EPS_F": 1.0, "EPS_D": 1.0, "ALPHA_F": 0.5, "ALPHA_D": 0.5},
    "DDAIG": {
        "G_ARCH": "",
        "LMDA": 0.3,
        "CLAMP": False,
        "CLAMP_MIN": -1.0,
        "CLAMP_MAX": 1.0,
        "WARMUP": 0,
        "ALPHA": 0.5,
    },
    "DAELDG": _CONFIDENT,
    "DOMAINMIX": {"TYPE": "crossdomain", "ALPHA": 1.0, "BETA": 1.0},
    "ENTMIN": {"LMDA": 1e-3},
    "MEANTEACHER": {"WEIGHT_U": 1.0, "EMA_ALPHA": 0.999, "RAMPUP": 5},
    "MIXMATCH": {"WEIGHT_U": 100.0, "TEMP": 2.0, "MIXUP_BETA": 0.75, "RAMPUP": 20000},
    "FIXMATCH": {**_CONFIDENT, "WEIGHT_U": 1.0},
}

_DEFAULTS = {
    "VERSION": 1,
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
    "TRAIN": {"CHECKPOINT_FREQ": 0, "PRINT_FREQ": 10, "COUNT_ITER": "train_x"},
    "TEST": _TEST,
    "TRAINER": _TRAINER,
}


def get_cfg_default() -> CfgNode:
    """Return a new, unfrozen `CfgNode` with the defaults."""
    return CfgNode(_DEFAULTS)
