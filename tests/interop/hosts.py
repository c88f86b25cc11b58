"""Published hosts: how each is started in its checkout, and where its towers are."""

from dataclasses import dataclass, field

from random_weights import Spec

LAYERS, SHALLOW = 6, 4  # blocks of both towers; depth of the boosting prompt that is shallower
SMALL = Spec(vision_layers=LAYERS, text_layers=LAYERS, patch=32, grid=3)
LARGE = Spec(vision_layers=LAYERS, text_layers=LAYERS, patch=16, grid=14)  # RPO's masks are written for 14 x 14 patches
WIDE = Spec(vision_layers=LAYERS, text_layers=LAYERS, patch=32, grid=3, embed_dim=1024)  # CLIP-Adapter's adapter
TEACHER = Spec(vision_layers=2, text_layers=2, embed_dim=768, patch=32, grid=3)
CLIPS = {"small": SMALL, "large": LARGE, "wide": WIDE}
NAMES = ["abyssinian", "american_bulldog", "basset_hound", "beagle"]

TEXT = ("text_encoder", "text_encoder.transformer", "text_encoder.positional_embedding")
VISION = ("image_encoder", "image_encoder.transformer", "image_encoder.ln_pre")
NO_TEXT = ("", "", "")


@dataclass
class Published:
    """A published host.

    Attributes:
        checkout: its folder below CASPL_INTEROP.
        trainer: its registered name.
        config: its own configuration file.
        options: KEY VALUE pairs.
        flags: other arguments of train.py.
        vision, text: paths for `explicit.install`; text None: no text tower.
        rerun: towers whose tokens run through the host's own blocks (adapters).
        text_clip: the number of the loaded CLIP that computes the host's texts while it is built.
        dassl: its own Dassl, below CASPL_INTEROP.
        clip: which small CLIP.
        dataset: whose layout the pictures are read in.
        evaluation: further KEY VALUE pairs of an evaluation; {run} is the run's folder.
        base: a checkout to put this one's files into, where it is a file and no checkout.
    """

    checkout: str
    trainer: str
    config: str = ""
    options: dict = field(default_factory=dict)
    flags: tuple = ()
    vision: tuple | None = VISION
    text: tuple | None = TEXT
    rerun: tuple = ()
    text_clip: int | None = None
    dassl: str = "Dassl.pytorch"
    clip: str = "small"
    dataset: str = "oxford_pets"
    evaluation: dict = field(default_factory=dict)
    base: str = ""


def prec(node, **more):
    """Options of float32."""
    return {f"TRAINER.{node}.PREC": "fp32", **{key.replace("__", "."): value for key, value in more.items()}}


COOP = {"TRAINER.COOP.N_CTX": 4, "TRAINER.COOP.CSC": False, "TRAINER.COOP.CLASS_TOKEN_POSITION": "end"}
PUBLISHED = {
    "KgCoOp": Published(
        "KgCoOp/KgCoOp", "KgCoOp", "KgCoOp/vit_b16_ep100_ctxv1", prec("COOP"), dassl="KgCoOp/Dassl.ProGrad.pytorch"
    ),
    "ProGrad": Published(
        "Prompt-align/ProGrad.public",
        "ProGrad",
        "",
        {**prec("COOP"), **COOP, "LOSS.NAME": "prograd"},
        dassl="Prompt-align/Dassl.ProGrad.pytorch",
    ),
    "TCP": Published("Textual-based_Class-aware_prompt_tuning", "TCP", "TCP/vit_b16_ep100_ctxv1", prec("COOP")),
    "CoOp_ATP": Published(
        "ATPrompt",
        "CoOp_ATP",
        "",
        {**prec("COOP"), **COOP, "TRAINER.ATPROMPT.USE_ATPROMPT": True},
        dassl="ATPrompt/Dassl.pytorch",
    ),
    "MaPLe_ATP": Published(
        "ATPrompt",
        "MaPLe_ATP",
        "MaPLe/vit_b16_c2_ep5_batch4_2ctx",
        {**prec("MAPLE"), "TRAINER.ATPROMPT.USE_ATPROMPT": True},
        dassl="ATPrompt/Dassl.pytorch",
    ),
    "MPL": Published("Modular-Prompt-Learning", "MPL", "MPL/vit_b4_c1_add2_rm1", prec("MPL")),
    "LAMM": Published("mm-prompt-learning-LAMM", "MaPLe", "MaPLe/vit_b16_c2_ep5_batch4_2ctx", prec("MAPLE")),
    "LoCoOp": Published("LoCoOp", "LoCoOp", "LoCoOp/vit_b16_ep50", prec("LOCOOP"), ("--topk", "2")),
    "PLOT++": Published(
        "PLOT/plot-pp",
        "PLOTPP",
        "PLOTPP/vit",
        prec("PLOTPP"),
        ("--device", "cpu"),
        evaluation={"TRAINER.PLOTPP.PRETRAIN_DIR": "{run}/prompt_learner/model.pth.tar-50"},
    ),
    "CoPrompt": Published("CoPrompt", "CoPrompt", "coprompt", prec("CoPrompt")),
    "DePT": Published(
        "DePT",
        "ExtrasLinearProbeCoOp",
        "ExtrasLinearProbeCoOp/vit_b16_ep10_bs4_lr35",
        {**prec("COOP"), "DATASET.SUBSAMPLE_CLASSES": "base"},
    ),
    "BayesianPrompt": Published("Bayesian-Prompt-Learning", "VPT", "VPT/vit_b16_c4_ep10_batch1_ctxv1", prec("VPT")),
    "TaskRes": Published("TaskRes", "TaskRes", "TaskRes/generalization_vit32", prec("TaskRes"), text=None, text_clip=0),
    "CLAP": Published("CLAP", "ADAPTER", "SGD_lr1e-1_B256_ep300", prec("ADAPTER"), text=None, text_clip=0),
    "CLIP-Adapter": Published(
        "CLIP-Adapter",
        "CLIP_Adapter",
        base="CoOp",
        clip="wide",
        text=("text_encoder", "text_encoder.clip_model.transformer", "text_encoder.clip_model.positional_embedding"),
    ),
    "LASP": Published(
        "lasp", "LASP", "configs/LASP/vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b", prec("LASP"), dataset="caltech101"
    ),
    "RPO": Published(
        "RPO",
        "RPO",
        "RPO/main",
        prec("RPO"),
        vision=("img_transformer", "img_transformer", "img_pre_ln"),
        text=("text_transformers", "text_transformers", "text_pos_embedding"),
        clip="large",
    ),
    "HPT": Published("2024-AAAI-HPT", "HPT", "HPT/b2n", {**prec("HPT"), "DATASET.GPT_DIR": "data/gpt_data"}),
    "ProText": Published(
        "ProText",
        "ProText",
        "ProText/text_only_supervised/oxford_pets",
        prec("PROTEXT"),
        vision=(
            "prompt_learner.clip_model_zs.visual",
            "prompt_learner.clip_model_zs.visual.transformer",
            "prompt_learner.clip_model_zs.visual.ln_pre",
        ),
        dassl="ProText/Dassl.pytorch",
    ),
    "PromptKD": Published(
        "PromptKD",
        "PromptKD",
        "PromptKD/vit_b16_c2_ep20_batch8_4+4ctx",
        {**prec("PROMPTKD"), "TRAINER.PROMPTKD.TEACHER_NAME": "ViT-L/14"},
        text=None,
        dassl="PromptKD/Dassl.pytorch",
    ),
    "R-AMT": Published(
        "R-AMT/code",
        "MaskTuning",
        "MASK/vit_b16",
        prec("COCOOP"),
        text=None,
        text_clip=1,
        dassl="R-AMT/code/Dassl.pytorch",
    ),
    "MMRL": Published(
        "MMRL", "MMRL", "MMRL/vit_b16", {**prec("MMRL"), "TASK": "B2N", "TRAINER.MMRL.REP_LAYERS": "[3, 4, 5, 6]"}
    ),
    "TextRefiner": Published("TextRefiner", "TextRefiner", "TextRefiner/vit_b16_ep10_ctxv1", prec("COOP")),
    "CCPL": Published("CCPL", "CCPL", "", prec("CCPL")),
    "MMA": Published(
        "VLM-MultiModalAdapter",
        "MultiModalAdapter",
        "MultiModalAdapter/vit_b16_ep5",
        {**prec("MMADAPTER"), "TRAINER.MMADAPTER.ADAPTER_START": 3, "TRAINER.MMADAPTER.ADAPTER_END": 6},
        rerun=("vision", "text"),
    ),
    # Five more, and the hosts of MaPLe's and PromptSRC's repositories
    "AAPL": Published(
        "AAPL", "AAPL", "AAPL/vit_b16_c4_ep10_batch1_ctxv1", {**prec("AAPL"), "DATALOADER.TRAIN_X.BATCH_SIZE": 1}
    ),
    "ALVLM": Published(
        "active-prompt-learning", "ALVLM", "ALVLM/vit_b16", {**prec("COOP"), "TRAINER.COOPAL.METHOD": "random"}
    ),
    "SubPT": Published(
        "Subspace-Prompt-Learning/CoOp",
        "CoOp_nfl",
        "",
        {**prec("COOP"), **COOP, "CLASSNAMES_NFL": "novel.pth", "TEXT_FEATURES_NFL": "novel_features.pth"},
        dassl="Subspace-Prompt-Learning/Dassl.pytorch",
    ),
    "MMRL++": Published(
        "MMRL",
        "MMRLpp",
        "MMRLpp/vit_b16",
        {**prec("MMRLpp"), "TASK": "B2N", "TRAINER.MMRLpp.REP_LAYERS": "[3, 4, 5, 6]"},
    ),
    "CoOp_AnchorOPT": Published(
        "ATPrompt",
        "CoOp_AnchorOPT",
        "",
        {**prec("COOP"), **COOP, "TRAINER.ANCHOROPT.USE_ANCHOROPT": True, "DATASET.SUBSAMPLE_CLASSES": "base"},
        dassl="ATPrompt/Dassl.pytorch",
    ),
    "IVLP": Published("multimodal-prompt-learning", "IVLP", "IVLP/vit_b16_c2_ep5_batch4_2+2ctx", prec("IVLP")),
    "VPT": Published(
        "multimodal-prompt-learning", "VPT", "VPT/vit_b16_c2_ep5_batch4_4", prec("VPT"), text=None, text_clip=0
    ),
    "PromptSRC": Published("PromptSRC", "PromptSRC", "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx", prec("PROMPTSRC")),
}
